#include <gtest/gtest.h>

#include <algorithm>

#include "graph/passes/passes.h"
#include "runtime/evaluate.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

constexpr const char* text =
    "(float[2,3,5,5] x) => (y) <float[2,3,1,1] w = {1,2,3,4,5,6}, float[2] b = {1,2}, float[2] scale = {1,2}, "
    "float[2] shift = {3,4}, float[2] mean = {5,6}, float[2] variance = {7,8}> "
    "{ h = Conv(x, w, b)  y = BatchNormalization(h, scale, shift, mean, variance) }";

struct Folded {
  std::unique_ptr<Graph> graph = test::graph_from_text(text);
  int fold(const std::set<std::string>& trained = {}) {
    int count = fold_normalization(*graph, trained);
    graph->prune();
    verify(*graph);
    return count;
  }
  int64_t nodes(const std::string& type) const {
    return std::ranges::count_if(graph->nodes(), [&](const auto& node) { return node->type == type; });
  }
};

std::unique_ptr<Graph> with_states() {
  auto graph = test::graph_from_text(text);
  classify(*graph);
  return graph;
}

TEST(FoldNormalization, WeightsTakeItIn) {
  Folded folded{with_states()};
  EXPECT_EQ(folded.fold(), 1);
  EXPECT_EQ(folded.nodes("BatchNormalization"), 0);
  EXPECT_EQ(folded.nodes("Conv"), 1);
  EXPECT_EQ(folded.graph->outputs[0]->name, "y");
  // All but the convolution is computed once.
  split_prologue(*folded.graph);
  EXPECT_EQ(std::ranges::count_if(folded.graph->nodes(), [](const auto& node) { return node->stage == Stage::step; }),
            1);
}

TEST(FoldNormalization, WhatIsTrainedStays) {
  for (const char* name : {"w", "b", "scale", "shift"}) {
    Folded folded{with_states()};
    EXPECT_EQ(folded.fold({name}), 0) << name;
    EXPECT_EQ(folded.nodes("BatchNormalization"), 1);
  }
}

TEST(FoldNormalization, LiveStatisticsStay) {
  Folded folded{with_states()};
  set_mode(*folded.graph, true, {"scale"});
  EXPECT_EQ(fold_normalization(*folded.graph, {}), 0);
}

TEST(FoldNormalization, AConvolutionThatOthersReadStays) {
  Folded folded{with_states()};
  folded.graph->outputs.push_back(folded.graph->find("h"));
  EXPECT_EQ(folded.fold(), 0);
}

// A convolution, a normalisation and what is behind it, with a second convolution that gives what is added.
constexpr const char* finished_text =
    "(float[2,3,5,5] x) => (y) <float[2,3,1,1] w = {1,2,3,4,5,6}, float[2,3,1,1] v = {6,-5,4,-3,2,-1}, "
    "float[2] scale = {1,-2}, float[2] shift = {3,4}, float[2] mean = {5,6}, float[2] variance = {7,8}> "
    "{ h = Conv(x, w)  r = Conv(x, v)  n = BatchNormalization(h, scale, shift, mean, variance)  s = Add(n, r) "
    " y = Relu(s) }";

std::unique_ptr<Graph> finished() {
  auto graph = test::graph_from_text(finished_text);
  classify(*graph);
  EXPECT_EQ(extend_normalization(*graph), 1);
  return graph;
}

TEST(FoldNormalization, TakesInWhatIsBehindIt) {
  const std::map<std::string, Tensor> feeds{{"x", test::random_tensor(DType::f32, {2, 3, 5, 5}, 1)}};
  const Tensor expected = evaluate(*test::graph_from_text(finished_text), feeds).at(0);
  auto constants = test::graph_from_text(finished_text);
  extend_normalization(*constants);
  EXPECT_EQ(fold_normalization(*constants, {}), 1);
  test::expect_close(evaluate(*constants, feeds).at(0), expected, 1e-5);

  Folded folded{finished()};
  EXPECT_EQ(folded.fold(), 1);
  EXPECT_EQ(folded.nodes("BatchNormalizationActivation"), 0);
  const Node& node = *folded.graph->outputs[0]->producer;
  EXPECT_EQ(node.domain + '.' + node.type, "graft.Conv");
  EXPECT_EQ(folded.graph->outputs[0]->name, "y");
  EXPECT_EQ(node.input(3), folded.graph->find("r"));
  EXPECT_EQ(node.text("activation", ""), "relu");
}

// Its slope is wanted there, and it would have to be found from y.
TEST(FoldNormalization, WhatIsBehindItStaysWhereGradientsFlow) {
  for (const char* name : {"v", "w", "scale"}) {
    Folded folded{finished()};
    EXPECT_EQ(folded.fold({name}), 0) << name;
  }
  Folded folded{finished()};
  EXPECT_EQ(fold_normalization(*folded.graph, {}, false), 0);
}

}  // namespace
}  // namespace graft
