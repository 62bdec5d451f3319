// Training with bfloat16 between operators, beside the same in float32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/session.h"
#include "tests/support/networks.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::Network;
using test::network_named;
using test::random_tensor;

constexpr int64_t steps = 50;

TrainingOptions options_for(const Session& session, DType dtype) {
  TrainingOptions options;
  options.loss.type = LossType::mse;
  options.optimiser.type = OptimiserType::adamw;
  options.trainable = session.parameters();
  options.dtype = dtype;
  return options;
}

// Losses of steps on a few batches in turn.
std::vector<double> losses(const Network& network, DType dtype, const std::string& disabled) {
  Session session(network.make(), {}, {.disabled = {disabled}});
  auto programs = session.training({{"x", network.x}}, options_for(session, dtype));
  std::vector<double> found;
  for (int64_t i = 0; i < steps; ++i) {
    constexpr unsigned batches = 4;
    auto seed = static_cast<unsigned>(i) % batches;
    found.push_back(test::train_step(programs, random_tensor(DType::f32, network.x, seed),
                                     random_tensor(DType::f32, network.y, seed + batches), 0.003));
  }
  EXPECT_EQ(programs.step->counters().allocations, 0);
  EXPECT_EQ(programs.step->counters().descriptors, 0);
  return found;
}

class MixedPrecision : public testing::TestWithParam<Network> {};

// The networks see noise: what they reach in 50 steps is what they can. bfloat16 has 8 bits: steps go astray by a part
// of that, and losses with them.
TEST_P(MixedPrecision, TrainsAsFloat32) {
  constexpr double tolerance = 0.02;
  std::vector<double> wanted = losses(GetParam(), DType::f32, "");
  EXPECT_LT(wanted.back(), wanted.front());
  for (const char* disabled : {"", "elementwise", "all"}) {
    std::vector<double> got = losses(GetParam(), DType::bf16, disabled);
    for (size_t i = 0; i < wanted.size(); ++i)
      EXPECT_NEAR(got[i], wanted[i], tolerance * wanted[i]) << disabled << ", step " << i;
  }
}

// Of one step of plain gradient descent, which shows the gradients.
TEST_P(MixedPrecision, HasTheGradientsOfFloat32) {
  constexpr double tolerance = 0.25;  // kinks of activations are crossed by 8-bit numbers; a wrong kernel is off by 1
  const Network& network = GetParam();
  auto updates = [&](DType dtype, const std::string& disabled) {
    Session session(network.make(), {}, {.disabled = {disabled}});
    TrainingOptions options = options_for(session, dtype);
    options.optimiser.type = OptimiserType::sgd;
    test::Tensors before = test::states(session.store());
    test::train_step(session.training({{"x", network.x}}, options), random_tensor(DType::f32, network.x, 1),
                     random_tensor(DType::f32, network.y, 2), 1);
    std::vector<double> found;
    for (const std::string& name : options.trainable) {
      Tensor after = session.store().read(name);
      for (int64_t i = 0; i < after.count(); ++i)
        found.push_back(after.data<float>()[i] - before.at(name).data<float>()[i]);
    }
    return found;
  };
  std::vector<double> wanted = updates(DType::f32, "");
  for (const char* disabled : {"", "elementwise", "all"}) {
    std::vector<double> got = updates(DType::bf16, disabled);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      difference += (got[i] - wanted[i]) * (got[i] - wanted[i]);
      norm += wanted[i] * wanted[i];
    }
    EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm)) << disabled;
  }
}

TEST_P(MixedPrecision, KeepsStatesAndOutputsInFloat32) {
  const Network& network = GetParam();
  Session session(network.make(), {});
  auto programs = session.training({{"x", network.x}}, options_for(session, DType::bf16));
  const Graph& graph = programs.step->graph();
  for (const auto& state : graph.states) EXPECT_NE(state.in->dtype, DType::bf16) << state.in->name;
  for (const Value* output : graph.outputs) EXPECT_NE(output->dtype, DType::bf16) << output->name;
  EXPECT_EQ(session.mixed_nodes().low > 0, has_bfloat16());
}

// A copy takes memory from then on: nothing but other copies and updates runs between it and who reads it.
TEST_P(MixedPrecision, CopiesWeightsRightBeforeTheyAreRead) {
  const Network& network = GetParam();
  Session session(network.make(), {});
  auto programs = session.training({{"x", network.x}}, options_for(session, DType::bf16));
  const std::vector<const Node*> nodes = programs.step->step_nodes();
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i]->type != "Reorder" || !nodes[i]->inputs[0]->is_state()) continue;
    const auto& readers = nodes[i]->outputs[0]->users;
    EXPECT_EQ(nodes[i]->provenance.direction, readers.front()->provenance.direction);
    for (size_t j = i + 1; j < nodes.size() && !std::count(readers.begin(), readers.end(), nodes[j]); ++j) {
      const bool is_update = nodes[j]->provenance.direction == Direction::optimiser;
      EXPECT_TRUE(is_update || nodes[j]->type == "Reorder" || nodes[j]->type == "Cast") << nodes[j]->where();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, MixedPrecision, testing::ValuesIn(test::built()),
                         [](const auto& run) { return run.param.name; });

TEST(MixedNodes, CountsWhatStaysInFloat32) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input("x", DType::f32, {4, 8});
  Value* w = graph->add_constant(random_tensor(DType::f32, {8, 8}, 1), "w");
  Value* v = graph->add_constant(random_tensor(DType::f32, {8, 8}, 2), "v");
  Value* h = graph->add_node("", "MatMul", {x, w}, 1)->outputs[0];
  h = graph->add_node("", "Relu", {h}, 1)->outputs[0];
  h = graph->add_node("", "Sin", {h}, 1)->outputs[0];  // works on no tiles
  h = graph->add_node("", "MatMul", {h, v}, 1)->outputs[0];
  graph->rename(h, "y");
  graph->outputs = {h};
  Session session(std::move(graph), {});
  session.training({{"x", {4, 8}}}, options_for(session, DType::bf16));
  EXPECT_EQ(session.mixed_nodes().wide, (std::map<std::string, int>{{"Sin", 1}, {"Cos", 1}}));
}

}  // namespace
}  // namespace graft
