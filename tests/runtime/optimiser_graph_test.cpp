// The optimiser's part of a training graph, run without planning.
#include <gtest/gtest.h>

#include <cmath>

#include "graph/passes/passes.h"
#include "ops/build.h"
#include "runtime/evaluate.h"
#include "runtime/training/loss.h"
#include "runtime/training/optimiser.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::expect_close;
using test::random_tensor;
using Tensors = std::map<std::string, Tensor>;

constexpr int64_t features = 5, classes = 4;

// What a graph leaves in its states.
Tensors step(Graph& graph, const Tensors& inputs, Tensors states, Tensors* outputs = nullptr) {
  graph.sort();
  verify(graph);
  std::vector<Value*> own = graph.outputs;
  for (const auto& state : graph.states) {
    if (!states.count(state.in->name)) states[state.in->name] = Tensor(state.in->dtype, state.in->dims);
    if (state.out) graph.outputs.push_back(state.out);
  }
  auto results = evaluate(graph, inputs, states);
  graph.outputs = own;
  size_t next = own.size();
  for (const auto& state : graph.states) {
    if (state.out) states[state.in->name] = results[next++];
  }
  for (size_t i = 0; outputs && i < own.size(); ++i) (*outputs)[own[i]->name] = results[i];
  return states;
}

struct Model {
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  std::vector<Value*> parameters, gradients;
  Loss loss;
};

// A softmax regression on float64, with its gradients.
Model regression(int64_t samples, const LossOptions& options) {
  Model m;
  Graph& graph = *m.graph;
  Val x(graph, graph.add_input("x", DType::f64, {samples, features}));
  Val w(graph, graph.add_state("w", StateKind::parameter, DType::f64, {features, classes}));
  Val b(graph, graph.add_state("b", StateKind::parameter, DType::f64, {classes}));
  m.loss = add_loss(graph, (matmul(x, w) + b).value(), options);
  m.parameters = {w.value(), b.value()};
  m.gradients = differentiate(graph, {m.loss.sum}, {constant_like(Val(graph, m.loss.sum), 1).value()}, m.parameters);
  return m;
}

Tensors batch(int64_t first, int64_t count, int64_t ignored) {
  Tensor x = random_tensor(DType::f64, {12, features}, 5);
  Tensor part(DType::f64, {count, features});
  std::copy_n(x.data<double>() + first * features, count * features, part.data<double>());
  Tensor labels(DType::i64, {count});
  for (int64_t i = 0; i < count; ++i)
    labels.data<int64_t>()[i] = (first + i) % 3 == 1 ? ignored : (first + i) % classes;
  return {{"x", part}, {"graft.labels", labels}, {"lr", Tensor::scalar(0.1)}};
}

Tensors start() {
  return {{"w", random_tensor(DType::f64, {features, classes}, 1)}, {"b", random_tensor(DType::f64, {classes}, 2)}};
}

void add_update(Graph& graph, const std::vector<Value*>& parameters, const std::vector<Value*>& gradients,
                Value* weight, const OptimiserOptions& options, double clip) {
  Value* lr = graph.add_input("lr", DType::f64, {});
  Normalisation n = add_normalisation(graph, weight, gradients, clip, DType::f64);
  add_optimiser(graph, parameters, gradients, n.scale, lr, options);
}

TEST(OptimiserGraph, RaggedAccumulationEqualsTheLargeBatch) {
  LossOptions loss;
  loss.ignore_index = -1;
  loss.class_weights = {0.5, 1, 2, 1.5};
  loss.label_smoothing = 0.1;
  OptimiserOptions options;
  options.weight_decay = 0.01;
  constexpr double clip = 0.05;
  Model whole = regression(12, loss);
  add_update(*whole.graph, whole.parameters, whole.gradients, whole.loss.weight, options, clip);
  Tensors large = start();
  for (int i = 0; i < 3; ++i) large = step(*whole.graph, batch(0, 12, -1), large);

  Tensors states = start();
  Graph apply;
  bool built = false;
  for (int i = 0; i < 3; ++i) {
    int64_t first = 0;
    for (int64_t count : {5, 4, 3}) {
      Model part = regression(count, loss);
      add_accumulation(*part.graph, part.parameters, part.gradients, part.loss.sum, part.loss.weight);
      if (!built) {
        std::vector<Value*> applied;
        Accumulators sums = add_accumulated(apply, part.parameters, {true, true}, DType::f64, applied);
        add_update(apply, applied, sums.gradients, sums.weight, options, clip);
        built = true;
      }
      Tensors inputs = batch(first, count, -1);
      inputs.erase("lr");
      states = step(*part.graph, inputs, states);
      first += count;
    }
    states = step(apply, {{"lr", Tensor::scalar(0.1)}}, states);
    expect_close(states.at("w/gradient"), Tensor(DType::f64, {features, classes}), 0);
    expect_close(states.at("loss/weight"), Tensor::scalar(0.0), 0);
  }
  EXPECT_EQ(states.at("optimiser/step").data<int64_t>()[0], 3);
  for (const char* name : {"w", "b", "w/adam.m", "w/adam.v"}) expect_close(states.at(name), large.at(name), 1e-12);
}

