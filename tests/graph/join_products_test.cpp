#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "tests/support/check_pass.h"

namespace graft {
namespace {

std::unique_ptr<Graph> graph_of(const std::string& results, const std::string& body) {
  return test::plain_graph(
      cat("(float[13,7] a, float[7,20] b, float[20] c, float[13,20] s, float[2,13,7] d, float[2,13,20] t) => (",
          results, ") <int64[1] rows = {0}, int64[2] batches = {0, 1}, int64[1] columns = {1}> { ", body, " }"));
}

size_t nodes_after(Graph& graph, int joined, double tolerance = 0) {
  return test::check_joining(join_products, graph, joined, tolerance, -1, 1);
}

TEST(JoinProducts, TakeInWhatIsBehindThem) {
  for (const char* body :
       {"h = Gemm(a, b, c) y = Relu(h)", "h = MatMul(a, b) y = Relu(h)", "h = graft.MatMul(a, b, c) y = Add(s, h)",
        "h = MatMul(a, b) y = Add(h, s)", "h = Gemm(a, b) y = graft.ReluGrad(h, s)"}) {
    auto graph = graph_of("y", body);
    EXPECT_EQ(nodes_after(*graph, 1), 1U) << body;
    EXPECT_EQ(graph->nodes().front()->text("behind", "").empty(), false);
    EXPECT_EQ(graph->outputs[0]->name, "y");
  }
  EXPECT_EQ(nodes_after(*graph_of("y", "h = MatMul(d, b) y = Add(h, t)"), 1), 1U);
}

TEST(JoinProducts, TakeInTheSumOfRows) {
  auto graph = graph_of("z, n", "h = MatMul(a, b) y = graft.ReluGrad(h, s) z = Exp(y) n = ReduceSum(y, rows)");
  EXPECT_EQ(nodes_after(*graph, 1, 1e-6), 2U);
  EXPECT_EQ(graph->find("n")->producer, graph->find("y")->producer);
  graph = graph_of("n", "h = MatMul(d, b) y = Relu(h) n = ReduceSum(y, batches)");
  EXPECT_EQ(nodes_after(*graph, 1, 1e-6), 1U);
  for (const char* other : {"ReduceSum(y, columns)", "ReduceSum<keepdims = 0>(y, rows)", "ReduceMax(y, rows)"})
    EXPECT_EQ(nodes_after(*graph_of("n", cat("h = MatMul(a, b) y = Relu(h) n = ", other)), 1), 2U) << other;
}

// The second product adds the first one's result.
TEST(JoinProducts, SumsOfProducts) {
  auto graph = graph_of("y", "g = MatMul(a, b) h = Gemm(a, b, c) y = Add(g, h)");
  EXPECT_EQ(nodes_after(*graph, 1), 2U);
  EXPECT_EQ(graph->outputs[0]->producer->inputs[3]->name, "g");
}

TEST(JoinProducts, LeaveAloneWhatOthersReadOrComesLater) {
  for (const char* body : {"h = Gemm<alpha = 2.0>(a, b, c) y = Relu(h)", "h = Gemm<beta = 2.0>(a, b, c) y = Relu(h)",
                           "h = Gemm(a, b, s) y = Relu(h)", "h = MatMul(a, b) y = Tanh(h)",
                           "h = MatMul(a, b) y = Add(h, c)", "h = MatMul(a, b) y = Add(h, h)"})
    EXPECT_EQ(nodes_after(*graph_of("y", body), 0), 2U) << body;
  EXPECT_EQ(nodes_after(*graph_of("y, h", "h = MatMul(a, b) y = Relu(h)"), 0), 2U);
  EXPECT_EQ(nodes_after(*graph_of("y, z", "h = MatMul(a, b) y = Relu(h) z = Exp(h)"), 0), 3U);
  EXPECT_EQ(nodes_after(*graph_of("y", "h = MatMul(a, b) e = Exp(s) y = Add(h, e)"), 0), 3U);
  EXPECT_EQ(nodes_after(*graph_of("y", "e = Exp(s) h = MatMul(a, b) y = Add(h, e)"), 1), 2U);
  auto graph = graph_of("y", "h = MatMul(a, b) y = Relu(h)");
  graph->find("y")->producer->provenance.direction = Direction::backward;
  EXPECT_EQ(nodes_after(*graph, 0), 2U);
  graph = graph_of("y", "h = MatMul(d, b) y = Add(h, t)");
  graph->find("t")->layout = Layout{.padded = {2, 13, 20}, .strides = {20, 40, 1}, .blocks = {}};
  EXPECT_EQ(join_products(*graph), 0);
  graph = graph_of("y", "h = graft.MatMul<zero_rows = 0>(a, b) y = Relu(h)");
  EXPECT_EQ(join_products(*graph), 0);
}

}  // namespace
}  // namespace graft
