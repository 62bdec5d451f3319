#include <gtest/gtest.h>

#include <cmath>

#include "graph/passes/passes.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

using Types = std::vector<std::string>;

const char* const inputs =
    "float[2,5,3,4] x, float[5] s, float[5] b, float[5] m, float[5] v, float[2,5,3,4] r, float[5,1,1] c";
const char* const limits = "<float low = {-1}, float high = {6}, float above = {0.5}>";

std::unique_ptr<Graph> graph_of(const std::string& outputs, const std::string& body) {
  return test::graph_from_text(cat("(", inputs, ") => (", outputs, ") ", limits, " { ", body, " }"));
}

Types recognised(Graph& graph, const std::set<std::string>& disabled = {}) {
  auto found = recognise(graph, disabled);
  graph.prune();
  verify(graph);
  Types types;
  int extended = 0;
  for (const auto& node : graph.nodes()) {
    types.push_back(node->type);
    extended += node->type == "BatchNormalizationActivation";
  }
  EXPECT_EQ(found["normalization_activation"], extended);
  return types;
}

const Types one = {"BatchNormalizationActivation"};

TEST(ExtendNormalization, TakesInAnAdditionAndAnActivation) {
  for (const char* body : {
           "n = BatchNormalization(x, s, b, m, v) y = Relu(n)",
           "n = BatchNormalization(x, s, b, m, v) y = Clip(n, low, high)",
           "n = BatchNormalization(x, s, b, m, v) y = Clip(n)",
           "n = BatchNormalization(x, s, b, m, v) y = HardSwish(n)",
           "n = BatchNormalization(x, s, b, m, v) y = Add(r, n)",
           "n = BatchNormalization(x, s, b, m, v) a = Add(n, r) y = Relu(a)",
           "n = BatchNormalization(x, s, b, m, v) a = Add(n, r) y = Clip(a, low, high)",
       }) {
    auto graph = graph_of("y", body);
    EXPECT_EQ(recognised(*graph), one) << body;
    EXPECT_EQ(graph->outputs[0]->name, "y");
    auto off = graph_of("y", body);
    EXPECT_GE(recognised(*off, {"normalization_activation"}).size(), 2U) << body;
  }
}

TEST(ExtendNormalization, KeepsAttributesOperandsAndName) {
  auto graph = graph_of("y", "n = BatchNormalization<epsilon = 0.25>(x, s, b, m, v) a = Add(r, n) y = Clip(a, , high)");
  (*graph->nodes().begin())->name = "norm";
  recognised(*graph);
  const Node& node = **graph->nodes().begin();
  EXPECT_EQ(node.name, "norm");
  EXPECT_EQ(node.real("epsilon", 0), 0.25);
  EXPECT_EQ(node.text("activation", ""), "clip");
  EXPECT_EQ(node.real("min", 0), -HUGE_VAL);
  EXPECT_EQ(node.real("max", 0), 6);
  ASSERT_EQ(node.inputs.size(), 6U);
  EXPECT_EQ(node.inputs[5]->name, "r");
}

TEST(ExtendNormalization, LeavesAloneWhatOthersRead) {
  for (auto [outputs, body] : std::vector<std::pair<const char*, const char*>>{
           {"y, n", "n = BatchNormalization(x, s, b, m, v) y = Relu(n)"},
           {"y, z", "n = BatchNormalization(x, s, b, m, v) y = Relu(n) z = Exp(n)"},
           {"y", "n = BatchNormalization(x, s, b, m, v) y = Add(n, n)"},
           {"y", "n = BatchNormalization(x, s, b, m, v) y = Add(n, c)"},
           {"y", "n = BatchNormalization(x, s, b, m, v) y = Clip(n, above, high)"},
           {"y", "n = BatchNormalization(x, s, b, m, v) y = Clip(x, low, high) z = Exp(n)"},
           {"y", "n = BatchNormalization(x, s, b, m, v) y = Sigmoid(n)"},
       }) {
    auto graph = graph_of(outputs, body);
    for (const auto& type : recognised(*graph)) EXPECT_NE(type, "BatchNormalizationActivation") << body;
  }
}

TEST(ExtendNormalization, StopsAtASumThatOthersRead) {
  auto graph = graph_of("y, z", "n = BatchNormalization(x, s, b, m, v) a = Add(n, r) y = Relu(a) z = Exp(a)");
  EXPECT_EQ(recognised(*graph), (Types{"BatchNormalizationActivation", "Relu", "Exp"}));
}

TEST(ExtendNormalization, OneOfTwoTakesTheOtherAsItsResidual) {
  auto graph = graph_of("y",
                        "n = BatchNormalization(x, s, b, m, v) k = BatchNormalization(r, s, b, m, v) a = Add(n, k) y = "
                        "Relu(a)");
  EXPECT_EQ(recognised(*graph), (Types{"BatchNormalization", "BatchNormalizationActivation"}));
}

TEST(ExtendNormalization, RunningStatisticsStayStates) {
  auto graph = graph_of("y", "n, nm, nv = BatchNormalization<training_mode = 1>(x, s, b, m, v) y = Relu(n)");
  std::vector<Value*> running;
  for (const char* name : {"mean", "var"}) {
    running.push_back(graph->add_state(name, StateKind::statistic, DType::f32, {5}));
    graph->bind_state(running.back(), graph->find(name == std::string("mean") ? "nm" : "nv"));
  }
  EXPECT_EQ(recognised(*graph), one);
  const Node* node = graph->nodes().begin()->get();
  for (size_t i : {0, 1}) {
    EXPECT_EQ(graph->states[i].in, running[i]);
    EXPECT_EQ(graph->states[i].out, node->outputs[i + 1]);
    EXPECT_EQ(graph->states[i].out->name, i ? "nv" : "nm");
  }
}

}  // namespace
}  // namespace graft
