#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

TEST(Trilu, BothTriangles) {
  for (int upper : {0, 1}) {
    for (const char* dims : {"4,5", "5,3", "2,3,3", "1,4", "4,1"}) {
      check_op(cat("(float[", dims, "] x) => (y) { y = Trilu<upper = ", upper, ">(x) }"));
      for (int k : {-2, -1, 0, 1, 3, 7, -7})
        check_op(cat("(float[", dims, "] x) => (y) <int64 k = {", k, "}> { y = Trilu<upper = ", upper, ">(x, k) }"));
    }
    check_op(cat("(int64[3,4] x) => (y) { y = Trilu<upper = ", upper, ">(x) }"));
    check_op(cat("(bool[3,4] x) => (y) { y = Trilu<upper = ", upper, ">(x) }"));
    check_op(cat("(float[0,4] x) => (y) { y = Trilu<upper = ", upper, ">(x) }"));
  }
  check_op("(float[4,5] x, int64 k) => (y) { y = Trilu(x, k) }");
}

TEST(Trilu, HugeShifts) {
  auto x = Tensor::of<float>({2, 2}, {1, 2, 3, 4});
  auto run = [&](int64_t k, int64_t upper) {
    return run_op("", "Trilu", {x, Tensor::scalar<int64_t>(k)}, 1, {{"upper", upper}})[0];
  };
  expect_close(run(INT64_MAX, 1), Tensor(DType::f32, {2, 2}), 0);
  expect_close(run(INT64_MIN, 1), x, 0);
  expect_close(run(INT64_MAX, 0), x, 0);
  expect_close(run(INT64_MIN, 0), Tensor(DType::f32, {2, 2}), 0);
}

TEST(Trilu, MalformedOnesAreRefused) {
  EXPECT_THROW(run_op("", "Trilu", {Tensor(DType::f32, {3})}, 1), ModelError);
  EXPECT_THROW(run_op("", "Trilu", {Tensor(DType::f32, {3, 3}), Tensor(DType::i64, {2})}, 1), ModelError);
}

}  // namespace
}  // namespace graft::test
