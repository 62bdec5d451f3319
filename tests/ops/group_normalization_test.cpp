#include <gtest/gtest.h>

#include "runtime/device/device.h"
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

TEST(GroupNormalization, MixedPrecision) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  constexpr double tolerance = 8e-3;  // half of the last of 8 bits, of numbers up to 4
  const std::string group =
      "(float[2,20,3,5] x, float[20] s, float[20] b) => (y) { y = GroupNormalization<num_groups = "
      "4>(x, s, b) }";
  const std::string instance =
      "(float[2,19,3,5] x, float[19] s, float[19] b) => (y) { y = InstanceNormalization"
      "(x, s, b) }";
  for (const std::string& text : {group, instance}) {
    for (const char* tag : {"any", "nChw16c", "nhwc"}) check_mixed(text, tag, 0, {}, tolerance);
    check_mixed_gradients(text, {}, {}, 4e-3);
  }
}

}  // namespace
}  // namespace graft::test
