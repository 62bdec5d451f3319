#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

std::unique_ptr<Graph> graph_of(const std::string& results, const std::string& body) {
  auto graph = test::graph_from_text(
      cat("(float[2,5,3,4] p, float[2,5,3,4] q, float[5,1,1] c, float[2,5,3,4] x, float[5] s, float[5] b, float[5] m, "
          "float[5] v) => (",
          results, ") { ", body,
          " dx, ds, db, dr = graft.BatchNormalizationGrad<activation = \"relu\">(dy, x, s, b, m, v) }"));
  for (const auto& value : graph->values()) value->layout = Layout::plain(value->dims);
  return graph;
}

TEST(JoinSums, AGradientThatIsASumIsReadInParts) {
  auto graph = graph_of("dx, ds, db, dr", "dy = Add(p, q)");
  std::map<std::string, Tensor> feeds;
  unsigned seed = 0;
  for (const Value* input : graph->inputs)
    feeds[input->name] = test::random_feed(DType::f32, input->dims, 0.1, 2, ++seed);
  auto expected = evaluate(*graph, feeds);
  EXPECT_EQ(join_sums(*graph), 1);
  verify(*graph);
  ASSERT_EQ(graph->nodes().size(), 1U);
  auto got = evaluate(*graph, feeds);
  for (size_t i = 0; i < got.size(); ++i) test::expect_close(got[i], expected[i], 0, cat("result ", i));
}

TEST(JoinSums, LeavesAloneWhatOthersReadOrLiesOtherwise) {
  EXPECT_EQ(join_sums(*graph_of("dx, ds, db, dr, dy", "dy = Add(p, q)")), 0);
  EXPECT_EQ(join_sums(*graph_of("dx, ds, db, dr, z", "dy = Add(p, q) z = Exp(dy)")), 0);
  EXPECT_EQ(join_sums(*graph_of("dx, ds, db, dr", "dy = Add(p, c)")), 0);
  EXPECT_EQ(join_sums(*graph_of("dx, ds, db, dr", "dy = Sub(p, q)")), 0);
  auto graph = graph_of("dx, ds, db, dr", "dy = Add(p, q)");
  graph->find("q")->layout = test::layout_of_tag("nhwc", {2, 5, 3, 4});
  EXPECT_EQ(join_sums(*graph), 0);
}

}  // namespace
}  // namespace graft
