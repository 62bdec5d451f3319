#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

Feeds indices(const Dims& dims, const std::vector<int64_t>& values) {
  return {{"i", Tensor::of<int64_t>(dims, values)}};
}

TEST(GatherElements, TakesElements) {
  check_op("(float[3,4] x, int64[2,4] i) => (y) { y = GatherElements(x, i) }",
           indices({2, 4}, {0, -3, 2, 2, 1, 1, -1, 0}));
  check_op("(float[3,4] x, int64[2,5] i) => (y) { y = GatherElements<axis = 1>(x, i) }",
           indices({2, 5}, {0, -4, 3, 3, 3, 1, 1, 2, -1, 0}));
  check_op("(float[2,3,4] x, int64[1,2,3] i) => (y) { y = GatherElements<axis = -2>(x, i) }",
           indices({1, 2, 3}, {0, 2, -1, -3, 2, 1}));
  check_op("(float[2,3,4] x, int64[5,3,2] i) => (y) { y = GatherElements(x, i) }", {}, {.ranges = {{"i", {-2, 1}}}});
  check_op("(float[2,3,4] x, int64[2,2,3] i) => (y) { y = GatherElements<axis = 2>(x, i) }");
  check_op("(float[4] x, int32[6] i) => (y) { y = GatherElements(x, i) }");
  check_op("(float[4,3] x, int64[0,3] i) => (y) { y = GatherElements(x, i) }");
  for (const char* dtype : {"double", "int64", "int32", "uint8", "bool", "int16"})
    check_op(cat("(", dtype, "[4,3] x, int64[2,3] i) => (y) { y = GatherElements(x, i) }"), {}, {.gradient = false});
}

TEST(GatherElements, BadIndicesAndShapesAreRefused) {
  Tensor x(DType::f32, {3, 4});
  auto run = [&](const Dims& dims, const std::vector<int64_t>& values, int64_t axis) {
    run_op("", "GatherElements", {x, Tensor::of<int64_t>(dims, values)}, 1, {{"axis", axis}});
  };
  EXPECT_NO_THROW(run({1, 1}, {-4}, 1));
  EXPECT_THROW(run({1, 1}, {3}, 0), DataError);
  EXPECT_THROW(run({1, 1}, {-5}, 1), DataError);
  EXPECT_THROW(run({1, 1}, {0}, 2), ModelError);
  EXPECT_THROW(run({1, 5}, {0, 0, 0, 0, 0}, 0), ModelError);
  EXPECT_THROW(run({1}, {0}, 0), ModelError);
}

TEST(ScatterElements, PutsElements) {
  Feeds distinct = indices({2, 3}, {0, 2, -4, 2, -1, 1});
  const char* tail = "[4,3] x, int64[2,3] i, ";
  check_op(cat("(float", tail, "float[2,3] u) => (y) { y = ScatterElements(x, i, u) }"), distinct);
  check_op(cat("(float", tail, "float[2,3] u) => (y) { y = ScatterElements<reduction = \"add\">(x, i, u) }"), distinct);
  check_op("(float[2,5] x, int64[2,3] i, float[2,3] u) => (y) { y = ScatterElements<axis = -1>(x, i, u) }",
           indices({2, 3}, {0, 2, -1, 4, -2, 1}));
  for (const char* reduction : {"add", "mul", "max", "min"}) {
    for (const char* dtype : {"float", "int64", "uint8"}) {
      check_op(cat("(", dtype, tail, dtype, "[2,3] u) => (y) { y = ScatterElements<reduction = \"", reduction,
                   "\">(x, i, u) }"),
               indices({2, 3}, {1, 1, 1, 1, 1, -3}), {.gradient = false});
    }
  }
  check_op("(float[3,2] x, int64[5,2] i, float[5,2] u) => (y) { y = ScatterElements<reduction = \"add\">(x, i, u) }",
           indices({5, 2}, {0, 0, 0, 1, 0, -1, 2, 2, 0, 0}));
  check_op("(bool[4,3] x, int64[2,3] i, bool[2,3] u) => (y) { y = ScatterElements(x, i, u) }", distinct);
}

TEST(ScatterElements, TheSameForEveryNumberOfThreads) {
  Tensor zeros(DType::f32, {50, 301}), updates = random_tensor(DType::f32, {400, 301}, 1);
  Tensor at(DType::i64, {400, 301});
  for (int64_t k = 0; k < at.count(); ++k) at.data<int64_t>()[k] = k * k % 97 % 50;
  auto run = [&] {
    return run_op("", "ScatterElements", {zeros, at, updates}, 1, {{"reduction", std::string("add")}})[0];
  };
  expect_same_for_any_threads(run);
}

TEST(ScatterElements, BadIndicesAndShapesAreRefused) {
  Tensor x(DType::f32, {3, 4}), u(DType::f32, {1, 2});
  auto run = [&](const Dims& dims, const std::vector<int64_t>& values, const std::string& reduction) {
    run_op("", "ScatterElements", {x, Tensor::of<int64_t>(dims, values), u}, 1, {{"reduction", reduction}});
  };
  EXPECT_NO_THROW(run({1, 2}, {-3, 2}, "none"));
  EXPECT_THROW(run({1, 2}, {0, 3}, "none"), DataError);
  EXPECT_THROW(run({1, 2}, {0, -4}, "add"), DataError);
  EXPECT_THROW(run({1, 2}, {0, 0}, "sub"), ModelError);
  EXPECT_THROW(run({2, 1}, {0, 0}, "none"), ModelError);
  EXPECT_THROW(run({2}, {0, 0}, "none"), ModelError);
}

}  // namespace
}  // namespace graft::test
