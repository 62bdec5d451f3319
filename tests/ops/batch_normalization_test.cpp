#include <gtest/gtest.h>

#include "tests/support/check_op.h"

namespace graft::test {
namespace {

const OpCheck positive_variance{.ranges = {{"v", {0.3, 2}}}};

TEST(BatchNormalization, Frozen) {
  check_op(
      "(float[2,5,3,4] x, float[5] s, float[5] b, float[5] m, float[5] v) => (y) { y = BatchNormalization<epsilon = "
      "0.01>(x, s, b, m, v) }",
      {}, positive_variance);
  check_op(
      "(float[3,5] x, float[5] s, float[5] b, float[5] m, float[5] v) => (y) { y = BatchNormalization(x, s, b, m, v) }",
      {}, positive_variance);
}

TEST(BatchNormalization, Live) {
  OpCheck check = positive_variance;
  check.fixed = {"m", "v"};
  for (const char* x : {"2,5,3,4", "7,5", "3,2,11"}) {
    std::string c = x[2] == '2' ? "2" : "5";
    check_op(cat("(float[", x, "] x, float[", c, "] s, float[", c, "] b, float[", c, "] m, float[", c,
                 "] v) => (y) { y, nm, nv = BatchNormalization<training_mode = 1, momentum = 0.7>(x, s, b, m, v) }"),
             {}, check);
  }
}

TEST(BatchNormalization, RunningStatistics) {
  check_op(
      "(float[2,5,3,4] x, float[5] s, float[5] b, float[5] m, float[5] v) => (y, nm, nv) { y, nm, nv = "
      "BatchNormalization<training_mode = 1, momentum = 0.7>(x, s, b, m, v) }",
      {}, {.ranges = {{"v", {0.3, 2}}}, .gradient = false});
}

TEST(BatchNormalization, LargeMeanKeepsItsVariance) {
  check_op(
      "(float[4,3,5,5] x, float[3] s, float[3] b, float[3] m, float[3] v) => (y) { y, nm, nv = "
      "BatchNormalization<training_mode = 1>(x, s, b, m, v) }",
      {}, {.ranges = {{"x", {1000, 1001}}, {"v", {0.3, 2}}}, .gradient = false, .tolerance = 1e-3});
}

TEST(BatchNormalization, OtherLayouts) {
  for (const char* tag : {"nChw16c", "nChw8c", "nhwc"}) {
    check_layout(
        "(float[2,19,3,5] x, float[19] s, float[19] b, float[19] m, float[19] v) => (y) { y = "
        "BatchNormalization<epsilon = 5.0>(x, s, b, m, v) }",
        tag);
    check_layout(
        "(float[2,19,3,5] x, float[19] s, float[19] b, float[19] m, float[19] v) => (y, nm, nv) { y, nm, nv = "
        "BatchNormalization<training_mode = 1>(x, s, b, m, v) }",
        tag);
    check_layout(
        "(float[2,19,3,5] dy, float[2,19,3,5] x, float[19] s, float[19] m, float[19] v) => (dx, ds, db) { dx, ds, db = "
        "graft.BatchNormalizationGrad<epsilon = 5.0>(dy, x, s, , m, v) }",
        tag);
    check_layout("(float[2,19,3,5] x) => (y) { y = graft.ChannelSum(x) }", tag);
  }
}

}  // namespace
}  // namespace graft::test
