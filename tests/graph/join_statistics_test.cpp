#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "ops/op.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

const std::string thin = "x = Conv(a, thin)";

// A 1x1 convolution before a pair of normalisations, laid out.
std::unique_ptr<Graph> graph_of(const std::string& outputs, const std::string& convolution, int64_t size = 48) {
  auto graph = test::graph_from_text(cat(
      "(float[2,16,", size, ",", size, "] a, float[32,16,1,1] thin, float[32,16,3,3] full, float[32] s, float[32] b, ",
      "float[32] m, float[32] v, float[32,1,3,3] w) => (", outputs, ") { ", convolution,
      " y, nm, nv, nm2, nv2 = graft.DepthwiseNormalization<group = 32>(x, s, b, m, v, w, s, b, m, v) }"));
  lay_out(*graph, {});
  return graph;
}

const Node& find(const Graph& graph, const std::string& type) {
  for (const auto& node : graph.nodes()) {
    if (node->type == type) return *node;
  }
  throw UsageError("no ", type);
}

TEST(JoinStatistics, AThinConvolutionLeavesThem) {
  for (const char* outputs : {"y", "y, x"}) {  // whoever reads x beside
    auto graph = graph_of(outputs, thin);
    EXPECT_EQ(join_statistics(*graph), 1);
    verify(*graph);
    const Value* statistics = find(*graph, "Conv").output(1);
    ASSERT_NE(statistics, nullptr);
    EXPECT_TRUE(statistics->opaque);
    EXPECT_EQ(find(*graph, "DepthwiseNormalization").input(10), statistics);
  }
}

TEST(JoinStatistics, OthersDoNot) {
  EXPECT_EQ(join_statistics(*graph_of("y", thin, 12)), 0);
  EXPECT_EQ(join_statistics(*graph_of("y", "x = Conv(a, full)")), 0);
  EXPECT_EQ(join_statistics(*graph_of("y", "c = Conv(a, thin) x = Relu(c)")), 0);
  auto graph = graph_of("y", thin);
  for (const auto& node : graph->nodes()) {
    if (node->type == "Conv") node->kernel = "direct";
  }
  EXPECT_EQ(join_statistics(*graph), 0);
}

}  // namespace
}  // namespace graft
