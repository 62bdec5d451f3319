#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft::test {
namespace {

Feeds indices(const Dims& dims, const std::vector<int64_t>& values) {
  return {{"i", Tensor::of<int64_t>(dims, values)}};
}

TEST(GatherND, TakesWhatTuplesName) {
  check_op("(float[3,4] x, int64[3,2] i) => (y) { y = GatherND(x, i) }", indices({3, 2}, {0, -1, 2, 3, -3, 3}));
  check_op("(float[3,4,2] x, int64[2,2,1] i) => (y) { y = GatherND(x, i) }", indices({2, 2, 1}, {0, -1, 2, 2}));
  check_op("(float[3,4,2] x, int64[3,2] i) => (y) { y = GatherND<batch_dims = 1>(x, i) }",
           indices({3, 2}, {0, -1, 3, 1, -4, 0}));
  check_op("(float[2,3,4] x, int64[2,2,1] i) => (y) { y = GatherND<batch_dims = 1>(x, i) }",
           indices({2, 2, 1}, {0, -1, 1, 1}));
  check_op("(float[3,4] x, int64[0,2] i) => (y) { y = GatherND(x, i) }", indices({0, 2}, {}));
  check_op("(bool[3,4] x, int64[2,2] i) => (y) { y = GatherND(x, i) }", indices({2, 2}, {0, -1, 2, 3}));
}

TEST(GatherND, BadIndicesAndShapesAreRefused) {
  Tensor x(DType::f32, {3, 4});
  auto run = [&](const Dims& dims, const std::vector<int64_t>& values, int64_t batch_dims) {
    run_op("", "GatherND", {x, Tensor::of<int64_t>(dims, values)}, 1, {{"batch_dims", batch_dims}});
  };
  EXPECT_NO_THROW(run({1, 2}, {-3, 3}, 0));
  EXPECT_THROW(run({1, 2}, {-4, 0}, 0), DataError);
  EXPECT_THROW(run({1, 2}, {0, 4}, 0), DataError);
  EXPECT_THROW(run({1, 2}, {0, INT64_MIN}, 0), DataError);
  EXPECT_THROW(run({1, 3}, {0, 0, 0}, 0), ModelError);
  EXPECT_THROW(run({1, 1}, {0}, 2), ModelError);
  EXPECT_THROW(run({2, 1}, {0, 0}, 1), ModelError);
  EXPECT_THROW(run({1, 1}, {0}, -1), ModelError);
}

TEST(ScatterND, PutsWhereTuplesName) {
  Feeds distinct = indices({3, 1}, {0, -1, 2});
  check_op("(float[4,3] x, int64[3,1] i, float[3,3] u) => (y) { y = ScatterND(x, i, u) }", distinct);
  check_op("(float[4,3] x, int64[2,2] i, float[2] u) => (y) { y = ScatterND(x, i, u) }",
           indices({2, 2}, {0, -1, 3, 0}));
  check_op("(float[4,3] x, int64[3,1] i, float[3,3] u) => (y) { y = ScatterND<reduction = \"add\">(x, i, u) }",
           indices({3, 1}, {1, 1, -3}));
  for (const char* reduction : {"add", "mul", "max", "min"}) {
    for (const char* dtype : {"float", "int32"}) {
      check_op(cat("(", dtype, "[4,3] x, int64[3,1] i, ", dtype, "[3,3] u) => (y) { y = ScatterND<reduction = \"",
                   reduction, "\">(x, i, u) }"),
               indices({3, 1}, {1, 1, -3}), {.gradient = false});
    }
  }
}

TEST(ScatterND, TheSameForEveryNumberOfThreads) {
  Tensor zeros(DType::f32, {50, 301}), updates = random_tensor(DType::f32, {400, 301}, 1), at(DType::i64, {400, 1});
  for (int64_t k = 0; k < at.count(); ++k) at.data<int64_t>()[k] = k * k % 97 % 50;
  auto run = [&] { return run_op("", "ScatterND", {zeros, at, updates}, 1, {{"reduction", std::string("add")}})[0]; };
  expect_same_for_any_threads(run);
}

TEST(ScatterND, BadIndicesAndShapesAreRefused) {
  Tensor x(DType::f32, {3, 4}), u(DType::f32, {2, 4});
  auto run = [&](const Dims& dims, const std::vector<int64_t>& values, const std::string& reduction) {
    run_op("", "ScatterND", {x, Tensor::of<int64_t>(dims, values), u}, 1, {{"reduction", reduction}});
  };
  EXPECT_NO_THROW(run({2, 1}, {-3, 2}, "none"));
  EXPECT_THROW(run({2, 1}, {0, 3}, "none"), DataError);
  EXPECT_THROW(run({2, 1}, {0, 0}, "average"), ModelError);
  EXPECT_THROW(run({1, 1}, {0}, "none"), ModelError);
  EXPECT_THROW(run({2, 3}, {0, 0, 0, 0, 0, 0}, "none"), ModelError);
}

}  // namespace
}  // namespace graft::test
