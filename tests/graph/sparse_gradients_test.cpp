#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "ops/build.h"

namespace graft {
namespace {

// A table w under a step, its gradient that of rows picked along `axis`.
struct Table {
  explicit Table(const std::string& type, int64_t axis = 0, const Dims& dims = {7, 5}) {
    const bool adam = type == "Adam";
    auto scalar = [&](const char* name, DType dtype) { return Val(graph, graph.add_input(name, dtype, {})); };
    Dims picked = dims;
    picked[static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(dims.size()) : axis)] = 3;
    dy = graph.add_input("dy", DType::f32, picked);
    indices = graph.add_input("indices", DType::i64, {3});
    w = graph.add_state("w", StateKind::parameter, DType::f32, dims);
    dw = call("graft", "GatherGrad", {{graph, dy}, {graph, indices}}, 1, {{"axis", axis}, {"dims", dims}})[0].value();
    std::vector<Val> operands{
        {graph, w}, {graph, dw}, scalar("scale", DType::f32), scalar("lr", DType::f32), scalar("step", DType::i64)};
    std::vector<Value*> states{w};
    for (const char* moment : {"m", "v"}) {
      if (!adam) break;
      states.push_back(graph.add_state(moment, StateKind::moment, DType::f32, dims));
      operands.emplace_back(graph, states.back());
    }
    auto results = call("graft", type, operands, states.size());
    for (size_t i = 0; i < states.size(); ++i) graph.bind_state(states[i], results[i].value());
    step = results[0].value()->producer;
  }

  Graph graph;
  Value *dy, *indices, *w, *dw;
  Node* step;
};

TEST(SparseGradients, StepsTakeTheRowsOfAnEmbedding) {
  for (const char* type : {"Adam", "Sgd"}) {
    Table table(type);
    EXPECT_EQ(sparse_gradients(table.graph), 1);
    table.graph.sort();
    verify(table.graph);
    ASSERT_EQ(table.graph.nodes().size(), 1U);
    const Node& step = *table.graph.nodes().front();
    EXPECT_EQ(step.type, cat(type, "Rows"));
    EXPECT_EQ(step.inputs[0], table.w);
    EXPECT_EQ(step.inputs[1], table.dy);
    EXPECT_EQ(step.inputs.back(), table.indices);
    EXPECT_EQ(sparse_gradients(table.graph), 0);
  }
}

TEST(SparseGradients, TheFirstAxisCountedFromTheEnd) {
  Table table("Adam", -2);
  EXPECT_EQ(sparse_gradients(table.graph), 1);
  Table vector("Sgd", -1, {7});
  EXPECT_EQ(sparse_gradients(vector.graph), 1);
}

TEST(SparseGradients, LeavesColumnsAlone) {
  Table table("Adam", 1);
  EXPECT_EQ(sparse_gradients(table.graph), 0);
  Table last("Adam", -1);
  EXPECT_EQ(sparse_gradients(last.graph), 0);
}

TEST(SparseGradients, LeavesAloneWhatOthersRead) {
  Table clipped("Adam");
  Value* norm = call("graft", "GlobalNorm", {{clipped.graph, clipped.dw}}, 1)[0].value();
  clipped.graph.outputs = {norm};
  EXPECT_EQ(sparse_gradients(clipped.graph), 0);

  Table shown("Adam");
  shown.graph.outputs = {shown.dw};
  EXPECT_EQ(sparse_gradients(shown.graph), 0);

  Table kept("Sgd");
  Value* state = kept.graph.add_state("gradient", StateKind::accumulator, DType::f32, kept.dw->dims);
  kept.graph.bind_state(state, kept.dw);
  EXPECT_EQ(sparse_gradients(kept.graph), 0);
}

// Tied weights have a sum, accumulation a state.
TEST(SparseGradients, LeavesAloneWhatComesFromElsewhere) {
  Table tied("Adam");
  Val dw(tied.graph, tied.dw);
  tied.graph.insert_before(tied.step);
  tied.graph.set_input(tied.step, 1, (dw + dw).value());
  EXPECT_EQ(sparse_gradients(tied.graph), 0);

  Table taken("Sgd");
  taken.graph.set_input(taken.step, 1, taken.graph.add_state("g", StateKind::accumulator, DType::f32, {7, 5}));
  EXPECT_EQ(sparse_gradients(taken.graph), 0);
}

}  // namespace
}  // namespace graft
