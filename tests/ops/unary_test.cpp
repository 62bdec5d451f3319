#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

class Unary : public testing::TestWithParam<const char*> {};

TEST_P(Unary, MatchesTheReferenceOnOddSizes) {
  check_op(cat("(float[3,37] x) => (y) { y = ", GetParam(), "(x) }"));
  check_op(cat("(float[0,3] x) => (y) { y = ", GetParam(), "(x) }"));
  check_op(cat("(float x) => (y) { y = ", GetParam(), "(x) }"));
}

TEST_P(Unary, KeepsPaddingZero) {
  check_layout(cat("(float[2,19,3,5] x) => (y) { y = ", GetParam(), "(x) }"), "nChw16c");
}

INSTANTIATE_TEST_SUITE_P(Everywhere, Unary,
                         testing::Values("Relu", "LeakyRelu", "LeakyRelu<alpha = 0.3>", "ThresholdedRelu", "Elu",
                                         "Elu<alpha = 0.5>", "Selu", "Celu<alpha = 2.0>", "Sigmoid", "HardSigmoid",
                                         "HardSigmoid<alpha = 0.3, beta = 0.4>", "HardSwish", "Tanh", "Exp", "Abs",
                                         "Neg", "Sign", "Floor", "Ceil", "Round", "Erf", "Softplus", "Softsign", "Sin",
                                         "Cos", "Atan", "Sinh", "Cosh", "Asinh", "Mish", "Swish<alpha = 1.5>"));

TEST(UnaryDomains, PositiveOnly) {
  for (const char* type : {"Log", "Sqrt", "Reciprocal"})
    check_op(cat("(float[41] x) => (y) { y = ", type, "(x) }"), {}, {.ranges = {{"x", {0.2, 5}}}});
}

TEST(UnaryDomains, Others) {
  for (const char* type : {"Asin", "Acos", "Atanh", "Tan"})
    check_op(cat("(float[41] x) => (y) { y = ", type, "(x) }"), {}, {.ranges = {{"x", {-0.9, 0.9}}}});
  check_op("(float[41] x) => (y) { y = Acosh(x) }", {}, {.ranges = {{"x", {1.1, 5}}}});
}

TEST(UnaryDomains, FarFromZero) {
  for (const char* type : {"Sigmoid", "Tanh", "Erf", "Softplus", "Exp", "HardSwish", "Mish", "Elu"}) {
    check_op(cat("(float[101] x) => (y) { y = ", type, "(x) }"), {}, {.ranges = {{"x", {-20, 20}}}});
  }
}

TEST(UnaryDomains, SpecialValues) {
  float inf = INFINITY;
  auto x = Tensor::of<float>({9}, {0, -0.0F, inf, -inf, NAN, 100, -100, 1e-30F, 1e30F});
  for (const char* type : {"Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh", "Exp", "Log", "Sqrt", "Abs", "Neg",
                           "Sign", "Floor", "Erf"}) {
    check_op(cat("(float[9] x) => (y) { y = ", type, "(x) }"), {{"x", x}}, {.gradient = false});
  }
  check_op("(float[9] x) => (y, z, a, b) { y = IsNaN(x) z = IsInf(x) a = IsInf<detect_negative = 0>(x) b = Not(y) }",
           {{"x", x}});
}

TEST(UnaryIntegers, Rows) {
  auto x = Tensor::of<int64_t>({4}, {-3, 0, 5, INT64_MIN});
  for (const char* type : {"Abs", "Neg", "Sign", "Relu"})
    check_op(cat("(int64[4] x) => (y) { y = ", type, "(x) }"), {{"x", x}});
}

TEST(UnarySecondOrder, PrivateGradients) {
  for (const char* type :
       {"ReluGrad", "LeakyReluGrad<alpha = 0.3>", "SigmoidGrad", "TanhGrad", "HardSigmoidGrad", "HardSwishGrad"}) {
    check_op(cat("(float[5,7] dy, float[5,7] s) => (dx) { dx = graft.", type, "(dy, s) }"), {},
             {.ranges = {{"s", {-4, 4}}}, .forward = false});
    check_layout(cat("(float[2,19,3,5] dy, float[2,19,3,5] s) => (dx) { dx = graft.", type, "(dy, s) }"), "nChw8c");
  }
}

TEST(Unary, HalvesAreRefusedWhereThereIsNoKernel) {
  for (const char* type : {"Relu", "Abs", "Exp"})
    EXPECT_THROW(run_op("", type, {Tensor(DType::f16, {3})}, 1), UnsupportedError) << type;
  EXPECT_THROW(run_op("", "Sin", {Tensor(DType::bf16, {3})}, 1), UnsupportedError);
}

}  // namespace
}  // namespace graft::test
