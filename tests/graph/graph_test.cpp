#include "graph/graph.h"

#include <gtest/gtest.h>

namespace graft {
namespace {

// y = (x + w) * x, with w a state.
struct Small {
  Graph graph;
  Value* x = graph.add_input("x", DType::f32, {2, 3});
  Value* w = graph.add_state("w", StateKind::parameter, DType::f32, {2, 3});
  Node* add = graph.add_node("", "Add", {x, w}, 1);
  Node* mul = graph.add_node("", "Mul", {add->outputs[0], x}, 1);
  Small() {
    for (Node* node : {add, mul}) {
      node->outputs[0]->dtype = DType::f32;
      node->outputs[0]->ranked = true;
      node->outputs[0]->dims = {2, 3};
    }
    graph.rename(mul->outputs[0], "y");
    graph.outputs = {mul->outputs[0]};
  }
};

TEST(Graph, VerifiesWhatItBuilds) {
  Small small;
  verify(small.graph);
  EXPECT_EQ(small.x->users.size(), 2U);
  EXPECT_EQ(small.graph.find("y"), small.mul->outputs[0]);
}

TEST(Graph, RefusesAStateThatIsReadAfterItIsWritten) {
  Small small;
  Node* update = small.graph.add_node("", "Neg", {small.w}, 1);
  update->outputs[0]->dtype = DType::f32;
  update->outputs[0]->dims = {2, 3};
  small.graph.bind_state(small.w, update->outputs[0]);
  verify(small.graph);
  small.graph.add_node("", "Abs", {small.w}, 1);
  EXPECT_THROW(verify(small.graph), ModelError);
  small.graph.sort();  // moves the reader before the writer
  verify(small.graph);
}

TEST(Graph, RefusesUseBeforeDefinitionAndSortsIt) {
  Small small;
  small.graph.insert_before(small.add);
  Node* early = small.graph.add_node("", "Neg", {small.mul->outputs[0]}, 1);
  EXPECT_THROW(verify(small.graph), ModelError);
  small.graph.sort();
  verify(small.graph);
  EXPECT_EQ(small.graph.node_list().back(), early);
}

TEST(Graph, NamesACycle) {
  Small small;
  small.graph.set_input(small.add, 1, small.mul->outputs[0]);
  try {
    small.graph.sort();
    FAIL() << "a cycle was sorted";
  } catch (const ModelError& error) {
    EXPECT_NE(std::string(error.what()).find("cycle"), std::string::npos);
  }
}

TEST(Graph, RefusesDuplicateNames) {
  Small small;
  EXPECT_THROW(small.graph.add_input("x", DType::f32, {1}), ModelError);
}

TEST(Graph, PrunesWhatReachesNoOutput) {
  Small small;
  Node* unused = small.graph.add_node("", "Neg", {small.x}, 1);
  small.graph.rename(unused->outputs[0], "unused");
  small.graph.prune();
  verify(small.graph);
  EXPECT_EQ(small.graph.nodes().size(), 2U);
  EXPECT_EQ(small.graph.find("unused"), nullptr);
  EXPECT_EQ(small.x->users.size(), 2U);
}

TEST(Graph, PrunesAStateThatNothingReads) {
  Small small;
  small.graph.set_input(small.add, 1, small.x);
  small.graph.prune();
  verify(small.graph);
  EXPECT_TRUE(small.graph.states.empty());
}

TEST(Graph, ClonesEverything) {
  Small small;
  small.graph.set_provenance({"y", Direction::backward});
  Node* neg = small.graph.add_node("", "Neg", {small.mul->outputs[0]}, 1);
  neg->forward = small.mul;
  neg->outputs[0]->dtype = DType::f32;
  auto copy = small.graph.clone();
  verify(*copy);
  EXPECT_EQ(to_text(*copy), to_text(small.graph));
  Node* last = copy->node_list().back();
  EXPECT_EQ(last->forward, copy->node_list()[1]);
  EXPECT_NE(last->forward, small.mul);
}

TEST(Graph, InlinesABodyWithCapturedValues) {
  Graph body;
  Value* a = body.add_input("a", DType::f32, {2, 3});
  Value* captured = body.add_captured("x");
  Node* add = body.add_node("", "Add", {a, captured}, 1);
  body.rename(add->outputs[0], "sum");
  body.outputs = {add->outputs[0]};
  Small small;
  auto results = small.graph.inline_body(body, {{a, small.mul->outputs[0]}});
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0]->producer->inputs[0], small.mul->outputs[0]);
  EXPECT_EQ(results[0]->producer->inputs[1], small.x);
  verify(small.graph);
}

TEST(Graph, ReplacesUsesInNodesOutputsAndStates) {
  Small small;
  Value* other = small.graph.add_input("other", DType::f32, {2, 3});
  small.graph.replace_uses(small.x, other);
  EXPECT_TRUE(small.x->users.empty());
  EXPECT_EQ(other->users.size(), 2U);
  verify(small.graph);
}

TEST(Graph, AttributesAreTyped) {
  Small small;
  small.add->attributes["axis"] = int64_t{3};
  EXPECT_EQ(small.add->integer("axis", 0), 3);
  EXPECT_EQ(small.add->integer("none", 7), 7);
  EXPECT_THROW(small.add->real("axis", 0), ModelError);
}

TEST(Sizes, OverflowIsAnError) {
  EXPECT_EQ(element_count({2, 3, 4}), 24);
  EXPECT_EQ(element_count({0, 5}), 0);
  EXPECT_THROW(element_count({int64_t{1} << 40, int64_t{1} << 40}), ModelError);
  EXPECT_THROW(element_count({0, int64_t{1} << 40, int64_t{1} << 40}), ModelError);
  EXPECT_THROW(element_count({-1}), ModelError);
  EXPECT_THROW(byte_count(DType::f64, {int64_t{1} << 61}), ModelError);
}

TEST(Layouts, BlockedRoundTripKeepsValuesAndZeroesPadding) {
  Dims dims = {2, 5, 3};
  Layout blocked;  // channels in blocks of 4: 5 is padded to 8
  blocked.padded = {2, 8, 3};
  blocked.strides = {24, 12, 4};
  blocked.blocks = {{1, 4}};
  Tensor x = Tensor::uninitialized(DType::f32, dims);
  for (int i = 0; i < 30; ++i) x.data<float>()[i] = static_cast<float>(i + 1);
  std::vector<float> storage(48, -1.0F);
  relayout(dims, 4, Layout::plain(dims), x.raw(), blocked, storage.data());
  EXPECT_EQ(std::count(storage.begin(), storage.end(), 0.0F), 18);
  EXPECT_EQ(storage[static_cast<size_t>(blocked.offset({1, 4, 2}))], 30.0F);
  Tensor back(DType::f32, dims);
  relayout(dims, 4, blocked, storage.data(), Layout::plain(dims), back.raw());
  EXPECT_EQ(0, std::memcmp(back.raw(), x.raw(), 120));
}

TEST(Tensors, HalfPrecisionRoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    auto half = static_cast<uint16_t>(bits);
    float value = from_f16(half);
    if (value == value) {
      EXPECT_EQ(to_f16(value), half);
    }
  }
  EXPECT_EQ(to_bf16(1.0F), 0x3f80);
  EXPECT_EQ(to_bf16(1.00390625F), 0x3f80);  // half-way, to even
  EXPECT_EQ(to_bf16(1.01171875F), 0x3f82);
  EXPECT_EQ(to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(to_f16(65519.0F), 0x7bff);
}

}  // namespace
}  // namespace graft
