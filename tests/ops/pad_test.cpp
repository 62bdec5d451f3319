#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

std::string pad(const std::string& x, const std::string& pads, int n, const std::string& mode) {
  return cat("(", x, " x) => (y) <int64[", n, "] p = {", pads, "}> { y = Pad<mode = \"", mode, "\">(x, p) }");
}

TEST(Pad, EveryMode) {
  for (const char* mode : {"constant", "edge", "reflect", "wrap"}) {
    check_op(pad("float[3,5]", "1, 2, 0, 3", 4, mode));
    check_op(pad("float[2,3,4]", "0, 2, 1, 0, 1, 3", 6, mode));
    check_op(pad("float[7]", "3, 4", 2, mode));
    check_op(pad("float[3,5]", "0, 0, 0, 0", 4, mode));
    check_op(pad("int64[3,5]", "2, 1, 0, 2", 4, mode));
    check_op(pad("uint8[3,5]", "2, 1, 0, 2", 4, mode));
  }
  check_op(pad("float[2,3,5,4]", "0, 0, 2, 3, 0, 0, 1, 2", 8, "reflect"));
}

TEST(Pad, ValueAndAxes) {
  check_op("(float[3,5] x, float v) => (y) <int64[4] p = {1, 2, 0, 3}> { y = Pad(x, p, v) }");
  check_op(
      "(float[3,5,2] x) => (y) <int64[4] p = {1, 2, 0, 3}, int64[2] a = {-1, 0}, float v = {7}> { y = Pad(x, p, v, a) "
      "}");
  check_op("(float[3,5] x) => (y) <int64[2] p = {1, 2}, int32[1] a = {1}> { y = Pad<mode = \"edge\">(x, p, , a) }");
}

TEST(Pad, NegativeOnesCutOff) {
  check_op(pad("float[5,7]", "-1, 2, 1, -3", 4, "constant"), {}, {.oracle = Oracle::onnxruntime});
  check_op(pad("float[5,7]", "-2, -3, -1, -4", 4, "constant"), {}, {.oracle = Oracle::onnxruntime});
}

TEST(Pad, BordersLongerThanTheTensor) {
  for (const char* mode : {"constant", "edge", "wrap"}) check_op(pad("float[3,2]", "7, 5, 8, 6", 4, mode));
  check_op(pad("float[0,2]", "1, 1, 2, 0", 4, "constant"));
}

TEST(Pad, SecondOrder) {
  const char* text = "[7,8] dy) => (dx) { dx = graft.PadGrad<dims = [4, 5], pads = [1, 1, 2, 2], mode = \"";
  for (const char* mode : {"constant", "edge", "reflect", "wrap"})
    check_op(cat("(float", text, mode, "\">(dy) }"), {}, {.forward = false});
}

TEST(Pad, StaysAsItLies) {
  for (const char* tag : {"nChw8c", "nChw16c", "nhwc"}) {
    for (const char* mode : {"constant", "reflect"})
      check_layout(pad("float[2,19,5,6]", "0, 0, 1, 2, 0, 0, 3, 1", 8, mode), tag);
    check_layout("(float[2,19,5,6] x) => (y) <int64[8] p = {0,0,1,2,0,0,3,1}, float v = {3}> { y = Pad(x, p, v) }",
                 tag);
    check_layout(
        "(float[2,19,9,9] dy) => (dx) { dx = graft.PadGrad<dims = [2, 19, 5, 6], pads = [0, 0, 1, 2, 0, 0, 3, 1], "
        "mode = \"reflect\">(dy) }",
        tag);
  }
  check_layout(pad("float[2,19,5,6]", "1, 3, 1, 2, 0, 5, 3, 1", 8, "edge"), "nhwc");
}

TEST(Pad, LargeEnoughForSeveralThreads) {
  check_op(pad("float[8,16,30,31]", "0, 0, 1, 1, 0, 0, 2, 2", 8, "constant"), {}, {.gradient = false});
}

TEST(Pad, MalformedOnesAreRefused) {
  Tensor x(DType::f32, {3, 5});
  auto run = [&](const std::vector<int64_t>& pads, const std::string& mode) {
    run_op("", "Pad", {x, Tensor::of<int64_t>({static_cast<int64_t>(pads.size())}, pads)}, 1, {{"mode", mode}});
  };
  EXPECT_NO_THROW(run({0, 1, 0, 1}, "constant"));
  EXPECT_THROW(run({0, 1, 0}, "constant"), ModelError);
  EXPECT_THROW(run({0, 1, 0, 1}, "symmetric"), ModelError);
  EXPECT_THROW(run({-4, 0, 4, 0}, "constant"), ModelError);
  EXPECT_THROW(run({-2, 0, -2, 0}, "constant"), ModelError);
  EXPECT_THROW(run({INT64_MAX, 0, INT64_MAX, 0}, "constant"), ModelError);
  EXPECT_THROW(run({INT64_MIN, 0, INT64_MAX, 0}, "constant"), ModelError);
  Tensor empty(DType::f32, {0}), one = Tensor::of<int64_t>({2}, {1, 1});
  EXPECT_THROW(run_op("", "Pad", {empty, one}, 1, {{"mode", std::string("edge")}}), ModelError);
  EXPECT_THROW(run_op("", "Pad", {x, Tensor(DType::i64, {4}), Tensor(DType::f64, {})}, 1), ModelError);
}

}  // namespace
}  // namespace graft::test
