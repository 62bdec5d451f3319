#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::check_gradients;
using test::expect_close;
using test::random_tensor;
using test::run_op;

void check_loss(const std::string& type, double low, double high, const Attributes& attributes,
                double (*f)(double, double)) {
  for (const Dims& dims : {Dims{5, 3}, Dims{3, 70, 30}, Dims{}, Dims{0, 2}}) {
    Tensor x = random_tensor(DType::f64, dims, 1, -3, 3);
    Tensor t = random_tensor(DType::f64, dims, 2, low, high);
    double sum = 0;
    for (int64_t i = 0; i < x.count(); ++i) sum += f(x.data<double>()[i], t.data<double>()[i]);
    auto count = static_cast<double>(x.count());
    auto got = run_op("graft", type, {x, t}, 2, attributes);
    expect_close(got[0], Tensor::scalar(sum), 1e-10);
    expect_close(got[1], Tensor::scalar(count), 0);
    auto narrow = run_op("graft", type, {x.cast(DType::f32), t.cast(DType::f32)}, 2, attributes);
    expect_close(narrow[0].cast(DType::f64), Tensor::scalar(sum), 1e-5);
    if (x.count() < 100) check_gradients("graft", type, {x, t}, 2, attributes, {0, 1}, 1e-5);
  }
}

TEST(Losses, SigmoidCrossEntropy) {
  check_loss("SigmoidCrossEntropy", 0, 1, {}, [](double x, double t) {
    double p = 1 / (1 + std::exp(-x));
    return -(t * std::log(p) + (1 - t) * std::log(1 - p));
  });
  auto far =
      run_op("graft", "SigmoidCrossEntropy", {Tensor::of<float>({2}, {-500, 500}), Tensor::of<float>({2}, {1, 1})}, 2);
  EXPECT_FLOAT_EQ(far[0].data<float>()[0], 500);
  EXPECT_THROW(run_op("graft", "SigmoidCrossEntropy", {Tensor(DType::f32, {2}), Tensor::of<float>({2}, {1, 2})}, 2),
               DataError);
}

TEST(Losses, SquaredError) {
  check_loss("SquaredError", -3, 3, {}, [](double x, double t) { return (x - t) * (x - t); });
}

TEST(Losses, AbsoluteError) {
  check_loss("AbsoluteError", -3, 3, {}, [](double x, double t) { return std::abs(x - t); });
}

TEST(Losses, HuberError) {
  check_loss("HuberError", -3, 3, {{"delta", 0.7}}, [](double x, double t) {
    double e = std::abs(x - t);
    return e < 0.7 ? 0.5 * e * e : 0.7 * (e - 0.35);
  });
}

TEST(Losses, WrongShapesAreRefused) {
  EXPECT_THROW(run_op("graft", "SquaredError", {Tensor(DType::f32, {2}), Tensor(DType::f32, {2, 1})}, 2), ModelError);
  EXPECT_THROW(run_op("graft", "HuberError", {Tensor(DType::f32, {2}), Tensor(DType::f32, {2})}, 2, {{"delta", 0.0}}),
               ModelError);
}

}  // namespace
}  // namespace graft
