// Products that finish their result: the same bits as by the operators behind them.
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "ops/op.h"
#include "tests/support/run_op.h"
#include "tests/support/thread_count.h"

namespace graft::test {
namespace {

struct Case {
  Dims a, b;
  bool transposed_a = false, transposed_b = false;
};

// Tiles of all kinds and parts of them; a few rows along vectors of k; operands that change places; several blocks of
// each axis; batches that threads share out and such that they cut.
const std::vector<Case> cases = {
    {{61, 37}, {37, 45}},
    {{61, 37}, {37, 64}},
    {{37, 61}, {64, 37}, true, true},
    {{256, 50}, {96, 50}, false, true},
    {{3, 70}, {90, 70}, false, true},
    {{1, 70}, {90, 70}, false, true},
    {{7, 70}, {90, 70}, false, true},
    {{29, 70}, {400, 70}, false, true},
    {{5, 70}, {70, 1}},
    {{130, 790}, {790, 1043}},
    {{2, 13, 20}, {20, 40}},
    {{2, 13, 20}, {2, 20, 40}},
    {{3, 50, 20}, {3, 20, 40}},
    {{2, 2, 30, 20}, {2, 1, 20, 33}},
};

std::vector<Tensor> product(const Case& c, const Tensor& a, const Tensor& b, const Tensor& bias, const char* behind,
                            const Tensor& beside, size_t results) {
  Attributes attributes{{"transA", int64_t{c.transposed_a}}, {"transB", int64_t{c.transposed_b}}};
  std::vector<Tensor> inputs{a, b, bias};
  if (behind) attributes["behind"] = std::string(behind);
  if (beside.defined()) inputs.push_back(beside);
  return run_op("graft", "MatMul", inputs, results, attributes);
}

Tensor apart(const std::string& behind, const Tensor& y, const Tensor& beside) {
  if (behind == "Relu") return run_op("", "Relu", {y}, 1)[0];
  if (behind == "Add") return run_op("", "Add", {y, beside}, 1)[0];
  return run_op("graft", "ReluGrad", {y, beside}, 1)[0];
}

void expect_same_bits(const Tensor& got, const Tensor& want, const std::string& where) {
  ASSERT_EQ(got.dims(), want.dims()) << where;
  EXPECT_EQ(std::memcmp(got.raw(), want.raw(), static_cast<size_t>(want.bytes())), 0) << where;
}

Tensor sum_of_rows(const Tensor& y) {
  Dims dims(y.dims().size(), 1);
  dims.back() = y.dims().back();
  Tensor sum(DType::f32, dims);
  for (int64_t j = 0; j < dims.back(); ++j) {
    double total = 0;
    for (int64_t i = j; i < y.count(); i += dims.back()) total += y.data<float>()[i];
    sum.data<float>()[j] = static_cast<float>(total);
  }
  return sum;
}

void check(const Case& c) {
  Tensor a = random_tensor(DType::f32, c.a, 1), b = random_tensor(DType::f32, c.b, 2);
  const Tensor bias = random_tensor(DType::f32, {c.transposed_b ? c.b[c.b.size() - 2] : c.b.back()}, 3);
  a.data<float>()[c.a.back() / 2] = std::numeric_limits<float>::quiet_NaN();
  for (bool has_bias : {false, true}) {
    const Tensor vector = has_bias ? bias : Tensor();
    const Tensor y = product(c, a, b, vector, nullptr, {}, 1)[0];
    const Tensor beside = random_tensor(DType::f32, y.dims(), 4);
    for (const char* behind : {"Relu", "Add", "ReluGrad"}) {
      const Tensor operand = behind == std::string("Relu") ? Tensor() : beside;
      const Tensor want = apart(behind, y, beside);
      const std::string where = cat(behind, " of ", c.a, " by ", c.b, has_bias ? " with a vector" : "");
      expect_same_bits(product(c, a, b, vector, behind, operand, 1)[0], want, where);
      Tensor sum;
      for (int threads : {1, 2, 3, 4}) {
        ThreadCount some(threads);
        auto got = product(c, a, b, vector, behind, operand, 2);
        expect_same_bits(got[0], want, where);
        if (!sum.defined()) sum = got[1];
        expect_same_bits(got[1], sum, cat("sum of ", where, ", ", threads, " threads"));
      }
      const Tensor expected = sum_of_rows(want);
      ASSERT_EQ(sum.dims(), expected.dims());
      for (int64_t j = 0; j < sum.count(); ++j) {
        const float got = sum.data<float>()[j], wanted = expected.data<float>()[j];
        if (std::isnan(wanted)) EXPECT_TRUE(std::isnan(got)) << where;
        else EXPECT_NEAR(got, wanted, 1e-4 * std::max(1.0F, std::fabs(wanted))) << where;
      }
    }
  }
}

TEST(ProductBehind, HasTheBitsOfTheOperatorsBehindIt) {
  for (const Case& c : cases) check(c);
}

TEST(ProductBehind, OnTheBaseline) {
  hwy::SetSupportedTargetsForTest(HWY_STATIC_TARGET);
  for (size_t i = 0; i < 8; ++i) check(cases[i]);
  hwy::SetSupportedTargetsForTest(0);
}

TEST(ProductBehind, NanStaysThroughRelu) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor a = Tensor::of<float>({3, 1}, {nan, -1, 1}), b = Tensor::of<float>({1, 2}, {1, 2});
  auto y = product({}, a, b, {}, "Relu", {}, 2);
  EXPECT_TRUE(std::isnan(y[0].data<float>()[0]) && std::isnan(y[0].data<float>()[1]));
  EXPECT_EQ(y[0].data<float>()[2], 0);
  EXPECT_EQ(y[0].data<float>()[5], 2);
  EXPECT_TRUE(std::isnan(y[1].data<float>()[0]));
}

TEST(ProductBehind, RefusesWhatItHasNot) {
  const Tensor a = random_tensor(DType::f32, {4, 3}, 1), b = random_tensor(DType::f32, {3, 5}, 2);
  const Tensor beside = random_tensor(DType::f32, {4, 5}, 3), row = random_tensor(DType::f32, {5}, 3);
  EXPECT_THROW(product({}, a, b, {}, "gelu", {}, 1), ModelError);
  EXPECT_THROW(product({}, a, b, {}, "Add", {}, 1), ModelError);
  EXPECT_THROW(product({}, a, b, {}, "Add", row, 1), ModelError);
  EXPECT_THROW(product({}, a, b, {}, "Relu", beside, 1), ModelError);
  EXPECT_THROW(product({}, a, b, {}, nullptr, {}, 2), ModelError);
  EXPECT_THROW(product({}, a.cast(DType::f64), b.cast(DType::f64), {}, "Relu", {}, 1), UnsupportedError);
  EXPECT_THROW(op_gradients("graft", "MatMul", {a, b}, 1, {{"behind", std::string("Relu")}}, beside, {0}),
               UnsupportedError);
}

}  // namespace
}  // namespace graft::test
