#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::check_gradients;
using test::expect_close;
using test::random_tensor;
using test::run_op;

void check_gelu(const std::string& approximate, double (*f)(double)) {
  Attributes attributes{{"approximate", approximate}};
  for (const Dims& dims : {Dims{5, 7}, Dims{}, Dims{0, 3}, Dims{2, 3, 41}}) {
    Tensor x = random_tensor(DType::f64, dims, 1, -5, 5);
    Tensor want(DType::f64, dims);
    for (int64_t i = 0; i < x.count(); ++i) want.data<double>()[i] = f(x.data<double>()[i]);
    expect_close(run_op("", "Gelu", {x}, 1, attributes)[0], want, 1e-14);
    expect_close(run_op("", "Gelu", {x.cast(DType::f32)}, 1, attributes)[0], want.cast(DType::f32), 2e-6);
    check_gradients("", "Gelu", {x}, 1, attributes, {0}, 1e-5);
  }
}

TEST(Gelu, Erf) {
  check_gelu("none", [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); });
}

TEST(Gelu, Tanh) {
  check_gelu("tanh", [](double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * std::pow(x, 3))));
  });
}

TEST(Gelu, UnknownFormIsRefused) {
  EXPECT_THROW(run_op("", "Gelu", {Tensor(DType::f32, {2})}, 1, {{"approximate", std::string("sigmoid")}}), ModelError);
}

}  // namespace
}  // namespace graft
