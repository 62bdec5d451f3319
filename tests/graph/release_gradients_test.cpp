#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "ops/build.h"

namespace graft {
namespace {

// Two layers: their updates are wanted behind what reads the weights, and before what comes later.
TEST(ReleaseGradients, UpdatesComeAsSoonAsNothingReadsTheParameter) {
  Graph graph;
  Value* x = graph.add_input("x", DType::f32, {2});
  Value* w1 = graph.add_state("w1", StateKind::parameter, DType::f32, {2});
  Value* w2 = graph.add_state("w2", StateKind::parameter, DType::f32, {2});
  auto node = [&](const char* type, std::vector<Value*> operands, Direction direction) {
    graph.set_provenance({"", direction});
    return call(type, {Val(graph, operands[0]), Val(graph, operands[1])}).value();
  };
  Value* h = node("Mul", {x, w1}, Direction::forward);
  Value* y = node("Mul", {h, w2}, Direction::forward);
  Value* g2 = node("Sub", {y, h}, Direction::backward);
  Value* dh = node("Div", {g2, w2}, Direction::backward);
  Value* g1 = node("Min", {dh, x}, Direction::backward);
  graph.bind_state(w1, node("Add", {w1, g1}, Direction::optimiser));
  graph.bind_state(w2, node("Max", {w2, g2}, Direction::optimiser));
  auto order = [&] {
    std::string types;
    for (const auto& each : graph.nodes()) types += each->type + ' ';
    return types;
  };
  graph.sort();
  EXPECT_EQ(order(), "Mul Mul Sub Div Min Add Max ");
  release_gradients(graph);
  verify(graph);
  EXPECT_EQ(order(), "Mul Mul Sub Div Max Min Add ");
  graph.sort();
  EXPECT_EQ(order(), "Mul Mul Sub Div Max Min Add ");
}

}  // namespace
}  // namespace graft
