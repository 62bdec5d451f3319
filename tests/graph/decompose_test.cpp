#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "importers/onnx/function_body.h"
#include "runtime/evaluate.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

using test::graph_from_text;

const Evaluator evaluator = [](const Node& node, const std::vector<Tensor>& inputs) { return evaluate(node, inputs); };

TEST(Decompose, BodiesTakeThePlaceOfNodesWithoutKernel) {
  auto graph = graph_from_text("(float[2,3] x) => (y) { h = Shrink<lambd = 0.5, bias = 0.25>(x) y = Exp(h) }");
  decompose(*graph, function_body_graph, evaluator);
  verify(*graph);
  for (const auto& node : graph->nodes()) EXPECT_NE(node->type, "Shrink");
  EXPECT_EQ(graph->outputs[0]->name, "y");
  EXPECT_NE(graph->find("h"), nullptr);
  auto y = evaluate(*graph, {{"x", Tensor::of<float>({2, 3}, {-2, -0.5, 0, 0.4F, 1, 3})}});
  test::expect_close(y[0], Tensor::of<float>({2, 3}, {std::exp(-1.75F), 1, 1, 1, std::exp(0.75F), std::exp(2.75F)}),
                     1e-6);
}

TEST(Decompose, AllThatCannotRunIsListedAtOnce) {
  auto graph = graph_from_text("(float[4] x) => (y) { a = Bernoulli(x) b = Exp(a) y = RandomNormalLike(b) }");
  try {
    decompose(*graph, function_body_graph, evaluator);
    FAIL() << "no error";
  } catch (const UnsupportedError& error) {
    std::string text = error.what();
    EXPECT_NE(text.find("2 node(s)"), std::string::npos) << text;
    EXPECT_NE(text.find("[Bernoulli \"a\"]"), std::string::npos) << text;
    EXPECT_NE(text.find("[RandomNormalLike \"y\"]"), std::string::npos) << text;
  }
}

TEST(Decompose, EndlessBodiesEnd) {
  auto graph = graph_from_text("(float[4] x) => (y) { y = Shrink(x) }");
  Expander endless = [](const Node&) -> std::shared_ptr<Graph> {
    return graph_from_text("(float[4] x) => (y) { y = Shrink(x) }");
  };
  EXPECT_THROW(decompose(*graph, endless, evaluator), UnsupportedError);
}

}  // namespace
}  // namespace graft
