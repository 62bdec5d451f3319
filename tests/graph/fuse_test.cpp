#include <gtest/gtest.h>

#include <algorithm>

#include "graph/passes/passes.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

using test::graph_from_text;

std::vector<std::string> fused(Graph& graph, const std::set<std::string>& disabled = {}) {
  fuse(graph, disabled);
  verify(graph);
  std::vector<std::string> types;
  for (const auto& node : graph.nodes()) types.push_back(node->type);
  return types;
}

using Types = std::vector<std::string>;

TEST(Fuse, EqualNodesAreMergedThroughEqualConstants) {
  const char* text =
      "(float[2,3] x) => (y) <int64[1] a = {1}, int64[1] b = {1}> { p = ReduceSum<keepdims = 1>(x, a) q = "
      "ReduceSum<keepdims = 1>(x, b) "
      "r = Exp(p) s = Exp(q) y = Mul(r, s) }";
  auto graph = graph_from_text(text);
  EXPECT_EQ(fused(*graph), (Types{"ReduceSum", "Exp", "Mul"}));
  auto off = graph_from_text(text);
  EXPECT_EQ(fused(*off, {"merge_equal"}).size(), 5U);
}

TEST(Fuse, DifferentAttributesOperandsAndRandomNodesStayApart) {
  auto graph = graph_from_text(
      "(float[2,3] x, float[2,3] z) => (y, t) { a = Softmax<axis = 0>(x) b = Softmax<axis = 1>(x) c = Softmax<axis = "
      "1>(z) "
      "d = Mul(a, b) y = Mul(d, c) r = RandomNormalLike(x) s = RandomNormalLike(x) t = Sub(r, s) }");
  EXPECT_EQ(fused(*graph).size(), 8U);
}

TEST(Fuse, GraphOutputsAndStatesKeepTheirValues) {
  auto graph = graph_from_text("(float[3] x) => (a, b, c) { a = Exp(x) b = Exp(x) c = Identity(x) }");
  Value* state = graph->add_state("w", StateKind::parameter, DType::f32, {3});
  graph->bind_state(state, graph->add_node("", "Exp", {graph->inputs[0]}, 1)->outputs[0]);
  graph->states[0].out->dtype = DType::f32;
  graph->states[0].out->ranked = true;
  graph->states[0].out->dims = {3};
  EXPECT_EQ(fused(*graph), (Types{"Exp", "Exp", "Identity", "Exp"}));
  EXPECT_EQ(graph->outputs[0]->name, "a");
  EXPECT_EQ(graph->outputs[1]->name, "b");
  EXPECT_EQ(graph->outputs[2]->name, "c");
}

TEST(Fuse, WhatChangesNothingGoes) {
  auto graph = graph_from_text(
      "(float[2,3] x) => (y) <int64[2] shape = {2, 3}, int64[1] flat = {6}> { a = Identity(x) b = Cast<to = 1>(a) c = "
      "Reshape(b, shape) "
      "d = Expand(c, shape) e = Transpose<perm = [1, 0]>(d) f = Transpose<perm = [1, 0]>(e) g = Reshape(f, flat) y = "
      "Exp(g) }");
  EXPECT_EQ(fused(*graph), (Types{"Reshape", "Exp"}));
}

TEST(Fuse, ProductsTakeInTheVectorBehindThem) {
  const std::string head = "(float[2,5,3] x, float[3,4] w, float[4] b, float[5,4] m, float[1] one) => (y";
  for (const char* body : {") { p = MatMul(x, w) y = Add(p, b) }", ") { p = MatMul(x, w) y = Add(b, p) }"}) {
    auto graph = graph_from_text(head + body);
    EXPECT_EQ(fused(*graph), Types{"MatMul"});
    EXPECT_EQ((*graph->nodes().begin())->domain, "graft");
    EXPECT_EQ((*graph->nodes().begin())->inputs[2]->name, "b");
    EXPECT_EQ(graph->outputs[0]->name, "y");
    auto off = graph_from_text(head + body);
    EXPECT_EQ(fused(*off, {"product_bias"}), (Types{"MatMul", "Add"}));
  }
  for (const char* body :
       {", p) { p = MatMul(x, w) y = Add(p, b) }", ", z) { p = MatMul(x, w) y = Add(p, b) z = Exp(p) }",
        ") { p = MatMul(x, w) y = Add(p, m) }", ") { p = MatMul(x, w) y = Add(p, one) }"})
    EXPECT_NE(fused(*graph_from_text(head + body)), Types{"MatMul"}) << body;
}

TEST(Fuse, TransposesCompose) {
  auto graph = graph_from_text(
      "(float[2,3,4] x) => (y) { a = Transpose<perm = [1, 2, 0]>(x) y = Transpose<perm = [1, 0, 2]>(a) }");
  EXPECT_EQ(fused(*graph), (Types{"Transpose"}));
  EXPECT_EQ(graph->outputs[0]->producer->integers("perm"), (std::vector<int64_t>{2, 1, 0}));
  EXPECT_EQ(graph->outputs[0]->dims, (Dims{4, 3, 2}));
}

TEST(Fuse, ForwardLinksFollowMergedNodes) {
  auto graph = graph_from_text(
      "(float[3] x, float[3] z) => (y) { a = Exp(x) b = Exp(x) c = Mul(a, z) d = Mul(b, z) y = Sub(c, d) }");
  auto nodes = graph->node_list();
  nodes[2]->forward = nodes[0];
  nodes[3]->forward = nodes[1];
  EXPECT_EQ(fused(*graph), (Types{"Exp", "Mul", "Sub"}));
  EXPECT_EQ(graph->node_list()[1]->forward, graph->node_list()[0]);
}

}  // namespace
}  // namespace graft
