#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::check_gradients;
using test::expect_close;
using test::random_tensor;
using test::run_op;

constexpr const char* type = "SoftmaxCrossEntropy";

Tensor labels(const Dims& dims, int64_t classes, int64_t ignored = -100) {
  Tensor t(DType::i64, dims);
  for (int64_t i = 0; i < t.count(); ++i) t.data<int64_t>()[i] = i % 5 == 3 ? ignored : (i * 7 + 2) % classes;
  return t;
}

// Plain spelling of PyTorch's definition; logits as (outer, classes, inner).
std::pair<double, double> reference(const Tensor& logits, const Tensor& target, const Tensor& weights, int64_t outer,
                                    int64_t classes, int64_t inner, double smoothing, int64_t ignored) {
  double loss = 0, weight = 0;
  const double* z = logits.data<double>();
  for (int64_t s = 0; s < outer * inner; ++s) {
    int64_t label = target.data<int64_t>()[s];
    if (label == ignored) continue;
    const double* row = z + s / inner * classes * inner + s % inner;
    double sum = 0;
    for (int64_t c = 0; c < classes; ++c) sum += std::exp(row[c * inner]);
    auto w = [&](int64_t c) { return weights.defined() ? weights.data<double>()[c] : 1.0; };
    auto nll = [&](int64_t c) { return -w(c) * std::log(std::exp(row[c * inner]) / sum); };
    loss += (1 - smoothing) * nll(label);
    for (int64_t c = 0; c < classes; ++c) loss += smoothing / static_cast<double>(classes) * nll(c);
    weight += w(label);
  }
  return {loss, weight};
}

struct Case {
  Dims dims;
  int64_t axis;
  bool weighted;
  double smoothing;
};

class SoftmaxCrossEntropy : public ::testing::TestWithParam<Case> {};

