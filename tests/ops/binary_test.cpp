#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/check_op.h"

namespace graft::test {
namespace {

// What broadcasts how: same shape, scalar, last axis, per channel, both ways, missing and empty axes.
const std::pair<const char*, const char*> shapes[] = {
    {"[3,37]", "[3,37]"}, {"[3,5,7]", ""},          {"", "[4]"},
    {"[3,5,7]", "[7]"},   {"[2,3,4,5]", "[3,1,1]"}, {"[2,3,4,5]", "[2,3,1,1]"},
    {"[3,1,5]", "[4,1]"}, {"[1,5]", "[3,1,1]"},     {"[2,3,1]", "[2,3,8]"},
    {"[0,3]", "[3]"},     {"[1,1]", "[2,3]"},       {"[9,70]", "[9,1]"},
};

class Binary : public testing::TestWithParam<const char*> {};

TEST_P(Binary, Broadcasts) {
  for (auto [a, b] : shapes) {
    check_op(cat("(float", a, " a, float", b, " b) => (y) { y = ", GetParam(), "(a, b) }"), {},
             {.ranges = {{"a", {0.3, 2.5}}, {"b", {0.4, 2}}}});
  }
}
INSTANTIATE_TEST_SUITE_P(Everywhere, Binary,
                         testing::Values("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow"));

TEST(BinaryLayouts, SameShapeScalarAndChannel) {
  for (const char* type : {"Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"}) {
    for (const char* tag : {"nChw16c", "nChw8c", "nhwc"}) {
      for (const char* b : {"[2,19,3,5]", "", "[19,1,1]", "[2,19,1,1]", "[5]", "[3,5]", "[1,1,3,1]"}) {
        check_layout(cat("(float[2,19,3,5] a, float", b, " b) => (y) { y = ", type, "(a, b) }"), tag, 0);
        if (std::string(type) != "PRelu")
          check_layout(cat("(float", b, " a, float[2,19,3,5] b) => (y) { y = ", type, "(a, b) }"), tag, 1);
      }
    }
  }
  check_layout("(float[2,1,3,5] a, float[2,1,1,1] b) => (y) { y = Add(a, b) }", "nChw16c");
  check_layout("(float[2,32,3,5] a, float[32,1,1] b) => (y) { y = Add(a, b) }", "nChw16c");
  check_layout("(float[2,19,3,5] a, float[19,1,1] b, float[2,19,3,5] c) => (y) { y = Mean(a, b, c) }", "nChw16c");
}

TEST(BinaryOthers, Variadic) {
  for (const char* type : {"Max", "Min", "Sum", "Mean"}) {
    check_op(cat("(float[3,5] a, float[5] b, float[3,1] c) => (y) { y = ", type, "(a, b, c) }"));
    check_op(cat("(float[3,5] a) => (y) { y = ", type, "(a) }"));
    check_op(cat("(float[5] a, float[3,5] b, float[4,1,1] c) => (y) { y = ", type, "(a, b, c) }"));
  }
}

TEST(BinaryOthers, TiesShareTheGradient) {
  auto graph_of_ties = Tensor::of<float>({2}, {1, 2});
  check_op("(float[2] a) => (y) { y = Max(a, a) }", {{"a", graph_of_ties}});
}

TEST(BinaryOthers, LargeEnoughForThreads) {
  for (const char* b : {"[300,257]", "[257]", "[300,1]", ""}) {
    for (const char* type : {"Add", "Div", "Pow"}) {
      check_op(cat("(float[300,257] a, float", b, " b) => (y) { y = ", type, "(a, b) }"), {},
               {.ranges = {{"a", {0.3, 2.5}}, {"b", {0.4, 2}}}, .gradient = false});
    }
  }
}

TEST(BinaryOthers, PRelu) {
  check_op("(float[2,3,4] x, float[3,1] s) => (y) { y = PRelu(x, s) }");
  check_op("(float[2,3] x, float[1] s) => (y) { y = PRelu(x, s) }");
}

TEST(BinaryOthers, PowOfKnownExponents) {
  for (const char* e : {"2", "3", "0.5", "1", "0", "-1.5"}) {
    check_op(cat("(float[3,5] x) => (y) <float e = {", e, "}> { y = Pow(x, e) }"), {}, {.ranges = {{"x", {0.2, 2}}}});
  }
  check_op("(float[3,5] x) => (y) <int64[5] e = {0, 1, 2, 3, 4}> { y = Pow(x, e) }");
  check_op("(int64[3] x) => (y) <float e = {2}> { y = Pow(x, e) }", {{"x", Tensor::of<int64_t>({3}, {-3, 0, 7})}});
}

TEST(BinaryOthers, Mod) {
  check_op("(float[7] a, float[7] b) => (y) { y = Mod<fmod = 1>(a, b) }", {},
           {.ranges = {{"a", {-5, 5}}, {"b", {0.5, 2}}}});
  auto a = Tensor::of<int64_t>({6}, {-7, 7, -7, 7, 6, INT64_MIN});
  auto b = Tensor::of<int64_t>({6}, {3, -3, -3, 3, 2, -1});
  for (const char* fmod : {"0", "1"})
    check_op(cat("(int64[6] a, int64[6] b) => (y) { y = Mod<fmod = ", fmod, ">(a, b) }"), {{"a", a}, {"b", b}});
}

TEST(BinaryOthers, Integers) {
  auto a = Tensor::of<int64_t>({4}, {-7, 7, INT64_MAX, 0});
  auto b = Tensor::of<int64_t>({4}, {2, -2, 5, 9});
  for (const char* type : {"Add", "Sub", "Mul", "Max", "Min"})
    check_op(cat("(int64[4] a, int64[4] b) => (y) { y = ", type, "(a, b) }"), {{"a", a}, {"b", b}});
  check_op("(int32[4] a, int32 b) => (y) { y = Div(a, b) }",
           {{"a", Tensor::of<int32_t>({4}, {7, 8, 0, 100})}, {"b", Tensor::scalar<int32_t>(3)}});
  auto zero = Tensor::of<int64_t>({4}, {1, 1, 0, 1});
  EXPECT_THROW(check_op("(int64[4] a, int64[4] b) => (y) { y = Div(a, b) }", {{"a", a}, {"b", zero}}), DataError);
  EXPECT_THROW(check_op("(int64[4] a, int64[4] b) => (y) { y = Mod(a, b) }", {{"a", a}, {"b", zero}}), DataError);
}

TEST(Logical, Compare) {
  for (const char* type : {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"}) {
    check_op(cat("(int64[3,5] a, int64[5] b) => (y) { y = ", type, "(a, b) }"));
    check_op(cat("(float[3,1] a, float[5] b) => (y) { y = ", type, "(a, b) }"),
             {{"a", Tensor::of<float>({3, 1}, {0, 1, NAN})}, {"b", Tensor::of<float>({5}, {0, 1, 2, NAN, -1})}});
  }
}

TEST(Logical, LogicAndBits) {
  for (const char* type : {"And", "Or", "Xor"})
    check_op(cat("(bool[3,5] a, bool[5] b) => (y) { y = ", type, "(a, b) }"));
  for (const char* type :
       {"BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift<direction = \"LEFT\">", "BitShift<direction = \"RIGHT\">"}) {
    check_op(cat("(uint8[3,5] a, uint8[5] b) => (y) { y = ", type, "(a, b) }"));
  }
}

TEST(Where, Broadcasts) {
  check_op("(bool[3,5] c, float[3,5] a, float[3,5] b) => (y) { y = Where(c, a, b) }");
  check_op("(bool[4,1,1] c, float[3,1] a, float[5] b) => (y) { y = Where(c, a, b) }");
  check_op("(bool[3,5] c, float a, float b) => (y) { y = Where(c, a, b) }");
  check_op("(bool[0,5] c, float[5] a, float b) => (y) { y = Where(c, a, b) }");
  check_op("(bool[5] c, int64[5] a, int64 b) => (y) { y = Where(c, a, b) }");
  check_op("(bool[5] c, bool[5] a, bool b) => (y) { y = Where(c, a, b) }");
}

}  // namespace
}  // namespace graft::test
