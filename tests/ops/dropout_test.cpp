#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "ops/op.h"
#include "runtime/device/device.h"
#include "runtime/evaluate.h"
#include "tests/support/run_op.h"
#include "tests/support/thread_count.h"

namespace graft {
namespace {

using test::check_gradients;
using test::expect_close;
using test::random_tensor;
using test::run_op;

Attributes options(double ratio, int64_t seed = 7, const std::string& key = "h") {
  return {{"ratio", ratio}, {"seed", seed}, {"key", key}};
}

Tensor drop(const Tensor& x, int64_t step, const Attributes& attributes) {
  return run_op("graft", "Dropout", {x, Tensor::scalar(step)}, 1, attributes)[0];
}

Tensor ones(const Dims& dims) {
  Tensor t(DType::f32, dims);
  std::fill(t.data<float>(), t.data<float>() + t.count(), 1.0F);
  return t;
}

TEST(Dropout, KeepsTheShareAndTheMean) {
  constexpr int64_t count = 100003;
  Tensor y = drop(ones({count}), 1, options(0.3));
  int64_t kept = 0;
  for (float v : y.values<float>()) {
    ASSERT_TRUE(v == 0 || v == 1 / 0.7F);
    kept += v != 0;
  }
  EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(count), 0.7, 0.005);  // 3.4 sigma
}

TEST(Dropout, MaskDependsOnSeedNameStepAndIndexOnly) {
  Tensor x = ones({40, 50});
  Tensor y = drop(x, 3, options(0.5));
  expect_close(drop(x, 3, options(0.5)), y, 0);
  auto differs = [&](const Tensor& other) {
    return std::memcmp(other.raw(), y.raw(), static_cast<size_t>(y.bytes())) != 0;
  };
  EXPECT_TRUE(differs(drop(x, 4, options(0.5))));
  EXPECT_TRUE(differs(drop(x, 3, options(0.5, 8))));
  EXPECT_TRUE(differs(drop(x, 3, options(0.5, 7, "other"))));
  {
    test::ThreadCount three(3);
    expect_close(drop(ones({40, 50}), 3, options(0.5)), y, 0);
  }
  Tensor start = drop(ones({13}), 3, options(0.5));
  for (int64_t i = 0; i < 13; ++i) EXPECT_EQ(start.data<float>()[i], y.data<float>()[i]);
}

TEST(Dropout, MaskOutputAndLimits) {
  Tensor x = random_tensor(DType::f32, {9, 7}, 1);
  auto both = run_op("graft", "Dropout", {x, Tensor::scalar<int64_t>(1)}, 2, options(0.4));
  for (int64_t i = 0; i < x.count(); ++i) {
    EXPECT_FLOAT_EQ(both[0].data<float>()[i], both[1].data<bool>()[i] ? x.data<float>()[i] / 0.6F : 0);
  }
  expect_close(drop(x, 1, options(0)), x, 0);
  expect_close(drop(x, 1, options(1)), Tensor(DType::f32, {9, 7}), 0);
  EXPECT_THROW(drop(x, 1, options(1.5)), ModelError);
}

TEST(Dropout, GradientUsesTheSameMask) {
  check_gradients("graft", "Dropout", {random_tensor(DType::f64, {6, 5}, 1), Tensor::scalar<int64_t>(2)}, 1,
                  options(0.5), {0});
}

TEST(Dropout, SeedingTurnsTrainingNodesIntoCountedOnes) {
  Graph graph;
  Value* x = graph.add_input("x", DType::f32, {8});
  Value* ratio = graph.add_constant(Tensor::scalar(0.25F));
  Value* on = graph.add_constant(Tensor::scalar(true));
  Node* node = graph.add_node("", "Dropout", {x, ratio, on}, 1);
  Node* still = graph.add_node("", "Dropout", {node->outputs[0], ratio}, 1);
  graph.rename(node->outputs[0], "h");
  graph.outputs = {node->outputs[0], still->outputs[0]};
  for (Node* each : graph.node_list()) infer(*each);
  seed_dropout(graph, 7);
  graph.prune();
  verify(graph);
  EXPECT_EQ(still->domain, "");
  Tensor given = ones({8});
  auto results = evaluate(graph, {{"x", given}}, {{"random/step", Tensor::scalar<int64_t>(4)}});
  expect_close(results[0], drop(given, 5, options(0.25)), 0);
  expect_close(results[1], results[0], 0);
}

TEST(Dropout, ARatioOfZeroDrawsNothing) {
  Graph graph;
  Value* x = graph.add_input("x", DType::f32, {8});
  Value* ratio = graph.add_constant(Tensor::scalar(0.0F));
  Value* on = graph.add_constant(Tensor::scalar(true));
  Node* plain = graph.add_node("", "Dropout", {x, ratio, on}, 2);
  Node* masked = graph.add_node("", "Dropout", {x, ratio, on}, 2);
  graph.outputs = {plain->outputs[0], masked->outputs[0], masked->outputs[1]};
  for (Node* each : graph.node_list()) infer(*each);
  seed_dropout(graph, 7);
  verify(graph);
  EXPECT_EQ(plain->type, "Identity");
  EXPECT_EQ(masked->domain, "graft") << "its mask is an output";
}

}  // namespace
}  // namespace graft
