#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

TEST(Cast, BetweenTypes) {
  auto x = Tensor::of<float>({6}, {-1.7F, 0, 0.4F, 3.6F, 100, -0.0F});
  for (int to : {1, 5, 6, 7, 9, 10, 11})
    check_op(cat("(float[6] x) => (y) { y = Cast<to = ", to, ">(x) }"), {{"x", x}}, {.gradient = to != 10});
  for (int to : {1, 6, 7, 9, 11}) check_op(cat("(int64[5] x) => (y) { y = Cast<to = ", to, ">(x) }"));
  check_op("(bool[5] x) => (y) { y = Cast<to = 1>(x) }");
  check_op("(float[3,5] x, double[2] like) => (y) { a = CastLike(x, like) y = Cast<to = 1>(a) }", {},
           {.fixed = {"like"}});
  check_layout("(float[2,19,3,5] x) => (y) { y = Cast<to = 11>(x) }", "nChw16c");
}

TEST(Cast, OutOfRangeGivesTheNearestEnd) {
  auto x = Tensor::of<float>({5}, {1e30F, -1e30F, NAN, 255.9F, -3});
  auto y = run_op("", "Cast", {x}, 1, {{"to", onnx_dtype(DType::u8)}})[0];
  expect_close(y, Tensor::of<uint8_t>({5}, {255, 0, 0, 255, 0}), 0);
  auto z = run_op("", "Cast", {x}, 1, {{"to", onnx_dtype(DType::i64)}})[0];
  expect_close(z, Tensor::of<int64_t>({5}, {INT64_MAX, INT64_MIN, 0, 255, -3}), 0);
}

TEST(Views, ReshapeFlattenSqueezeUnsqueeze) {
  check_op("(float[2,3,4] x) => (y) <int64[2] s = {-1, 6}> { y = Reshape(x, s) }");
  check_op("(float[2,3,4] x) => (y) <int64[3] s = {0, 4, -1}> { y = Reshape(x, s) }");
  check_op("(float[2,0,4] x) => (y) <int64[2] s = {0, 8}> { y = Reshape<allowzero = 1>(x, s) }");
  for (int axis : {0, 1, 3, -1}) check_op(cat("(float[2,3,4] x) => (y) { y = Flatten<axis = ", axis, ">(x) }"));
  check_op("(float[1,3,1] x) => (y) <int64[1] a = {-1}> { y = Squeeze(x, a) }");
  check_op("(float[1,3,1] x) => (y) { y = Squeeze(x) }");
  check_op("(float[3] x) => (y) <int64[2] a = {0, -1}> { y = Unsqueeze(x, a) }");
  check_op("(float[3] x) => (y) { y = Identity(x) }");
}

TEST(Expand, Broadcasts) {
  check_op("(float[3,1] x) => (y) <int64[3] s = {2, 1, 4}> { y = Expand(x, s) }");
  check_op("(float[2,3,1] x) => (y) <int64[1] s = {5}> { y = Expand(x, s) }");
  check_op("(float x) => (y) <int64[2] s = {2, 3}> { y = Expand(x, s) }");
  check_op("(float[3,4] x) => (y) <int64[2] s = {3, 4}> { y = Expand(x, s) }");
  check_op("(bool[3,1] x) => (y) <int64[2] s = {3, 4}> { y = Expand(x, s) }");
  check_op("(float[3,1] x) => (y) <int64[2] s = {3, 0}> { y = Expand(x, s) }");
}

TEST(Tile, Repeats) {
  check_op("(float[2,3] x) => (y) <int64[2] r = {3, 2}> { y = Tile(x, r) }");
  check_op("(float[2,3,2] x) => (y) <int64[3] r = {1, 2, 1}> { y = Tile(x, r) }");
  check_op("(float[2,3] x) => (y) <int64[2] r = {0, 2}> { y = Tile(x, r) }");
  check_op("(int64[4] x) => (y) <int64[1] r = {3}> { y = Tile(x, r) }");
}

TEST(Reshape, AnotherCountIsRefused) {
  auto reshape = [](const std::vector<int64_t>& dims) {
    return run_op("", "Reshape", {Tensor(DType::f32, {2, 4}), Tensor::of<int64_t>({2}, dims)}, 1);
  };
  EXPECT_NO_THROW(reshape({4, 2}));
  EXPECT_THROW(reshape({3, 5}), ModelError);
  EXPECT_THROW(reshape({1, 7}), ModelError);
}

}  // namespace
}  // namespace graft::test
