#include "tests/support/check_pass.h"

#include <gtest/gtest.h>

#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

std::vector<Tensor> results_of(const Graph& graph, double low, double high) {
  std::map<std::string, Tensor> feeds;
  unsigned seed = 0;
  for (const Value* input : graph.inputs) feeds[input->name] = random_feed(DType::f32, input->dims, low, high, ++seed);
  return evaluate(graph, feeds);
}

}  // namespace

std::unique_ptr<Graph> plain_graph(const std::string& text) {
  auto graph = graph_from_text(text);
  for (const auto& value : graph->values()) value->layout = Layout::plain(value->dims);
  return graph;
}

size_t check_joining(int (*pass)(Graph&), Graph& graph, int joined, double tolerance, double low, double high) {
  auto expected = results_of(graph, low, high);
  EXPECT_EQ(pass(graph), joined);
  verify(graph);
  auto got = results_of(graph, low, high);
  for (size_t i = 0; i < got.size(); ++i) expect_close(got[i], expected[i], tolerance, cat("result ", i));
  return graph.nodes().size();
}

}  // namespace graft::test
