#include <gtest/gtest.h>

#include "tests/support/check_op.h"

namespace graft::test {
namespace {

TEST(GroupNormalization, Groups) {
  for (int groups : {1, 2, 3, 6}) {
    check_op(cat("(float[2,6,3,5] x, float[6] s, float[6] b) => (y) { y = GroupNormalization<num_groups = ", groups,
                 ">(x, s, b) }"));
  }
  check_op(
      "(float[3,4,7] x, float[4] s, float[4] b) => (y) { y = GroupNormalization<num_groups = 2, epsilon = 0.1>(x, s, "
      "b) }");
}

TEST(InstanceNormalization, Shapes) {
  check_op("(float[2,3,4,5] x, float[3] s, float[3] b) => (y) { y = InstanceNormalization(x, s, b) }");
  check_op("(float[2,3,7] x, float[3] s, float[3] b) => (y) { y = InstanceNormalization<epsilon = 0.1>(x, s, b) }");
}

// The oracle's function body cancels here: float32 is held against our float64.
TEST(GroupNormalization, LargeMean) {
  check_op(
      "(float[2,4,6,6] x, float[4] s, float[4] b) => (y) { y = GroupNormalization<num_groups = 2>(x, s, b) }", {},
      {.ranges = {{"x", {1000, 1001}}}, .forward = false, .gradient_tolerance = 1e-5, .gradient_tolerance_f32 = 2e-3});
}

TEST(GroupNormalization, OtherLayouts) {
  for (const char* tag : {"nChw16c", "nChw8c", "nhwc"}) {
    check_layout(
        "(float[2,20,3,5] x, float[20] s, float[20] b) => (y) { y = GroupNormalization<num_groups = 4>(x, s, b) }",
        tag);
    check_layout("(float[2,19,3,5] x, float[19] s, float[19] b) => (y) { y = InstanceNormalization(x, s, b) }", tag);
  }
}

}  // namespace
}  // namespace graft::test
