#include "graph/flops.h"

#include <gtest/gtest.h>

namespace graft {
namespace {

Value* shaped(Graph& graph, const Dims& dims) { return graph.add_input("", DType::f32, dims); }

Node* node(Graph& graph, const std::string& domain, const std::string& type, const std::vector<Value*>& inputs,
           const Dims& result, Attributes attributes = {}) {
  Node* added = graph.add_node(domain, type, inputs, 1, std::move(attributes));
  added->outputs[0]->dtype = DType::f32;
  added->outputs[0]->ranked = true;
  added->outputs[0]->dims = result;
  return added;
}

// x (2,6,8,9), w (4,3,3,3) in two groups, y (2,4,6,7): every element of y takes 27 products.
TEST(Flops, ConvolutionsCountTheSameInAllWays) {
  Graph g;
  Value *x = shaped(g, {2, 6, 8, 9}), *w = shaped(g, {4, 3, 3, 3}), *y = shaped(g, {2, 4, 6, 7});
  double expected = 2.0 * (2 * 4 * 6 * 7) * 27;
  EXPECT_EQ(flops(*node(g, "", "Conv", {x, w}, y->dims)), expected);
  EXPECT_EQ(flops(*node(g, "graft", "ConvGradData", {y, w}, x->dims)), expected);
  EXPECT_EQ(flops(*node(g, "", "ConvTranspose", {y, w}, x->dims)), expected);
  EXPECT_EQ(flops(*node(g, "graft", "ConvGradWeights", {x, y}, w->dims)), expected);
}

TEST(Flops, Products) {
  Graph g;
  double expected = 2.0 * 3 * 5 * 7;
  EXPECT_EQ(flops(*node(g, "", "Gemm", {shaped(g, {3, 7}), shaped(g, {7, 5})}, {3, 5})), expected);
  Attributes transposed{{"transA", int64_t{1}}};
  EXPECT_EQ(flops(*node(g, "", "Gemm", {shaped(g, {7, 3}), shaped(g, {7, 5})}, {3, 5}, transposed)), expected);
  EXPECT_EQ(flops(*node(g, "", "MatMul", {shaped(g, {4, 3, 7}), shaped(g, {7, 5})}, {4, 3, 5})), 4 * expected);
  EXPECT_EQ(flops(*node(g, "", "MatMul", {shaped(g, {7}), shaped(g, {7})}, {})), 14);
}

TEST(Flops, OtherNodesCountElementsAndMovesNothing) {
  Graph g;
  EXPECT_EQ(flops(*node(g, "", "Add", {shaped(g, {3, 1}), shaped(g, {1, 4})}, {3, 4})), 12);
  EXPECT_EQ(flops(*node(g, "", "ReduceSum", {shaped(g, {3, 4})}, {3})), 12);
  EXPECT_EQ(flops(*node(g, "", "Transpose", {shaped(g, {3, 4})}, {4, 3})), 0);
}

TEST(Flops, StepsOfPickedRowsCountThoseThatTheyStep) {
  Graph g;
  std::vector<Value*> operands{shaped(g, {9, 4}), shaped(g, {2, 4})};
  EXPECT_EQ(flops(*node(g, "graft", "SgdRows", operands, {9, 4})), 8);
  EXPECT_EQ(flops(*node(g, "graft", "SgdRows", operands, {9, 4}, {{"momentum", 0.9}})), 36);
  EXPECT_EQ(flops(*node(g, "graft", "SgdRows", operands, {9, 4}, {{"weight_decay", 0.1}})), 36);
  EXPECT_EQ(flops(*node(g, "graft", "AdamRows", operands, {9, 4})), 36);
}

TEST(Flops, OfAGraphAreThoseOfItsSteps) {
  Graph g;
  Node* first = node(g, "", "Relu", {shaped(g, {5})}, {5});
  node(g, "", "Relu", {first->outputs[0]}, {5});
  EXPECT_EQ(flops(g), 10);
  first->stage = Stage::prologue;
  EXPECT_EQ(flops(g), 5);
}

}  // namespace
}  // namespace graft
