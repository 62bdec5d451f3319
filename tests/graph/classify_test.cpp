#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "graph/passes/passes.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

// A graph under construction: constants are random unless given. Shapes are not inferred, as before specialise.
class ClassifyTest : public ::testing::Test {
 protected:
  Value* input(const Dims& dims) { return graph.add_input(cat("in", graph.inputs.size()), DType::f32, dims); }
  Value* weights(const std::string& name, const Dims& dims) {
    return graph.add_constant(test::random_tensor(DType::f32, dims, ++seed_, 0.5, 1), name);
  }
  Value* constant(const std::string& name, Tensor data) { return graph.add_constant(std::move(data), name); }
  Value* number(const std::string& name, float value) { return constant(name, Tensor::scalar(value)); }
  Value* call(const std::string& type, std::vector<Value*> operands, Attributes attributes = {}) {
    return graph.add_node("", type, std::move(operands), 1, std::move(attributes))->outputs[0];
  }
  Value* shape(const Dims& dims) {
    return graph.add_constant(Tensor::of<int64_t>({static_cast<int64_t>(dims.size())}, dims));
  }
  // Names of states by kind after the pass, sorted.
  std::vector<std::string> classified(StateKind kind = StateKind::parameter) {
    if (graph.states.empty()) data_ = classify(graph);
    std::vector<std::string> names;
    for (const auto& state : graph.states) {
      EXPECT_TRUE(data_.count(state.in->name));
      if (state.in->kind == kind) names.push_back(state.in->name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  using Names = std::vector<std::string>;
  Graph graph;

 private:
  unsigned seed_ = 0;
  std::map<std::string, Tensor> data_;
};

TEST_F(ClassifyTest, SlotsOfConvBatchNormalizationAndGemm) {
  Value* y = call("Conv", {input({1, 3, 8, 8}), weights("conv.w", {4, 3, 3, 3}), weights("conv.b", {4})});
  y = call("BatchNormalization",
           {y, weights("bn.scale", {4}), weights("bn.bias", {4}), weights("bn.mean", {4}), weights("bn.var", {4})});
  y = call("Flatten", {y});
  call("Gemm", {y, weights("fc.w", {10, 4}), weights("fc.b", {10})});
  EXPECT_EQ(classified(), (Names{"bn.bias", "bn.scale", "conv.b", "conv.w", "fc.b", "fc.w"}));
  EXPECT_EQ(classified(StateKind::statistic), (Names{"bn.mean", "bn.var"}));
  EXPECT_EQ(graph.find("bn.var")->role, Role::state);
  EXPECT_FALSE(graph.find("bn.var")->data.defined());
}

TEST_F(ClassifyTest, LooksThroughViews) {
  Value* w = call("Transpose", {call("Identity", {weights("w", {5, 4})})});
  Value* y = call("MatMul", {input({2, 4}), w});
  Value* b = call("Reshape", {weights("b", {5}), shape({1, 5})});
  call("Add", {b, call("Reshape", {y, shape({2, 5})})});
  EXPECT_EQ(classified(), (Names{"b", "w"}));
}

TEST_F(ClassifyTest, IntegersAndQuantisedWeightsStayConstants) {
  Value* quantised = call("DequantizeLinear", {constant("q", Tensor(DType::i8, {4, 5})), number("q.scale", 0.1F)});
  call("MatMul", {input({2, 4}), quantised});
  call("Gather", {weights("table", {9, 4}), constant("ids", Tensor(DType::i64, {1, 3}))});
  call("Gather", {weights("vector", {9}), constant("index", Tensor(DType::i64, {}))});
  EXPECT_EQ(classified(), (Names{"table"}));
}

TEST_F(ClassifyTest, BiasAfterMatMulButNotEpsilonsScalesAndExponents) {
  Value* y = call("MatMul", {input({2, 4}), weights("w", {4, 5})});
  y = call("Add", {y, weights("b", {5})});
  y = call("Add", {y, number("eps", 1e-5F)});
  y = call("Mul", {y, constant("one", Tensor::of<float>({1, 1}, {3}))});
  y = call("Pow", {y, number("two", 2)});
  y = call("Div", {y, number("root", 1.4F)});
  call("Mul", {y, weights("table", {5})});  // behind a power: no longer beside what weights have made
  EXPECT_EQ(classified(), (Names{"b", "w"}));
}

TEST_F(ClassifyTest, BiasOfOneOutput) {
  Value* y = call("MatMul", {input({2, 4}), weights("w", {4, 1})});
  y = call("Add", {y, weights("b", {1})});
  call("Add", {y, constant("three", Tensor::of<float>({1}, {3}))});
  EXPECT_EQ(classified(), (Names{"b", "w"}));
}

TEST_F(ClassifyTest, PreprocessingOfInputsStays) {
  Value* y = call("Sub", {input({1, 3, 8, 8}), weights("mean", {3, 1, 1})});
  y = call("Mul", {y, weights("std", {3, 1, 1})});
  y = call("Conv", {y, weights("conv.w", {4, 3, 3, 3})});
  y = call("Mul", {y, weights("scale", {1, 4, 1, 1})});
  call("Sub", {y, weights("shift", {1, 4, 1, 1})});
  EXPECT_EQ(classified(), (Names{"conv.w", "scale", "shift"}));
}

TEST_F(ClassifyTest, ScaleAndBiasOfSpelledOutNormalisation) {
  Value* x = input({2, 4});
  Value* d = call("Sub", {x, call("ReduceMean", {x})});
  Value* v = call("ReduceMean", {call("Mul", {d, d})});
  Value* s = call("Sqrt", {call("Add", {v, number("eps", 1e-5F)})});
  Value* y = call("Mul", {call("Div", {d, s}), weights("scale", {4})});
  call("Add", {y, weights("bias", {4})});
  EXPECT_EQ(classified(), (Names{"bias", "scale"}));
}

TEST_F(ClassifyTest, ScaleOnTheReciprocalDeviation) {
  Value* x = input({2, 4});
  Value* mean = call("ReduceMean", {x});
  Value* v = call("Sub", {call("ReduceMean", {call("Mul", {x, x})}), call("Mul", {mean, mean})});
  Value* r = call("Reciprocal", {call("Sqrt", {call("Add", {v, number("eps", 1e-5F)})})});
  Value* k = call("Mul", {r, weights("scale", {1, 4})});
  Value* shift = call("Sub", {weights("bias", {1, 4}), call("Mul", {mean, k})});
  call("Add", {call("Mul", {x, k}), shift});
  EXPECT_EQ(classified(), (Names{"bias", "scale"}));
}

TEST_F(ClassifyTest, AttentionMasksStay) {
  constexpr float hidden = std::numeric_limits<float>::lowest();
  Value* q = call("MatMul", {input({2, 2}), weights("wq", {2, 2})});
  Value* k = call("MatMul", {input({2, 2}), weights("wk", {2, 2})});
  Value* scores = call("Div", {call("MatMul", {q, call("Transpose", {k})}), call("Sqrt", {number("d", 2)})});
  scores = call("Add", {scores, constant("causal", Tensor::of<float>({2, 2}, {0, hidden, 0, 0}))});
  scores = call("Add", {scores, weights("table", {2, 2})});
  Value* y = call("MatMul", {call("Softmax", {scores}), weights("wv", {2, 2})});
  y = call("Mul", {y, constant("factors", Tensor::of<float>({2, 2}, {1, 0, 1, 0}))});
  call("Add", {y, constant("mask", Tensor::of<float>({2, 2}, {0, hidden, 0, 0}))});
  EXPECT_EQ(classified(), (Names{"wk", "wq", "wv"}));
}

TEST_F(ClassifyTest, TokensAndPositions) {
  Value* patches = call("Conv", {input({1, 3, 4, 4}), weights("patch.w", {6, 3, 2, 2})});
  patches = call("Transpose", {call("Reshape", {patches, shape({1, 6, 4})})});
  Value* token = call("Expand", {weights("token", {1, 1, 6}), shape({1, 1, 6})});
  Value* y = call("Concat", {token, patches}, {{"axis", int64_t{1}}});
  call("Add", {y, weights("positions", {1, 5, 6})});
  Value* words = call("Gather", {weights("words", {9, 6}), graph.add_input("ids", DType::i64, {1, 5})});
  Value* both =
      call("Add", {words, call("Gather", {weights("types", {2, 6}), graph.add_input("type_ids", DType::i64, {1, 5})})});
  call("Add", {both, weights("folded positions", {1, 5, 6})});
  EXPECT_EQ(classified(), (Names{"folded positions", "patch.w", "positions", "token", "types", "words"}));
}

TEST_F(ClassifyTest, ZeroOrUnitInitialisedParametersCount) {
  Value* y = call("Conv", {input({1, 3, 8, 8}), weights("conv.w", {4, 3, 3, 3})});
  y = call("Mul", {y, constant("ones", Tensor::of<float>({1, 4, 1, 1}, {1, 1, 1, 1}))});
  call("Add", {y, constant("zeros", Tensor(DType::f32, {1, 4, 1, 1}))});
  EXPECT_EQ(classified(), (Names{"conv.w", "ones", "zeros"}));
}

TEST_F(ClassifyTest, SharedTableIsOneParameter) {
  Value* table = weights("table", {9, 4});
  Value* y = call("Gather", {table, graph.add_input("ids", DType::i64, {5})});
  call("MatMul", {y, call("Transpose", {table})});
  EXPECT_EQ(classified(), (Names{"table"}));
}

}  // namespace
}  // namespace graft
