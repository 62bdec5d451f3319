#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

TEST(Concat, JoinsAlongAnAxis) {
  check_op("(float[2,3] a, float[4,3] b) => (y) { y = Concat<axis = 0>(a, b) }");
  check_op("(float[2,3] a, float[2,5] b, float[2,1] c) => (y) { y = Concat<axis = -1>(a, b, c) }");
  check_op("(float[2,3,4] a, float[2,0,4] b, float[2,2,4] c) => (y) { y = Concat<axis = 1>(a, b, c) }");
  check_op("(float[3] a) => (y) { y = Concat<axis = 0>(a) }");
  check_op("(float[2,3] a) => (y) { y = Concat<axis = 1>(a, a) }");
  check_op("(float[0,3] a, float[0,2] b) => (y) { y = Concat<axis = 1>(a, b) }");
  check_op("(float[2,3] a, float[2,3] b) => (y) { y = Concat<axis = 1>(a, b) }", {}, {.fixed = {"b"}});
  for (const char* dtype : {"double", "int64", "int32", "uint8", "bool", "int16"})
    check_op(cat("(", dtype, "[2,3] a, ", dtype, "[2,2] b) => (y) { y = Concat<axis = 1>(a, b) }"), {},
             {.gradient = false});
}

TEST(Concat, WholeBlocksStayAsTheyLie) {
  const char* channels =
      "(float[2,16,3,5] a, float[2,24,3,5] b, float[2,3,3,5] c) => (y) { y = Concat<axis = 1>(a, b, c) }";
  for (size_t operand : {0, 1, 2}) check_layout(channels, "nChw8c", operand);
  check_layout(channels, "nhwc", 1);
  check_layout("(float[2,19,3,5] a, float[2,19,4,5] b) => (y) { y = Concat<axis = 2>(a, b) }", "nChw16c", 1);
  check_layout("(float[2,19,3,5] a, float[1,19,3,5] b) => (y) { y = Concat<axis = 0>(a, b) }", "nChw8c");
}

TEST(Concat, LargeEnoughForSeveralThreads) {
  check_op("(float[40,61,70] a, float[40,3,70] b) => (y) { y = Concat<axis = 1>(a, b) }", {}, {.gradient = false});
}

TEST(Concat, MalformedOnesAreRefused) {
  Tensor a(DType::f32, {2, 3}), b(DType::f32, {2, 4}), c(DType::f32, {3});
  EXPECT_THROW(run_op("", "Concat", {a, b}, 1, {{"axis", int64_t{0}}}), ModelError);
  EXPECT_THROW(run_op("", "Concat", {a, b}, 1, {{"axis", int64_t{2}}}), ModelError);
  EXPECT_THROW(run_op("", "Concat", {a, b}, 1, {{"axis", int64_t{-3}}}), ModelError);
  EXPECT_THROW(run_op("", "Concat", {a, b}, 1), ModelError);
  EXPECT_THROW(run_op("", "Concat", {a, c}, 1, {{"axis", int64_t{0}}}), ModelError);
  EXPECT_THROW(run_op("", "Concat", {a, b.cast(DType::f64)}, 1, {{"axis", int64_t{1}}}), ModelError);
}

TEST(Split, TakesApart) {
  check_op("(float[6,3] x) => (a, b) { a, b = Split<num_outputs = 2>(x) }");
  check_op("(float[3,7] x) => (a, b, c) { a, b, c = Split<axis = -1, num_outputs = 3>(x) }");
  check_op("(float[2,7,3] x) => (a, b, c) <int64[3] s = {4, 0, 3}> { a, b, c = Split<axis = 1>(x, s) }");
  check_op("(float[2,7] x) => (b) <int64[3] s = {4, 2, 1}> { a, b, c = Split<axis = 1>(x, s) }");
  check_op("(float[4] x) => (a) { a = Split<num_outputs = 1>(x) }");
  for (const char* dtype : {"double", "int64", "int32", "uint8", "bool", "int16"})
    check_op(cat("(", dtype, "[2,5] x) => (a, b) { a, b = Split<axis = 1, num_outputs = 2>(x) }"), {},
             {.gradient = false});
}

TEST(Split, WholeBlocksStayAsTheyLie) {
  check_layout("(float[2,40,3,5] x) => (a, b) <int64[2] s = {16, 24}> { a, b = Split<axis = 1>(x, s) }", "nChw8c");
  check_layout("(float[2,19,3,5] x) => (a, b) <int64[2] s = {16, 3}> { a, b = Split<axis = 1>(x, s) }", "nChw16c");
  check_layout("(float[2,19,3,5] x) => (a, b) <int64[2] s = {2, 1}> { a, b = Split<axis = -2>(x, s) }", "nChw16c");
  check_layout("(float[2,19,3,5] x) => (a, b) <int64[2] s = {10, 9}> { a, b = Split<axis = 1>(x, s) }", "nhwc");
}

TEST(Split, MalformedOnesAreRefused) {
  Tensor x(DType::f32, {2, 6});
  auto run = [&](const std::vector<int64_t>& sizes, int64_t axis, size_t results) {
    Tensor s = Tensor::of<int64_t>({static_cast<int64_t>(sizes.size())}, sizes);
    run_op("", "Split", {x, s}, results, {{"axis", axis}});
  };
  EXPECT_NO_THROW(run({2, 4}, 1, 2));
  EXPECT_THROW(run({2, 4}, 2, 2), ModelError);
  EXPECT_THROW(run({2, 3}, 1, 2), ModelError);
  EXPECT_THROW(run({7, -1}, 1, 2), ModelError);
  EXPECT_THROW(run({INT64_MAX, INT64_MAX}, 1, 2), ModelError);
  EXPECT_THROW(run({2, 4}, 1, 3), ModelError);
  EXPECT_THROW(run_op("", "Split", {x}, 2, {{"axis", int64_t{1}}, {"num_outputs", int64_t{3}}}), ModelError);
}

}  // namespace
}  // namespace graft::test
