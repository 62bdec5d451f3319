#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

using Types = std::vector<std::string>;

std::unique_ptr<Graph> graph_of(const std::string& outputs, const std::string& body) {
  return test::graph_from_text(cat(
      "(float[2,3,5,4] q, float[2,3,4,7] k, float[2,3,7,6] v, float[2,1,1,7] m, float[4,7] one, float[2,1,3,5,7] wide, "
      "float[2,3,5,7] full) => (",
      outputs, ") <float c = {0.25}, float[1] d = {8}> { ", body, " }"));
}

Types recognised(Graph& graph, const std::set<std::string>& disabled = {}) {
  recognise(graph, disabled);
  graph.prune();
  verify(graph);
  Types types;
  for (const auto& node : graph.nodes()) types.push_back(node->type);
  return types;
}

const Node* attention(const Graph& graph) {
  for (const auto& node : graph.nodes()) {
    if (node->type == "Attention") return node.get();
  }
  return nullptr;
}

TEST(JoinAttention, TakesInScaleAndMask) {
  const std::string begin = "s = MatMul(q, k) ", end = "p = Softmax(a) y = MatMul(p, v)";
  for (auto [middle, scale, masked] : std::vector<std::tuple<std::string, double, bool>>{
           {"a = Mul(s, c) ", 0.25, false},
           {"a = Mul(c, s) ", 0.25, false},
           {"a = Div(s, d) ", 0.125, false},
           {"a = Add(s, m) ", 1, true},
           {"t = Mul(s, c) a = Add(t, m) ", 0.25, true},
           {"t = Div(s, d) i = Identity(t) a = Add(m, i) ", 0.125, true},
       }) {
    auto graph = graph_of("y", begin + middle + end);
    EXPECT_EQ(recognised(*graph), (Types{"Transpose", "Attention"})) << middle;
    const Node* node = attention(*graph);
    ASSERT_TRUE(node) << middle;
    EXPECT_EQ(node->real("scale", 0), scale) << middle;
    EXPECT_EQ(node->input(3) != nullptr, masked) << middle;
    EXPECT_EQ(node->outputs[0]->name, "y");
    EXPECT_EQ(node->inputs[0]->name, "q");
    EXPECT_EQ(node->inputs[1]->dims, (Dims{2, 3, 7, 4}));
    EXPECT_EQ(node->inputs[2]->name, "v");
    auto off = graph_of("y", begin + middle + end);
    recognised(*off, {"attention"});
    EXPECT_FALSE(attention(*off));
  }
}

TEST(JoinAttention, LeavesAloneWhatDoesNotFit) {
  for (auto [outputs, body] : std::vector<std::pair<std::string, std::string>>{
           {"y, p", "s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v)"},
           {"y, s", "s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v)"},
           {"y, o", "s = MatMul(q, k) p = Softmax(s) o = Exp(p) y = MatMul(p, v)"},
           {"y", "s = MatMul(q, k) p = Softmax<axis = 2>(s) y = MatMul(p, v)"},
           {"y", "s = MatMul(q, one) p = Softmax(s) y = MatMul(p, v)"},
           {"y", "p = Softmax(full) y = MatMul(p, v)"},
           {"y", "s = MatMul(q, k) t = Mul(s, full) p = Softmax(t) y = MatMul(p, v)"},
           {"y", "s = MatMul(q, k) t = Add(s, wide) p = Softmax(t) y = MatMul(p, v)"},
           {"y", "s = MatMul(q, k) t = Div(c, s) p = Softmax(t) y = MatMul(p, v)"},
       }) {
    auto graph = graph_of(outputs, body);
    recognised(*graph);
    EXPECT_FALSE(attention(*graph)) << body;
  }
}

}  // namespace
}  // namespace graft
