#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "ops/op.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

TEST(Transpose, Permutes) {
  check_op("(float[3,5] x) => (y) { y = Transpose(x) }");
  check_op("(float[2,3,4] x) => (y) { y = Transpose(x) }");
  check_op("(float[2,3,4] x) => (y) { y = Transpose<perm = [1, 2, 0]>(x) }");
  check_op("(float[2,3,4] x) => (y) { y = Transpose<perm = [0, 1, 2]>(x) }");
  check_op("(float[2,7,3,5] x) => (y) { y = Transpose<perm = [0, 2, 1, 3]>(x) }");
  check_op("(float[2,7,1,5] x) => (y) { y = Transpose<perm = [2, 0, 1, 3]>(x) }");
  check_op("(float[2,3,2,3,2] x) => (y) { y = Transpose<perm = [4, 0, 2, 1, 3]>(x) }");
  check_op("(float[37,41] x) => (y) { y = Transpose(x) }");
  check_op("(float[7] x) => (y) { y = Transpose(x) }");
  check_op("(float[3,0,2] x) => (y) { y = Transpose<perm = [2, 0, 1]>(x) }");
  check_op("(float x) => (y) { y = Transpose(x) }");
}

TEST(Transpose, EveryElementType) {
  for (const char* dtype : {"double", "int64", "int32", "uint8", "int8", "bool", "uint64", "int16"})
    check_op(cat("(", dtype, "[3,18,7] x) => (y) { y = Transpose<perm = [2, 0, 1]>(x) }"), {}, {.gradient = false});
  for (DType dtype : {DType::f16, DType::bf16}) {
    Tensor x = random_tensor(DType::f32, {19, 35}, 1).cast(dtype);
    auto y = run_op("", "Transpose", {x}, 1)[0];
    expect_close(y.cast(DType::f32), run_op("", "Transpose", {x.cast(DType::f32)}, 1)[0], 0, "half");
  }
}

TEST(Transpose, LargeEnoughForSeveralThreads) {
  check_op("(float[8,65,12,33] x) => (y) { y = Transpose<perm = [0, 2, 3, 1]>(x) }", {}, {.gradient = false});
  check_op("(int32[8,65,12,33] x) => (y) { y = Transpose<perm = [0, 2, 3, 1]>(x) }", {}, {.gradient = false});
  check_op("(int64[301,203] x) => (y) { y = Transpose(x) }", {}, {.gradient = false});
}

TEST(Transpose, BadPermutationsAreRefused) {
  Tensor x(DType::f32, {2, 3});
  for (const std::vector<int64_t>& perm : {std::vector<int64_t>{0}, {0, 0}, {0, 2}, {0, -1}, {0, 1, 2}})
    EXPECT_THROW(run_op("", "Transpose", {x}, 1, {{"perm", perm}}), ModelError) << cat(perm);
}

std::vector<std::string> types_after_lay_out(const std::string& text) {
  auto graph = graph_from_text(text);
  lay_out(*graph, {});
  std::vector<std::string> types;
  for (const auto& node : graph->nodes()) types.push_back(node->type);
  return types;
}

using Types = std::vector<std::string>;

TEST(Transpose, OnlyRenamesTheAxes) {
  auto graph = graph_from_text("(float[2,3,4,5] x) => (y) { y = Transpose<perm = [0, 2, 3, 1]>(x) }");
  const Node& node = **graph->nodes().begin();
  node.inputs[0]->layout = layout_of_tag("nChw8c", {2, 3, 4, 5});
  Candidate candidate = find_kernel(node)->propose(node).at(1);
  EXPECT_EQ(candidate.inputs[0], node.inputs[0]->layout);
  EXPECT_EQ(candidate.outputs[0].padded, (Dims{2, 4, 5, 8}));
  node.outputs[0]->layout = candidate.outputs[0];
  EXPECT_EQ(find_kernel(node)->settle(node, nullptr).views, (std::vector<std::pair<int, int>>{{0, 0}}));
}

TEST(Transpose, IsCopiedWhereSomeoneWantsItPlain) {
  EXPECT_EQ(types_after_lay_out("(float[2,3,4] x) => (y) { a = Transpose<perm = [0, 2, 1]>(x) y = Exp(a) }"),
            (Types{"Transpose", "Exp", "Reorder"}));
  EXPECT_EQ(types_after_lay_out("(float[4,1,3] x) => (y) { y = Transpose<perm = [1, 0, 2]>(x) }"),
            (Types{"Transpose"}));
}

// The master of a weight lies as its transpose is wanted, and so does the gradient: nothing is copied in a step.
TEST(Transpose, OfATrainedWeightCopiesNothing) {
  Graph graph;
  Value* w = graph.add_state("w", StateKind::parameter, DType::f32, {5, 3});
  Val x(graph, graph.add_input("x", DType::f32, {2, 3}));
  Val y = matmul(x, transpose(Val(graph, w), {1, 0}));
  Val one = constant_like(y, 1), step = constant(graph, Tensor::scalar<int64_t>(1));
  Val seed = expand(one, {2, 5});
  Val gradient(graph, differentiate(graph, {y.value()}, {seed.value()}, {w})[0]);
  graph.bind_state(w, call("graft", "Sgd", {Val(graph, w), gradient, one, one, step}, 1)[0].value());
  lay_out(graph, {});
  EXPECT_EQ(w->layout, Layout::permuted({5, 3}, {1, 0}));
  for (const auto& node : graph.nodes()) EXPECT_NE(node->type, "Reorder");
}

}  // namespace
}  // namespace graft::test
