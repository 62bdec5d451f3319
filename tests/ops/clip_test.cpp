#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

TEST(Clip, LimitsBothSidesOrOne) {
  check_op("(float[3,37] x) => (y) <float a = {-0.5}, float b = {1.25}> { y = Clip(x, a, b) }");
  check_op("(float[37] x) => (y) <float a = {0.25}> { y = Clip(x, a) }");
  check_op("(float[37] x) => (y) <float b = {0.25}> { y = Clip(x, , b) }");
  check_op("(float[37] x) => (y) { y = Clip(x) }");
  check_op("(float[37] x) => (y) <float a = {1}, float b = {-1}> { y = Clip(x, a, b) }");
  check_op("(float x) => (y) <float a = {-0.5}, float b = {0.25}> { y = Clip(x, a, b) }");
  check_op("(float[0] x) => (y) <float a = {-0.5}, float b = {0.25}> { y = Clip(x, a, b) }");
  check_op("(int64[9] x) => (y) <int64 a = {1}, int64 b = {2}> { y = Clip(x, a, b) }");
  check_op("(int8[9] x) => (y) <int8 b = {1}> { y = Clip(x, , b) }");
}

TEST(Clip, LimitsThatAreComputed) {
  check_op("(float[5,7] x, float a, float b) => (y) { y = Clip(x, a, b) }", {},
           {.ranges = {{"a", {-1, -0.5}}, {"b", {0.5, 1}}}});
  check_op("(float[5,7] x, float a, float b) => (y) { y = Clip(x, a, b) }", {},
           {.ranges = {{"a", {0.5, 1}}, {"b", {-1, -0.5}}}});
  check_op("(float[5,7] x, float a) => (y) { y = Clip(x, a) }", {}, {.ranges = {{"a", {-1, 1}}}});
}

TEST(Clip, NaNStaysNaN) {
  auto x = Tensor::of<float>({2}, {NAN, 7});
  auto y = run_op("", "Clip", {x, Tensor::scalar<float>(0), Tensor::scalar<float>(6)}, 1)[0];
  expect_close(y, Tensor::of<float>({2}, {NAN, 6}), 0, "clipped NaN");
}

TEST(Clip, BlockedLayoutsStayClean) {
  check_layout("(float[2,19,3,5] x) => (y) <float a = {0}, float b = {1}> { y = Clip(x, a, b) }", "nChw16c");
  check_layout("(float[2,19,3,5] x) => (y) <float a = {0.5}, float b = {1}> { y = Clip(x, a, b) }", "nChw16c");
  check_layout("(float[2,19,3,5] x) => (y) <float a = {-1}, float b = {-0.5}> { y = Clip(x, a, b) }", "nChw16c");
  check_layout("(float[2,19,3,5] x, float a) => (y) { y = Clip(x, a) }", "nChw8c", 0,
               {{"a", Tensor::scalar<float>(0.5)}});
}

TEST(Clip, MalformedOnesAreRefused) {
  Tensor x(DType::f32, {3});
  EXPECT_THROW(run_op("", "Clip", {x, Tensor(DType::f32, {2})}, 1), ModelError);
  EXPECT_THROW(run_op("", "Clip", {x, Tensor(DType::f64, {})}, 1), ModelError);
}

}  // namespace
}  // namespace graft::test