TEST_P(SoftmaxCrossEntropy, FollowsPyTorch) {
  const Case& c = GetParam();
  auto axis = static_cast<size_t>(c.axis < 0 ? c.axis + static_cast<int64_t>(c.dims.size()) : c.axis);
  int64_t outer = 1, inner = 1, classes = c.dims[axis];
  for (size_t d = 0; d < c.dims.size(); ++d) (d < axis ? outer : inner) *= d == axis ? 1 : c.dims[d];
  Dims label_dims = c.dims;
  label_dims.erase(label_dims.begin() + static_cast<std::ptrdiff_t>(axis));
  constexpr int64_t ignored = 255;
  Tensor logits = random_tensor(DType::f64, c.dims, 1, -4, 4);
  Tensor target = labels(label_dims, classes, ignored);
  Tensor weights = c.weighted ? random_tensor(DType::f64, {classes}, 2, 0.5, 2) : Tensor{};
  Attributes attributes{{"axis", c.axis}, {"ignore_index", ignored}, {"label_smoothing", c.smoothing}};
  auto [loss, weight] = reference(logits, target, weights, outer, classes, inner, c.smoothing, ignored);
  auto got = run_op("graft", type, {logits, target, weights}, 2, attributes);
  expect_close(got[0], Tensor::scalar(loss), 1e-12);
  expect_close(got[1], Tensor::scalar(weight), 1e-12);
  Tensor narrow_weights = c.weighted ? weights.cast(DType::f32) : Tensor{};
  auto narrow =
      run_op("graft", type, {logits.cast(DType::f32), target.cast(DType::i32), narrow_weights}, 2, attributes);
  expect_close(narrow[0].cast(DType::f64), Tensor::scalar(loss), 1e-5);
  check_gradients("graft", type, {logits, target, weights}, 2, attributes, {0}, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SoftmaxCrossEntropy,
                         ::testing::Values(Case{{7, 10}, 1, false, 0}, Case{{7, 37}, 1, true, 0},
                                           Case{{6, 19}, 1, false, 0.1}, Case{{5, 35}, -1, true, 0.2},
                                           Case{{2, 3, 4, 5}, 1, true, 0.1}, Case{{1, 2, 20, 14}, 1, false, 0},
                                           Case{{2, 5, 11}, -1, true, 0.3}, Case{{4, 1}, 1, false, 0},
                                           Case{{3, 9}, 0, true, 0.1}));

TEST(SoftmaxCrossEntropyLabels, Probabilities) {
  for (const Dims& dims : {Dims{5, 7}, Dims{2, 4, 3}}) {
    Tensor logits = random_tensor(DType::f64, dims, 1, -2, 2);
    Tensor target = random_tensor(DType::f64, dims, 3, 0, 1);
    Tensor weights = random_tensor(DType::f64, {dims[1]}, 2, 0.5, 2);
    auto got = run_op("graft", type, {logits, target, weights}, 2, {{"label_smoothing", 0.1}});
    int64_t inner = dims.size() == 3 ? dims[2] : 1;
    double loss = 0;
    for (int64_t s = 0; s < dims[0] * inner; ++s) {
      int64_t at = s / inner * dims[1] * inner + s % inner;
      double sum = 0;
      for (int64_t c = 0; c < dims[1]; ++c) sum += std::exp(logits.data<double>()[at + c * inner]);
      for (int64_t c = 0; c < dims[1]; ++c) {
        double t = target.data<double>()[at + c * inner] * 0.9 + 0.1 / static_cast<double>(dims[1]);
        loss -= weights.data<double>()[c] * t * (logits.data<double>()[at + c * inner] - std::log(sum));
      }
    }
    expect_close(got[0], Tensor::scalar(loss), 1e-12);
    expect_close(got[1], Tensor::scalar(static_cast<double>(dims[0] * inner)), 0);
    check_gradients("graft", type, {logits, target, weights}, 2, {{"label_smoothing", 0.1}}, {0}, 1e-5);
  }
}

TEST(SoftmaxCrossEntropyLabels, OutOfRangeNamesSampleLabelAndRange) {
  Tensor logits(DType::f32, {4, 10, 3});
  Tensor target(DType::i64, {4, 3});
  target.data<int64_t>()[7] = 10;
  try {
    run_op("graft", type, {logits, target}, 2);
    FAIL() << "no error";
  } catch (const DataError& error) {
    std::string text = error.what();
    EXPECT_NE(text.find("sample 2 position 1: label 10 is out of range: allowed 0 to 9"), std::string::npos) << text;
  }
  target.data<int64_t>()[7] = -1;
  EXPECT_THROW(run_op("graft", type, {logits, target}, 2), DataError);
  EXPECT_NO_THROW(run_op("graft", type, {logits, target}, 2, {{"ignore_index", int64_t{-1}}}));
}

TEST(SoftmaxCrossEntropyLabels, AllIgnoredOrNone) {
  Tensor logits = random_tensor(DType::f32, {3, 4}, 1);
  Tensor target = Tensor::of<int64_t>({3}, {-100, -100, -100});
  auto got = run_op("graft", type, {logits, target}, 2);
  EXPECT_EQ(got[0].data<float>()[0], 0);
  EXPECT_EQ(got[1].data<float>()[0], 0);
  auto none = run_op("graft", type, {Tensor(DType::f32, {0, 4}), Tensor(DType::i64, {0})}, 2);
  EXPECT_EQ(none[0].data<float>()[0], 0);
}

TEST(SoftmaxCrossEntropyLabels, LargeAndMaskedLogits) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> z(40, -infinity);
  z[3] = 1000;
  z[17] = 1001;
  auto got = run_op("graft", type, {Tensor::of<float>({2, 20}, z).reshaped({1, 40}), Tensor::of<int64_t>({1}, {3})}, 2);
  EXPECT_NEAR(got[0].data<float>()[0], std::log1p(std::exp(1.0)), 1e-4);
}

TEST(SoftmaxCrossEntropyLabels, WrongShapesAreRefused) {
  Tensor logits(DType::f32, {4, 10});
  EXPECT_THROW(run_op("graft", type, {logits, Tensor(DType::i64, {4, 1})}, 2), ModelError);
  EXPECT_THROW(run_op("graft", type, {logits, Tensor(DType::i64, {4}), Tensor(DType::f32, {9})}, 2), ModelError);
  EXPECT_THROW(run_op("graft", type, {logits, Tensor(DType::i64, {4})}, 2, {{"axis", int64_t{2}}}), ModelError);
}

}  // namespace
}  // namespace graft
