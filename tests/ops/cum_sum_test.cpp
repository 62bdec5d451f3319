#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

std::string cum_sum(const std::string& x, int axis, int exclusive, int reverse) {
  return cat("(", x, " x) => (y) <int64 a = {", axis, "}> { y = CumSum<exclusive = ", exclusive,
             ", reverse = ", reverse, ">(x, a) }");
}

TEST(CumSum, BothWaysAlongEveryAxis) {
  for (int exclusive : {0, 1}) {
    for (int reverse : {0, 1}) {
      for (int axis : {0, 1, 2, -1, -2}) check_op(cum_sum("float[3,5,4]", axis, exclusive, reverse));
      check_op(cum_sum("float[7]", 0, exclusive, reverse));
      check_op(cum_sum("float[1]", 0, exclusive, reverse));
      check_op(cum_sum("int32[5,3]", 0, exclusive, reverse));
    }
  }
  check_op(cum_sum("float[3,0,2]", 1, 0, 0));
  check_op(cum_sum("float[0,3]", 1, 0, 1));
  check_op(cum_sum("int64[5]", 0, 0, 0));
}

TEST(CumSum, LargeEnoughForSeveralThreads) { check_op(cum_sum("float[30,50,70]", 1, 0, 1), {}, {.gradient = false}); }

TEST(CumSum, MalformedOnesAreRefused) {
  Tensor x(DType::f32, {3, 5});
  EXPECT_THROW(run_op("", "CumSum", {x, Tensor::scalar<int64_t>(2)}, 1), ModelError);
  EXPECT_THROW(run_op("", "CumSum", {x, Tensor::scalar<int64_t>(-3)}, 1), ModelError);
  EXPECT_THROW(run_op("", "CumSum", {x, Tensor(DType::i64, {2})}, 1), ModelError);
}

}  // namespace
}  // namespace graft::test
