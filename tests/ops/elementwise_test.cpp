#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

// The graph of a text, with all its nodes in one region.
std::unique_ptr<Graph> region_of(const std::string& text) {
  auto graph = graph_from_text(text);
  for (const auto& value : graph->values()) value->layout = Layout::plain(value->dims);
  EXPECT_EQ(join_elementwise(*graph), 1);
  EXPECT_EQ(graph->nodes().size(), 1U);
  return graph;
}

std::vector<Tensor> run(const Graph& graph) {
  std::map<std::string, Tensor> feeds;
  unsigned seed = 0;
  for (const Value* input : graph.inputs) feeds[input->name] = random_tensor(DType::f32, input->dims, ++seed, 0.2, 2);
  return evaluate(graph, feeds);
}

void expect_as_unfused(const std::string& text, double tolerance = 0) {
  auto expected = run(*graph_from_text(text));
  auto got = run(*region_of(text));
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) expect_close(got[i], expected[i], tolerance);
}

// Every kind of loop, operands broadcast along rows, columns and both, lengths around vectors and tiles.
TEST(Elementwise, IsAsItsNodes) {
  for (const char* dims : {"[1]", "[7]", "[3,37]", "[2,5,3,4]", "[700,3]", "[3,2500]", "[2,3,5000]", "[300,257]"}) {
    std::string type = cat("float", dims);
    expect_as_unfused(cat("(", type, " x, ", type, " p, float s) => (y) { a = Add(x, s) b = Tanh(a) y = Mul(b, p) }"));
    expect_as_unfused(cat("(", type, " x, ", type, " p) => (y, g) { a = Sigmoid(x) g = graft.SigmoidGrad(p, a) ",
                          "y = Sum(g, a, p, x) }"));
  }
  for (const char* other : {"[4]", "[3,1]", "[5,1,1]", "[2,1,1,4]", "[1,5,3,1]", ""}) {
    expect_as_unfused(cat("(float[2,5,3,4] x, float", other, " p) => (y, b) { a = Div(x, p) b = Relu(a) ",
                          "d = Sub(p, b) y = Max(d, a) }"));
  }
}

// More values between the steps than their share of a tile would leave room for one after the other.
TEST(Elementwise, ManyValuesAtOnce) {
  std::string body, sum;
  for (int i = 0; i < 11; ++i) {
    body += cat("a", i, " = Add(x, ", i == 0 ? std::string("p") : cat("a", i - 1), ") ");
    sum += cat(i == 0 ? "" : ", ", "a", i);
  }
  expect_as_unfused(cat("(float[40,401] x, float[401] p) => (y) { ", body, "y = Sum(", sum, ") }"));
}

// Over the outermost axes, the innermost, those in the middle, and all.
TEST(Elementwise, SumsWhatItComputes) {
  constexpr double tolerance = 2e-6;  // of sums of up to 77100 numbers, in another order
  for (const char* axes : {"int64[1] axes = {0}", "int64[1] axes = {-1}", "int64[1] axes = {1}",
                           "int64[2] axes = {0, 1}", "int64[2] axes = {0, 2}", "int64[3] axes = {0, 1, 2}"}) {
    for (const char* dims : {"[2,5,12]", "[300,1,257]", "[3,70,40]", "[1,4,1]", "[2,3,4000]"}) {
      for (int keepdims : {0, 1}) {
        expect_as_unfused(cat("(float", dims, " x, float", dims, " p) => (y, s) <", axes,
                              "> { a = Mul(x, p) y = Tanh(a) s = ReduceSum<keepdims = ", keepdims, ">(y, axes) }"),
                          tolerance);
        expect_as_unfused(cat("(float", dims, " x, float", dims, " p) => (s) <", axes,
                              "> { a = Mul(x, p) s = ReduceSum<keepdims = ", keepdims, ">(a, axes) }"),
                          tolerance);
      }
    }
  }
}

TEST(Elementwise, IsTheSameForAnyThreads) {
  for (const char* axes : {"int64[1] axes = {0}", "int64[1] axes = {1}", "int64[2] axes = {0, 1}"}) {
    auto sums = region_of(cat("(float[300,257] x, float[257] p) => (s) <", axes,
                              "> { a = Add(x, p) b = Gelu(a) s = ReduceSum(b, axes) }"));
    expect_same_for_any_threads([&] { return run(*sums)[0]; });
  }
  auto graph = region_of("(float[300,257] x, float[257] p) => (y) { a = Add(x, p) b = Gelu(a) y = Mul(b, x) }");
  expect_same_for_any_threads([&] { return run(*graph)[0]; });
}

