#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

std::string slice(const std::string& x, const std::string& starts, const std::string& ends, const std::string& axes,
                  const std::string& steps, int n) {
  return cat("(", x, " x) => (y) <int64[", n, "] s = {", starts, "}, int64[", n, "] e = {", ends, "}, int64[", n,
             "] a = {", axes, "}, int64[", n, "] t = {", steps, "}> { y = Slice(x, s, e, a, t) }");
}

TEST(Slice, TakesRegularParts) {
  check_op(slice("float[5,7]", "1, 2", "4, 6", "0, 1", "1, 1", 2));
  check_op(slice("float[5,7]", "6, 3", "-8, 0", "1, 0", "-2, -1", 2));
  check_op(slice("float[5,7]", "-1", "-9223372036854775807", "-1", "-1", 1));
  check_op(slice("float[2,9,3]", "1", "9223372036854775807", "-2", "3", 1));
  check_op(slice("float[2,9,3]", "-100", "100", "1", "4", 1));
  check_op(slice("float[2,9,3]", "100", "-100", "1", "-4", 1));
  check_op(slice("float[2,9,3]", "5", "2", "1", "1", 1));
  check_op(slice("float[2,9,3]", "7", "8", "1", "9223372036854775807", 1));
  check_op(slice("float[0,3]", "0", "-5", "0", "-1", 1));
  check_op("(float[4,6] x) => (y) <int64[2] s = {1, 2}, int64[2] e = {3, 100}> { y = Slice(x, s, e) }");
  check_op("(float[4,6] x) => (y) <int32[1] s = {1}, int32[1] e = {-1}, int32[1] a = {1}> { y = Slice(x, s, e, a) }");
}

TEST(Slice, EveryElementType) {
  for (const char* dtype : {"double", "int64", "int32", "uint8", "bool", "int16"}) {
    check_op(
        cat("(", dtype, "[5,3] x) => (y) <int64[1] s = {3}, int64[1] e = {0}, int64[1] a = {0}, int64[1] t = {-2}> ",
            "{ y = Slice(x, s, e, a, t) }"),
        {}, {.gradient = false});
  }
}

TEST(Slice, SecondOrder) {
  check_op("(float[5,4] dy) => (dx) { dx = graft.SliceGrad<dims = [9, 4], starts = [8, 0], steps = [-2, 1]>(dy) }", {},
           {.forward = false});
  check_op("(float[1,4] dy) => (dx) { dx = graft.SliceGrad<dims = [9, 4], starts = [0, 0], steps = [-1, 1]>(dy) }", {},
           {.forward = false});
}

TEST(Slice, WholeBlocksStayAsTheyLie) {
  check_layout(slice("float[2,40,3,5]", "16", "32", "1", "1", 1), "nChw8c");
  check_layout(slice("float[2,21,3,5]", "8", "21", "1", "1", 1), "nChw8c");
  check_layout(slice("float[3,21,6,5]", "2, 5", "1, -9", "0, 2", "-1, -2", 2), "nChw16c");
  check_layout(slice("float[3,21,6,5]", "3, 4", "20, 1", "1, 2", "2, -1", 2), "nhwc");
  const char* grad =
      "(float[2,21,3,5] dy) => (dx) { dx = graft.SliceGrad<dims = [2, 37, 9, 5], starts = [0, 16, 8, 0], "
      "steps = [1, 1, -3, 1]>(dy) }";
  check_layout(grad, "nChw16c");
  check_layout(grad, "nhwc");
}

TEST(Slice, LargeEnoughForSeveralThreads) {
  check_op(slice("float[60,70,80]", "50, 3", "2, 60", "0, 2", "-3, 2", 2), {}, {.gradient = false});
}

TEST(Slice, MalformedOnesAreRefused) {
  Tensor x(DType::f32, {4, 6});
  auto run = [&](const std::vector<int64_t>& starts, const std::vector<int64_t>& ends, const std::vector<int64_t>& axes,
                 const std::vector<int64_t>& steps) {
    auto of = [](const std::vector<int64_t>& v) { return Tensor::of<int64_t>({static_cast<int64_t>(v.size())}, v); };
    run_op("", "Slice", {x, of(starts), of(ends), of(axes), of(steps)}, 1);
  };
  EXPECT_NO_THROW(run({0}, {1}, {0}, {1}));
  EXPECT_THROW(run({0}, {1}, {2}, {1}), ModelError);
  EXPECT_THROW(run({0}, {1}, {-3}, {1}), ModelError);
  EXPECT_THROW(run({0}, {1}, {0}, {0}), ModelError);
  EXPECT_THROW(run({0, 0}, {1, 1}, {0, -2}, {1, 1}), ModelError);
  EXPECT_THROW(run({0}, {1, 2}, {0}, {1}), ModelError);
  EXPECT_THROW(run({0}, {1}, {0, 1}, {1, 1}), ModelError);
  EXPECT_THROW(run_op("", "Slice", {x, Tensor(DType::f32, {1}), Tensor(DType::f32, {1})}, 1), ModelError);
  auto grad = [&](const Dims& dims, const std::vector<int64_t>& starts, const std::vector<int64_t>& steps) {
    run_op("graft", "SliceGrad", {x}, 1, {{"dims", dims}, {"starts", starts}, {"steps", steps}});
  };
  EXPECT_NO_THROW(grad({4, 6}, {0, 5}, {1, -1}));
  EXPECT_THROW(grad({4, 6}, {0, 5}, {1, 1}), ModelError);
  EXPECT_THROW(grad({4, 6}, {0, 0}, {INT64_MAX, 1}), ModelError);
  EXPECT_THROW(grad({4}, {0}, {1}), ModelError);
}

}  // namespace
}  // namespace graft::test
