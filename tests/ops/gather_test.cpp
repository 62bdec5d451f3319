#include <gtest/gtest.h>

#include "tests/support/check_op.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::check_op;
using test::expect_close;
using test::random_tensor;
using test::run_op;

Attributes attributes(int64_t axis, const Dims& dims) { return {{"axis", axis}, {"dims", dims}}; }

void check(const Dims& dims, int64_t axis, const Dims& index_dims) {
  auto at = static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(dims.size()) : axis);
  Tensor indices(DType::i64, index_dims);
  for (int64_t k = 0; k < indices.count(); ++k) indices.data<int64_t>()[k] = (k * 5 + 1) % (2 * dims[at]) - dims[at];
  Dims dy_dims(dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(at));
  dy_dims.insert(dy_dims.end(), index_dims.begin(), index_dims.end());
  dy_dims.insert(dy_dims.end(), dims.begin() + static_cast<std::ptrdiff_t>(at) + 1, dims.end());
  Tensor dy = random_tensor(DType::f64, dy_dims, 1);
  int64_t outer = 1, inner = 1;
  for (size_t d = 0; d < dims.size(); ++d) (d < at ? outer : inner) *= d == at ? 1 : dims[d];
  Tensor want(DType::f64, dims);
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t k = 0; k < indices.count(); ++k) {
      int64_t row = (indices.data<int64_t>()[k] + dims[at]) % dims[at];
      for (int64_t i = 0; i < inner; ++i) {
        want.data<double>()[(o * dims[at] + row) * inner + i] +=
            dy.data<double>()[(o * indices.count() + k) * inner + i];
      }
    }
  }
  expect_close(run_op("graft", "GatherGrad", {dy, indices}, 1, attributes(axis, dims))[0], want, 1e-12);
  auto narrow =
      run_op("graft", "GatherGrad", {dy.cast(DType::f32), indices.cast(DType::i32)}, 1, attributes(axis, dims));
  expect_close(narrow[0], want.cast(DType::f32), 1e-5);
}

TEST(Gather, TakesSlices) {
  auto ids = [](const Dims& dims, const std::vector<int64_t>& values) {
    return test::Feeds{{"i", Tensor::of<int64_t>(dims, values)}};
  };
  check_op("(float[5,3] x, int64[2,2] i) => (y) { y = Gather(x, i) }", ids({2, 2}, {4, -5, 0, -1}));
  check_op("(float[5,3] x, int64[4] i) => (y) { y = Gather<axis = 1>(x, i) }", ids({4}, {2, 2, -3, 0}));
  check_op("(float[2,5,3] x, int64[1,3] i) => (y) { y = Gather<axis = -2>(x, i) }", ids({1, 3}, {3, 3, -4}));
  check_op("(float[2,5,3] x, int64 i) => (y) { y = Gather<axis = 1>(x, i) }", ids({}, {-1}));
  check_op("(float[7] x, int64 i) => (y) { y = Gather(x, i) }", ids({}, {6}));
  check_op("(float[7] x, int32[3] i) => (y) { y = Gather(x, i) }", {{"i", Tensor::of<int32_t>({3}, {6, -7, 0})}});
  check_op("(float[7,2] x, int64[0] i) => (y) { y = Gather(x, i) }", ids({0}, {}));
  check_op("(float[7,0] x, int64[2] i) => (y) { y = Gather(x, i) }", ids({2}, {1, 2}));
  check_op("(float[5,3] x) => (y) <int64[2] i = {1, -1}> { y = Gather(x, i) }");
}

TEST(Gather, EveryElementType) {
  for (const char* dtype : {"double", "int64", "int32", "uint8", "int8", "bool", "uint64", "int16"}) {
    check_op(cat("(", dtype, "[5,3] x) => (y) <int64[3] i = {1, -1, 4}> { y = Gather(x, i) }"), {},
             {.gradient = false});
  }
}

TEST(Gather, LargeEnoughForSeveralThreads) {
  test::OpCheck forward{.ranges = {{"i", {-300, 299}}}, .gradient = false};
  check_op("(float[300,129] x, int64[8,65] i) => (y) { y = Gather(x, i) }", {}, forward);
  check_op("(float[130,300] x, int64[8,65] i) => (y) { y = Gather<axis = 1>(x, i) }", {}, forward);
  check_op("(float[3,300,129] x, int64[80] i) => (y) { y = Gather<axis = 1>(x, i) }", {}, forward);
}

TEST(Gather, BadIndicesAreRefused) {
  Tensor x(DType::f32, {4, 3});
  for (int64_t index : {int64_t{4}, int64_t{-5}, INT64_MAX, INT64_MIN})
    EXPECT_THROW(run_op("", "Gather", {x, Tensor::of<int64_t>({2}, {0, index})}, 1), DataError) << index;
  EXPECT_THROW(run_op("", "Gather", {Tensor(DType::f32, {0, 3}), Tensor(DType::i64, {1})}, 1), DataError);
  EXPECT_THROW(run_op("", "Gather", {x, Tensor(DType::i64, {1})}, 1, {{"axis", int64_t{2}}}), ModelError);
  EXPECT_THROW(run_op("", "Gather", {x, Tensor(DType::f32, {1})}, 1), ModelError);
  Tensor many(DType::i64, {100000});
  many.data<int64_t>()[70001] = 4;
  try {
    run_op("", "Gather", {x, many}, 1);
    ADD_FAILURE() << "an index out of range was taken";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("index 4 at position 70001"), std::string::npos) << error.what();
  }
}

TEST(GatherGrad, AddsRowsWhereTheyCameFrom) {
  check({11, 7}, 0, {4, 6});
  check({3, 5, 2}, 1, {9});
  check({3, 5}, -1, {2, 2});
  check({5}, 0, {});
  check({300, 129}, 0, {8, 65});
  check({4, 3}, 0, {0});
}

TEST(GatherGrad, TheSameForEveryNumberOfThreads) {
  Tensor dy = random_tensor(DType::f32, {500, 130}, 1);
  Tensor indices(DType::i64, {500});
  for (int64_t k = 0; k < 500; ++k) indices.data<int64_t>()[k] = k * k % 7;
  test::expect_same_for_any_threads([&] {
    return run_op("graft", "GatherGrad", {dy, indices}, 1, attributes(0, {7, 130}))[0];
  });
}

TEST(GatherGrad, BadIndicesAndShapesAreRefused) {
  Tensor dy(DType::f32, {2, 3});
  EXPECT_THROW(run_op("graft", "GatherGrad", {dy, Tensor::of<int64_t>({2}, {0, 4})}, 1, attributes(0, {4, 3})),
               DataError);
  EXPECT_THROW(run_op("graft", "GatherGrad", {dy, Tensor::of<int64_t>({2}, {0, -5})}, 1, attributes(0, {4, 3})),
               DataError);
  EXPECT_THROW(run_op("graft", "GatherGrad", {dy, Tensor(DType::i64, {2})}, 1, attributes(0, {4, 2})), ModelError);
  EXPECT_THROW(run_op("graft", "GatherGrad", {dy, Tensor(DType::i64, {2})}, 1, attributes(2, {4, 3})), ModelError);
}

}  // namespace
}  // namespace graft