TEST(OptimiserGraph, ClippingBoundsTheNormAndReportsIt) {
  Model m = regression(12, {});
  Val total(*m.graph, m.loss.weight);
  Normalisation n = add_normalisation(*m.graph, m.loss.weight, m.gradients, 0.01, DType::f64);
  m.graph->rename(n.scale, "scale");
  m.graph->rename(n.norm, "norm");
  m.graph->rename(m.gradients[0], "gw");
  m.graph->rename(m.gradients[1], "gb");
  m.graph->outputs = {n.scale, n.norm, m.gradients[0], m.gradients[1]};
  Tensors outputs;
  Tensors inputs = batch(0, 12, -100);
  inputs.erase("lr");
  step(*m.graph, inputs, start(), &outputs);
  double sum = 0;
  for (const char* name : {"gw", "gb"}) {
    for (double g : outputs.at(name).values<double>()) sum += g * g / (8 * 8);  // a third of the labels is ignored
  }
  double norm = std::sqrt(sum);
  EXPECT_GT(norm, 0.01);
  EXPECT_NEAR(outputs.at("norm").data<double>()[0], norm, 1e-12);
  EXPECT_NEAR(outputs.at("scale").data<double>()[0], 0.01 / (norm + 1e-6) / 8, 1e-12);
}

TEST(OptimiserGraph, ABatchOfIgnoredLabelsMovesNothing) {
  OptimiserOptions options;
  options.type = OptimiserType::sgd;
  Model m = regression(3, {});
  add_update(*m.graph, m.parameters, m.gradients, m.loss.weight, options, 1.0);
  Tensors inputs = batch(0, 3, -100);
  for (int64_t i = 0; i < 3; ++i) inputs["graft.labels"].data<int64_t>()[i] = -100;
  Tensors after = step(*m.graph, inputs, start());
  expect_close(after.at("w"), start().at("w"), 0);
}

TEST(OptimiserGraph, ParametersWithoutGradientAreLeftOut) {
  Model m = regression(3, {});
  OptimiserOptions options;
  options.type = OptimiserType::sgd;
  options.momentum = 0.9;
  add_update(*m.graph, m.parameters, {m.gradients[0], nullptr}, m.loss.weight, options, 0);
  EXPECT_NE(m.graph->find("w/sgd.momentum"), nullptr);
  EXPECT_EQ(m.graph->find("b/sgd.momentum"), nullptr);
}

TEST(OptimiserGraph, OptionsOutOfRangeAreRefused) {
  Model m = regression(3, {});
  Value* one = constant_like(Val(*m.graph, m.loss.sum), 1).value();
  auto refused = [&](auto change) {
    OptimiserOptions options;
    change(options);
    EXPECT_THROW(add_optimiser(*m.graph, m.parameters, m.gradients, one, one, options), UsageError);
  };
  refused([](OptimiserOptions& o) { o.beta1 = 1; });
  refused([](OptimiserOptions& o) { o.eps = 0; });
  refused([](OptimiserOptions& o) { o.weight_decay = -1; });
  refused([](OptimiserOptions& o) { o.type = OptimiserType::sgd, o.nesterov = true; });
  EXPECT_THROW(optimiser_type("adamx"), UsageError);
  EXPECT_EQ(optimiser_type("adam"), OptimiserType::adam);
}

TEST(LossGraph, LabelsAndOptions) {
  Graph graph;
  Value* prediction = graph.add_input("p", DType::f32, {2, 3, 7});
  LossOptions options;
  EXPECT_EQ(label_dims(*prediction, options), (Dims{2, 7}));
  options.axis = -1;
  EXPECT_EQ(label_dims(*prediction, options), (Dims{2, 3}));
  EXPECT_EQ(label_dtype(*prediction, options), DType::i64);
  options.class_weights = {1, 2};
  EXPECT_THROW(add_loss(graph, prediction, options), UsageError);
  options = {.type = LossType::huber, .huber_delta = 0};
  EXPECT_THROW(add_loss(graph, prediction, options), UsageError);
  options = {.type = loss_type("mse")};
  Loss loss = add_loss(graph, prediction, options, "target");
  EXPECT_EQ(loss.labels->dims, prediction->dims);
  EXPECT_EQ(loss.sum->dims, Dims{});
  EXPECT_THROW(loss_type("cross-entropy"), UsageError);
}

}  // namespace
}  // namespace graft
