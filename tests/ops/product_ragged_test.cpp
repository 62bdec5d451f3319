// Products that skip rows of zeros.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

// Which rows of a gradient have values.
const std::vector<std::pair<const char*, std::function<bool(int64_t)>>> patterns = {
    {"all", [](int64_t) { return true; }},
    {"none", [](int64_t) { return false; }},
    {"samples of several lengths", [](int64_t r) { return r % 128 < 5 + 16 * (r / 128 % 8); }},
    {"the first token of each sample", [](int64_t r) { return r % 128 == 0; }},
    {"the last alone", [](int64_t r) { return r == 1299; }},
    {"every other", [](int64_t r) { return r % 2 == 1; }},
    {"all but a few", [](int64_t r) { return r % 40 != 7; }},
};

Tensor gradient(const Dims& dims, const std::function<bool(int64_t)>& has_values, unsigned seed) {
  Tensor x = random_tensor(DType::f32, dims, seed);
  for (int64_t i = 0; i < x.count(); ++i) {
    if (!has_values(i / dims.back())) x.data<float>()[i] = i % 3 == 0 ? -0.0F : 0.0F;
  }
  return x;
}

// A product of a gradient as rules write it, and where the gradient is.
struct Case {
  const char* domain;
  const char* type;
  Attributes attributes;
  int64_t operand;
  Dims a, b;
};

std::vector<Case> cases() {
  constexpr int64_t yes = 1;
  const Dims dy = {1300, 70}, wide = {1300, 90};
  return {
      {"graft", "MatMul", {{"transB", yes}}, 0, dy, {90, 70}},
      {"graft", "MatMul", {}, 0, dy, {70, 90}},
      {"graft", "MatMul", {}, 0, {10, 130, 70}, {70, 90}},
      {"graft", "MatMul", {{"transA", yes}}, 1, wide, dy},
      {"graft", "MatMul", {{"transA", yes}}, 0, dy, wide},
      {"", "Gemm", {{"alpha", 0.3}, {"transB", yes}}, 0, dy, {90, 70}},
      {"", "Gemm", {{"alpha", 0.3}, {"transA", yes}}, 1, wide, dy},
      {"", "Gemm", {{"alpha", 0.3}, {"transA", yes}}, 0, dy, wide},
      {"graft", "MatMul", {{"transB", yes}}, 0, dy, {700, 70}},  // of which the larger operand is read as it lies
      {"graft", "MatMul", {{"transB", yes}}, 0, {40, 70}, {700, 70}},
      {"graft", "MatMul", {{"transA", yes}, {"transB", yes}}, 1, {70, 90}, {1300, 70}},  // columns: nothing is skipped
      {"graft", "MatMul", {}, 0, {2, 40, 70}, {2, 70, 90}},                              // batches: the same
  };
}

Tensor product(const Case& c, const Tensor& a, const Tensor& b, bool skips) {
  Graph graph;
  std::vector<Value*> operands = {graph.add_input("a", DType::f32, a.dims()),
                                  graph.add_input("b", DType::f32, b.dims())};
  Node* node = graph.add_node(c.domain, c.type, operands, 1, c.attributes);
  infer(*node);
  if (skips) node->attributes["zero_rows"] = c.operand;
  return evaluate(*node, {a, b})[0];
}

TEST(RaggedProduct, HasTheBitsOfAWholeOne) {
  for (const Case& c : cases()) {
    for (const auto& [name, has_values] : patterns) {
      Tensor a = c.operand == 0 ? gradient(c.a, has_values, 1) : random_tensor(DType::f32, c.a, 1);
      Tensor b = c.operand == 1 ? gradient(c.b, has_values, 2) : random_tensor(DType::f32, c.b, 2);
      Tensor wanted = product(c, a, b, false), got = product(c, a, b, true);
      ASSERT_EQ(got.dims(), wanted.dims());
      EXPECT_EQ(std::memcmp(got.raw(), wanted.raw(), static_cast<size_t>(got.bytes())), 0)
          << cat(c.type, c.a, c.b, ' ', name);
    }
  }
}

// Zero times infinity is no number; what is not computed is zero.
TEST(RaggedProduct, ComputesNothingOfRowsOfZeros) {
  constexpr int64_t yes = 1;
  Tensor dy = gradient({1300, 70}, patterns[2].second, 1), x = random_tensor(DType::f32, {1300, 90}, 2);
  for (int64_t i = 0; i < x.count(); ++i) {
    if (!patterns[2].second(i / 90)) x.data<float>()[i] = INFINITY;
  }
  auto is_finite = [](const Tensor& y) {
    for (float value : y.values<float>()) {
      if (!std::isfinite(value)) return false;
    }
    return true;
  };
  Case weight{"graft", "MatMul", {{"transA", yes}}, 1, {1300, 90}, {1300, 70}};
  EXPECT_TRUE(is_finite(product(weight, x, dy, true)));
  EXPECT_FALSE(is_finite(product(weight, x, dy, false)));
  Tensor w = random_tensor(DType::f32, {70, 90}, 3);
  w.data<float>()[5] = INFINITY;
  Case data{"graft", "MatMul", {}, 0, {1300, 70}, {70, 90}};
  Tensor dx = product(data, dy, w, true);
  for (int64_t row = 0; row < 1300; ++row) {
    EXPECT_EQ(std::isfinite(dx.data<float>()[row * 90 + 5]), !patterns[2].second(row)) << row;
  }
  // A row that is no number is a row with values.
  Tensor bad = gradient({1300, 70}, patterns[1].second, 1);
  bad.data<float>()[1299 * 70 + 69] = NAN;
  EXPECT_TRUE(std::isnan(product(data, bad, random_tensor(DType::f32, {70, 90}, 3), true).data<float>()[1299 * 90]));
}

TEST(RaggedProduct, ThreadsDoNotChangeBits) {
  for (const Case& c : cases()) {
    Tensor a = c.operand == 0 ? gradient(c.a, patterns[2].second, 1) : random_tensor(DType::f32, c.a, 1);
    Tensor b = c.operand == 1 ? gradient(c.b, patterns[2].second, 2) : random_tensor(DType::f32, c.b, 2);
    expect_same_for_any_threads([&] { return product(c, a, b, true); });
  }
}

// Columns that lie apart, for a Transpose behind the product.
TEST(RaggedProduct, WritesByStrides) {
  auto run = [](const char* flag) {
    auto graph = graph_from_text(cat("(float[1300,70] dy, float[70,90] w) => (y) { c = graft.MatMul<", flag,
                                     ">(dy, w) y = Transpose<perm = [1, 0]>(c) }"));
    return evaluate(*graph, {{"dy", gradient({1300, 70}, patterns[2].second, 1)},
                             {"w", random_tensor(DType::f32, {70, 90}, 2)}})[0];
  };
  expect_close(run("zero_rows = 0"), run("zero_rows = -1"), 0, "transposed");
}

}  // namespace
}  // namespace graft::test
