// Activations that wait for backward as bfloat16, beside the same in float32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "runtime/session.h"
#include "tests/support/networks.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::Network;
using test::random_tensor;
using test::Tensors;

// A batch whose activations are worth it.
Network widened(Network network) {
  constexpr int64_t least = 64, elements = 1 << 16;
  const int64_t of_sample = element_count(network.x) / network.x[0];
  network.x[0] = network.y[0] = std::max(least, elements / of_sample);
  return network;
}

struct Trained {
  std::vector<double> losses;
  Tensors states;
  NarrowedValues narrowed;
  int64_t peak = 0;
};

Trained train(const Network& network, DType saved, int64_t steps, OptimiserType optimiser, double rate) {
  Session session(network.make(), {});
  TrainingOptions options;
  options.loss.type = LossType::mse;
  options.optimiser.type = optimiser;
  options.trainable = test::trained(network, session.parameters());
  options.saved = saved;
  auto programs = session.training({{"x", network.x}}, options);
  Trained found;
  for (int64_t i = 0; i < steps; ++i) {
    constexpr unsigned batches = 4;
    const auto seed = static_cast<unsigned>(i) % batches;
    found.losses.push_back(test::train_step(programs, random_tensor(DType::f32, network.x, seed),
                                            random_tensor(DType::f32, network.y, seed + batches), rate));
  }
  EXPECT_EQ(programs.step->counters().allocations, 0);
  found.states = test::states(session.store());
  found.narrowed = session.narrowed();
  found.peak = programs.step->plan().peak_bytes();
  return found;
}

class NarrowSaved : public testing::TestWithParam<Network> {};

// Forward is the same to the bit; gradients, which one step of plain descent shows, are rounded as their operands are,
// to 8 bits.
TEST_P(NarrowSaved, RoundsGradientsOnly) {
  const Network network = widened(GetParam());
  constexpr double tolerance = 0.01;
  Session fresh(network.make(), {});
  const Tensors before = test::states(fresh.store());
  const Trained wanted = train(network, DType::f32, 1, OptimiserType::sgd, 1);
  const Trained got = train(network, DType::bf16, 1, OptimiserType::sgd, 1);
  EXPECT_EQ(wanted.narrowed.values, 0);
  EXPECT_GT(got.narrowed.values, 0);
  EXPECT_EQ(got.losses, wanted.losses);
  double largest = 0;  // of all steps: some gradients are sums whose terms cancel
  std::map<std::string, double> off;
  for (const auto& [name, now] : wanted.states) {
    if (!before.contains(name) || now.dtype() != DType::f32) continue;
    const Tensor &start = before.at(name), &other = got.states.at(name);
    for (int64_t i = 0; i < now.count(); ++i) {
      largest = std::max<double>(largest, std::abs(now.data<float>()[i] - start.data<float>()[i]));
      off[name] = std::max<double>(off[name], std::abs(now.data<float>()[i] - other.data<float>()[i]));
    }
  }
  for (const auto& [name, by] : off) EXPECT_LE(by, tolerance * largest) << name;
}

TEST_P(NarrowSaved, TrainsAsFloat32) {
  constexpr double tolerance = 0.02;
  const Network network = widened(GetParam());
  const Trained wanted = train(network, DType::f32, 30, OptimiserType::adamw, 0.003);
  const Trained got = train(network, DType::bf16, 30, OptimiserType::adamw, 0.003);
  for (size_t i = 0; i < wanted.losses.size(); ++i)
    EXPECT_NEAR(got.losses[i], wanted.losses[i], tolerance * wanted.losses[i]) << "step " << i;
}

INSTANTIATE_TEST_SUITE_P(Networks, NarrowSaved, testing::ValuesIn([] {
                           std::vector<Network> made;
                           for (const Network& network : test::networks()) {
                             if (network.make) made.push_back(network);
                           }
                           return made;
                         }()),
                         [](const auto& found) { return found.param.name; });

// Of a deep network half of what is kept is gone.
TEST(NarrowSaved, TakesHalfTheBytes) {
  auto deep = [] {
    constexpr int64_t layers = 8, width = 64;
    auto graph = std::make_unique<Graph>();
    Value* x = graph->add_input("x", DType::f32, {-1, width});
    for (int64_t i = 0; i < layers; ++i) {
      Value* w = graph->add_constant(random_tensor(DType::f32, {width, width}, static_cast<unsigned>(i), -0.3, 0.3),
                                     cat('w', i));
      x = graph->add_node("", "MatMul", {x, w}, 1)->outputs[0];
      x = graph->add_node("", "Tanh", {x}, 1)->outputs[0];
    }
    graph->rename(x, "y");
    graph->outputs = {x};
    return graph;
  };
  const Network network{"deep", deep, {4096, 64}, {4096, 64}};
  const Trained wanted = train(network, DType::f32, 1, OptimiserType::sgd, 1);
  const Trained got = train(network, DType::bf16, 1, OptimiserType::sgd, 1);
  constexpr int64_t bytes = 4096 * 64 * 4;
  EXPECT_EQ(got.narrowed.values, 8);
  EXPECT_EQ(got.narrowed.bytes, 8 * bytes / 2);
  EXPECT_LE(got.peak, wanted.peak - 2 * bytes);
}

}  // namespace
}  // namespace graft