// An output takes the place of an input that no later step reads.
TEST(Elementwise, OverwritesWhatIsReadNoMore) {
  auto graph =
      region_of("(float[6] x, float[6] p, float[6] q) => (a, y) { a = Add(x, p) b = Mul(a, p) y = Sum(b, a, q) }");
  const Node& node = *graph->nodes().front();
  std::set<std::pair<std::string, std::string>> found;
  for (auto [output, input] : find_kernel(node)->settle(node, nullptr).in_place) {
    found.emplace(node.outputs[static_cast<size_t>(output)]->name, node.inputs[static_cast<size_t>(input)]->name);
  }
  std::set<std::pair<std::string, std::string>> wanted = {{"a", "x"}, {"y", "x"}, {"y", "p"}};
  EXPECT_EQ(found, wanted);  // not (a, p) and (a, q), which are read later; nor (y, q), read after y is written
}

// Results are rounded once, whatever lies between them.
TEST(Elementwise, MixedPrecision) {
  for (const char* dims : {"[1]", "[7]", "[3,37]", "[2,5,3,4]", "[700,3]", "[2,3,5000]"}) {
    std::string x = cat("(float", dims, " x");
    for (const char* type : {"Relu", "Tanh", "Gelu", "Sigmoid"}) check_mixed(cat(x, ") => (y) { y = ", type, "(x) }"));
    check_mixed(cat(x, ", float", dims, " s) => (y) { y = graft.ReluGrad(x, s) }"));
    check_mixed(cat(x, ", float", dims, " s) => (y) { y = graft.GeluGrad(x, s) }"));
    check_mixed(cat(x, ") => (y) <float a = {-0.5}, float b = {1}> { y = Clip(x, a, b) }"));
    check_mixed(cat(x, ", float s, float", dims, " z) => (y) { y = Sum(x, s, z) }"));
  }
  for (const char* tag : {"nChw16c", "nhwc"}) {
    check_mixed("(float[2,19,3,5] a, float[19,1,1] b) => (y) { y = Add(a, b) }", tag);
    check_mixed("(float[19,1,1] a, float[2,19,3,5] b) => (y) { y = Mul(a, b) }", tag, 1);
    check_mixed("(float[2,19,1,1] a, float[2,19,3,5] b) => (y) { y = Mul(a, b) }", tag, 1);
    check_mixed("(float[2,19,3,5] a, float[2,19,3,5] b) => (y) { y = Mul(a, b) }", tag);
    check_mixed("(float[2,19,3,5] a) => (y) { y = Sigmoid(a) }", tag);
  }
  for (const char* other : {"5", "3,1", "19,1,1", "2,1,1,5", "1,19,1,1", ""})
    check_mixed(cat("(float", *other ? cat('[', other, ']') : "", " a, float[2,19,3,5] b) => (y) { y = Sub(a, b) }"));
}

// Casts and operands of both types in a region, values kept as both, a sum.
TEST(Elementwise, MixesTypesInARegion) {
  for (const char* dims : {"[7]", "[3,37]", "[300,257]"}) {
    std::string type = cat("float", dims);
    expect_as_unfused(cat("(", type, " x, ", type, " p) => (y, z) { a = Cast<to = 16>(x) b = Cast<to = 1>(a) ",
                          "y = Mul(b, p) z = Relu(y) }"),
                      1e-2);
  }
  auto expected = run(*graph_from_text(
      "(float[30,257] x) => (s) <int64[1] axes = {0}> { a = Tanh(x) b = Exp(a) s = ReduceSum(b, axes) }"));
  auto got =
      run(*region_of("(float[30,257] x) => (s) <int64[1] axes = {0}> { l = Cast<to = 16>(x) y = Cast<to = 1>(l) a = "
                     "Tanh(y) b = Exp(a) s = ReduceSum(b, axes) }"));
  expect_close(got[0], expected[0], 1e-2);
}

}  // namespace
}  // namespace graft::test
