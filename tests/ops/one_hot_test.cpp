#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

TEST(OneHot, AlongANewAxis) {
  for (int axis : {-1, 0, 1, 2, -2}) {
    check_op(cat("(int64[3,4] i, float[2] v) => (y) <int64 d = {5}> { y = OneHot<axis = ", axis, ">(i, d, v) }"), {},
             {.ranges = {{"i", {-5, 4}}}});
  }
  check_op("(int64[1] i, float[2] v) => (y) <int64 d = {3}> { y = OneHot<axis = -1>(i, d, v) }");
  check_op("(int32[6] i, int64[2] v) => (y) <int32 d = {3}> { y = OneHot<axis = -1>(i, d, v) }");
  check_op("(int64[0] i, float[2] v) => (y) <int64 d = {4}> { y = OneHot<axis = -1>(i, d, v) }");
}

TEST(OneHot, BooleansAndDefaults) {
  auto i = Tensor::of<int32_t>({2}, {1, 0});
  auto y = run_op("", "OneHot", {i, Tensor::of<int64_t>({1}, {2}), Tensor::of<bool>({2}, {true, false})}, 1)[0];
  expect_close(y, Tensor::of<bool>({2, 2}, {true, false, false, true}), 0, "one-hot rows of booleans");
}

TEST(OneHot, OutOfRangeIsAllOff) {
  auto i = Tensor::of<int64_t>({4}, {-3, 2, 1, INT64_MIN});
  auto y = run_op("", "OneHot", {i, Tensor::scalar<int64_t>(2), Tensor::of<float>({2}, {0, 1})}, 1)[0];
  expect_close(y, Tensor::of<float>({4, 2}, {0, 0, 0, 0, 0, 1, 0, 0}), 0, "one-hot rows");
  auto real = Tensor::of<float>({4}, {NAN, 1e30F, -1, 0.5F});
  y = run_op("", "OneHot", {real, Tensor::scalar<float>(2), Tensor::of<float>({2}, {0, 1})}, 1)[0];
  expect_close(y, Tensor::of<float>({4, 2}, {0, 0, 0, 0, 0, 1, 0, 0}), 0, "one-hot rows of floats");
}

TEST(OneHot, MalformedOnesAreRefused) {
  Tensor i(DType::i64, {3}), v(DType::f32, {2});
  EXPECT_THROW(run_op("", "OneHot", {i, Tensor::scalar<int64_t>(-1), v}, 1), ModelError);
  EXPECT_THROW(run_op("", "OneHot", {i, Tensor::scalar<int64_t>(2), Tensor(DType::f32, {3})}, 1), ModelError);
  EXPECT_THROW(run_op("", "OneHot", {i, Tensor(DType::i64, {2}), v}, 1), ModelError);
  EXPECT_THROW(run_op("", "OneHot", {i, Tensor::scalar<int64_t>(2), v}, 1, {{"axis", int64_t{2}}}), ModelError);
}

}  // namespace
}  // namespace graft::test
