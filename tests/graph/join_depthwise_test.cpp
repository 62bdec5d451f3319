#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

using Types = std::vector<std::string>;

std::unique_ptr<Graph> graph_of(const std::string& outputs, const std::string& body) {
  return test::graph_from_text(
      cat("(float[2,4,5,5] x, float[4] s, float[4] b, float[4] m, float[4] v, float[4,1,3,3] w, float[4,4,3,3] full, "
          "float[8,1,3,3] wide, float[4] c, float[2,4,5,5] r) => (",
          outputs, ") { ", body, " }"));
}

Types recognised(Graph& graph, const std::set<std::string>& disabled = {}) {
  recognise(graph, disabled);
  graph.prune();
  verify(graph);
  Types types;
  for (const auto& node : graph.nodes()) types.push_back(node->type);
  return types;
}

const std::string normalized = "n, nm, nv = BatchNormalization<training_mode = 1, epsilon = 0.25>(x, s, b, m, v) ";
const std::string convolved = "z = Conv<group = 4, pads = [1, 1, 1, 1]>(u, w) ";
const std::string again = "k, km, kv = BatchNormalization<training_mode = 1, momentum = 0.5>(z, b, s, v, m) ";

TEST(JoinDepthwise, TakesInBothNormalizations) {
  auto graph = graph_of("y", normalized + "u = Relu(n) " + convolved + again + "y = Clip(k)");
  for (const auto& node : graph->nodes()) {
    if (node->type == "Conv") node->name = "conv";
  }
  EXPECT_EQ(recognised(*graph), Types{"DepthwiseNormalization"});
  const Node& node = **graph->nodes().begin();
  EXPECT_EQ(node.name, "conv");
  EXPECT_EQ(node.outputs[0]->name, "y");
  EXPECT_EQ(node.real("first_epsilon", 0), 0.25);
  EXPECT_EQ(node.real("second_momentum", 0), 0.5);
  EXPECT_EQ(node.text("first_activation", ""), "relu");
  EXPECT_EQ(node.text("second_activation", ""), "clip");
  Types operands;
  for (const Value* input : node.inputs) operands.push_back(input->name);
  EXPECT_EQ(operands, (Types{"x", "s", "b", "m", "v", "w", "b", "s", "v", "m"}));
  auto off = graph_of("y", normalized + "u = Relu(n) " + convolved + again + "y = Clip(k)");
  EXPECT_EQ(recognised(*off, {"depthwise_normalization"}),
            (Types{"BatchNormalizationActivation", "Conv", "BatchNormalizationActivation"}));
}

TEST(JoinDepthwise, WithoutActivations) {
  auto graph = graph_of("k", normalized + "z = Conv<group = 4>(n, w) " + again);
  EXPECT_EQ(recognised(*graph), Types{"DepthwiseNormalization"});
}

TEST(JoinDepthwise, RunningStatisticsStayStates) {
  auto graph = graph_of("y", normalized + "u = Relu(n) " + convolved + again + "y = Relu(k)");
  const std::vector<std::string> updates = {"nm", "nv", "km", "kv"};
  for (const auto& name : updates)
    graph->bind_state(graph->add_state("state " + name, StateKind::statistic, DType::f32, {4}), graph->find(name));
  EXPECT_EQ(recognised(*graph), Types{"DepthwiseNormalization"});
  const Node& node = **graph->nodes().begin();
  for (size_t i = 0; i < updates.size(); ++i) {
    EXPECT_EQ(graph->states[i].out, node.outputs[i + 1]);
    EXPECT_EQ(graph->states[i].out->name, updates[i]);
  }
}

TEST(JoinDepthwise, LeavesAloneWhatDoesNotFit) {
  const std::string frozen = "n = BatchNormalization(x, s, b, m, v) ";
  for (auto [outputs, body] : std::vector<std::pair<std::string, std::string>>{
           {"y", frozen + "u = Relu(n) " + convolved + again + "y = Relu(k)"},
           {"y", normalized + "u = Relu(n) " + convolved + "y = BatchNormalization(z, s, b, m, v)"},
           {"y, u", normalized + "u = Relu(n) " + convolved + again + "y = Relu(k)"},
           {"y, z", normalized + "u = Relu(n) " + convolved + again + "y = Relu(k)"},
           {"y, o", normalized + "u = Relu(n) " + convolved + "o = Exp(u) " + again + "y = Relu(k)"},
           {"y", normalized + "u = Sigmoid(n) " + convolved + again + "y = Relu(k)"},
           {"y", normalized + "u = Relu(n) z = Conv(u, full) " + again + "y = Relu(k)"},
           {"y", normalized + "u = Relu(n) z = Conv<group = 4>(u, w, c) " + again + "y = Relu(k)"},
           {"y", normalized + "u = Relu(n) " + convolved + again + "a = Add(k, r) y = Relu(a)"},
           {"y", normalized + "u = Relu(n) " + convolved + "y = Relu(z)"},
           {"y", normalized + "u = Relu(n) y = Conv<group = 4>(u, wide)"},
       }) {
    auto graph = graph_of(outputs, body);
    for (const auto& type : recognised(*graph)) EXPECT_NE(type, "DepthwiseNormalization") << body;
  }
}

}  // namespace
}  // namespace graft
