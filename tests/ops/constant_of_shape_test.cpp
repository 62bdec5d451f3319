#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

TEST(ConstantOfShape, OneValueEverywhere) {
  expect_close(run_op("", "ConstantOfShape", {Tensor::of<int64_t>({2}, {2, 3})}, 1)[0], Tensor(DType::f32, {2, 3}), 0,
               "float zeros by default");
  check_op("() => (y) <int64[2] s = {2, 3}> { y = ConstantOfShape<value = float[1] {1.5}>(s) }");
  check_op("() => (y) <int64[1] s = {100000}> { y = ConstantOfShape<value = int64[1] {-7}>(s) }");
  check_op("() => (y) <int64[1] s = {3}> { y = ConstantOfShape<value = bool[1] {1}>(s) }");
  check_op("() => (y) <int64[2] s = {0, 3}> { y = ConstantOfShape<value = float[1] {2}>(s) }");
  check_op("() => (y) <int64[0] s = {}> { y = ConstantOfShape<value = int32[1] {4}>(s) }");
}

TEST(ConstantOfShape, MalformedOnesAreRefused) {
  auto shape = Tensor::of<int64_t>({2}, {2, 3});
  EXPECT_THROW(run_op("", "ConstantOfShape", {shape}, 1, {{"value", Tensor(DType::f32, {2})}}), ModelError);
  EXPECT_THROW(run_op("", "ConstantOfShape", {Tensor::of<int64_t>({2}, {2, -3})}, 1), ModelError);
}

TEST(Range, CountsOn) {
  check_op("() => (y) <int64 a = {3}, int64 b = {14}, int64 d = {4}> { y = Range(a, b, d) }");
  check_op("() => (y) <int64 a = {3}, int64 b = {-14}, int64 d = {-5}> { y = Range(a, b, d) }");
  check_op("() => (y) <int64 a = {3}, int64 b = {3}, int64 d = {1}> { y = Range(a, b, d) }");
  check_op("() => (y) <int32 a = {0}, int32 b = {7}, int32 d = {1}> { y = Range(a, b, d) }");
  check_op("() => (y) <float a = {0.5}, float b = {2.1}, float d = {0.25}> { y = Range(a, b, d) }");
  check_op("() => (y) <double a = {1}, double b = {-1}, double d = {-0.5}> { y = Range(a, b, d) }");
}

TEST(Range, MalformedOnesAreRefused) {
  auto number = [](int64_t i) { return Tensor::scalar<int64_t>(i); };
  EXPECT_THROW(run_op("", "Range", {number(0), number(3), number(0)}, 1), ModelError);
  EXPECT_THROW(run_op("", "Range", {number(INT64_MIN), number(INT64_MAX), number(1)}, 1), Error);
  auto real = [](float f) { return Tensor::scalar<float>(f); };
  EXPECT_THROW(run_op("", "Range", {real(0), real(INFINITY), real(1)}, 1), ModelError);
  EXPECT_THROW(run_op("", "Range", {real(0), real(1), real(NAN)}, 1), ModelError);
  EXPECT_THROW(run_op("", "Range", {number(0), number(3), Tensor::scalar<float>(1)}, 1), ModelError);
  EXPECT_THROW(run_op("", "Range", {number(0), number(3), Tensor(DType::i64, {2})}, 1), ModelError);
}

}  // namespace
}  // namespace graft::test
