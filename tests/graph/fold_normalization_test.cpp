#include <gtest/gtest.h>

#include <algorithm>

#include "graph/passes/passes.h"
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

}  // namespace
}  // namespace graft
