#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "tests/support/check_op.h"
#include "tests/support/check_pass.h"

namespace graft {
namespace {

std::unique_ptr<Graph> graph_of(const std::string& results, const std::string& body) {
  return test::plain_graph(cat(
      "(float[2,5,3,4] x, float[2,5,3,4] p, float[5,1,1] c, float[5,1,1] d) => (", results,
      ") <float low = {-0.25}, float high = {0.75}, int64[2] map = {2, 3}, int64[3] all_but_channels = {0, 2, 3}> { ",
      body, " }"));
}

size_t nodes_after(Graph& graph, int regions, double tolerance = 0) {
  return test::check_joining(join_elementwise, graph, regions, tolerance, 0.1, 2);
}

TEST(JoinElementwise, AChainIsOneRegion) {
  auto graph = graph_of("y", "a = Add(x, p) b = Relu(a) g = Mul(b, c) h = Clip(g, low, high) y = Sum(h, x, a)");
  EXPECT_EQ(nodes_after(*graph, 1), 1U);
  const Node& region = *graph->nodes().front();
  EXPECT_EQ(region.type, "Elementwise");
  EXPECT_EQ(region.inputs.size(), 3U);  // each once; the limits of Clip are inside
  EXPECT_EQ(graph->outputs[0]->name, "y");
}

TEST(JoinElementwise, WhatOthersReadBecomesAResult) {
  auto graph = graph_of("y, s, b", "a = Add(x, p) b = Sigmoid(a) y = Mul(b, low) s = ReduceSum(a)");
  EXPECT_EQ(nodes_after(*graph, 1), 2U);
  EXPECT_EQ(graph->find("a")->producer, graph->find("y")->producer);
  EXPECT_EQ(graph->find("b")->producer, graph->find("y")->producer);
}

TEST(JoinElementwise, RegionsThatMeetBecomeOne) {
  auto graph = graph_of("y", "a = Abs(x) b = Neg(a) g = Exp(p) h = Sub(g, c) y = Div(b, h)");
  EXPECT_EQ(nodes_after(*graph, 1), 1U);
}

TEST(JoinElementwise, TakesInOneSum) {
  auto graph = graph_of("s, t", "a = Mul(x, p) s = ReduceSum(a, map) t = ReduceSum(a, all_but_channels)");
  EXPECT_EQ(nodes_after(*graph, 1, 1e-6), 2U);
  EXPECT_EQ(graph->find("s")->producer->type, "Elementwise");
  EXPECT_EQ(graph->find("t")->producer->type, "ReduceSum");
  // What reads the sum waits for the end of the region.
  graph = graph_of("y", "a = Abs(x) s = ReduceSum<keepdims = 1>(a, map) y = Mul(a, s)");
  EXPECT_EQ(nodes_after(*graph, 1, 1e-6), 2U);
  EXPECT_EQ(nodes_after(*graph_of("s", "a = Abs(x) s = ReduceMax(a, map)"), 0), 2U);
}

TEST(JoinElementwise, NoCycleThroughOthers) {
  auto graph = graph_of("y", "a = Abs(x) s = ReduceSum<keepdims = 1>(a) y = Mul(a, s)");
  EXPECT_EQ(nodes_after(*graph, 0), 3U);
}

TEST(JoinElementwise, ShapesLayoutsAndDirectionsDiffer) {
  EXPECT_EQ(nodes_after(*graph_of("y", "a = Add(c, d) y = Mul(a, x)"), 0), 2U);
  auto graph = graph_of("y", "a = Add(x, p) y = Relu(a)");
  graph->find("y")->layout = test::layout_of_tag("nhwc", {2, 5, 3, 4});
  EXPECT_EQ(join_elementwise(*graph), 0);
  graph = graph_of("y", "a = Add(x, p) y = Relu(a)");
  graph->find("y")->producer->provenance.direction = Direction::backward;
  EXPECT_EQ(nodes_after(*graph, 0), 2U);
}

// Two values would live while the product runs, where their sum alone did.
TEST(JoinElementwise, DoesNotKeepMoreValuesAlive) {
  const char* far = "a = Softmax(x) b = Softmax(p) s = Add(a, b) m = Softmax(c) y = Mul(s, m)";
  EXPECT_EQ(nodes_after(*graph_of("y", far), 0), 5U);
  const char* near = "a = Softmax(x) b = Softmax(p) m = Softmax(c) s = Add(a, b) y = Mul(s, m)";
  EXPECT_EQ(nodes_after(*graph_of("y", near), 1), 4U);
}

TEST(JoinElementwise, RegionsAreOfLimitedSize) {
  std::string body = "y0 = Add(x, p) ";
  constexpr int length = 60;
  for (int i = 1; i < length; ++i) body += cat("y", i, " = Add(y", i - 1, ", c) ");
  auto graph = graph_of(cat("y", length - 1), body);
  EXPECT_EQ(nodes_after(*graph, 3), 3U);
}

}  // namespace
}  // namespace graft
