// What is computed again in backward instead of kept changes no bit, and the plan of a step becomes smaller.
#include <gtest/gtest.h>

#include "graph/passes/copy_into_backward.h"
#include "runtime/model_session.h"
#include "tests/support/networks.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::Network;
using test::random_tensor;
using test::Recording;
using test::Tensors;

constexpr int64_t steps = 4;

Value* weight(Graph& graph, const Dims& dims, double low, double high) {
  auto count = static_cast<unsigned>(graph.values().size());
  return graph.add_constant(random_tensor(DType::f32, dims, count, low, high), cat('w', count));
}

Value* call(Graph& graph, const char* type, const std::vector<Value*>& operands, Attributes attributes = {}) {
  return graph.add_node("", type, operands, 1, std::move(attributes))->outputs[0];
}

// Deep enough for segments: six times a convolution, a BatchNormalization, Dropout, an addition and an activation.
template <int64_t channels>
std::unique_ptr<Graph> tower() {
  constexpr int64_t blocks = 6;
  auto graph = std::make_unique<Graph>();
  Graph& g = *graph;
  Value* ratio = g.add_constant(Tensor::scalar(0.25F));
  Value* on = g.add_constant(Tensor::of<bool>({}, {true}));
  Value* x = g.add_input("x", DType::f32, {-1, channels, 12, 11});
  for (int64_t i = 0; i < blocks; ++i) {
    Value* h =
        call(g, "Conv", {x, weight(g, {channels, channels, 3, 3}, -0.2, 0.2)}, {{"pads", std::vector<int64_t>(4, 1)}});
    h = call(g, "BatchNormalization",
             {h, weight(g, {channels}, 0.5, 1.5), weight(g, {channels}, -1, 1), weight(g, {channels}, -1, 1),
              weight(g, {channels}, 0.5, 1.5)});
    x = call(g, i % 2 ? "Tanh" : "Relu", {call(g, "Add", {x, call(g, "Dropout", {h, ratio, on})})});
  }
  g.rename(x, "y");
  g.outputs = {x};
  return graph;
}

std::vector<Network> all_networks() {
  std::vector<Network> all = test::networks();
  all.push_back({"tower", tower<16>, {5, 16, 12, 11}, {5, 16, 12, 11}});
  return all;
}

// A network under training on a few batches.
class Training {
 public:
  explicit Training(const Network& network, DType dtype = DType::f32) : network_(network) {
    if (network.make) {
      session_ = std::make_shared<Session>(network.make(), Expander{}, SessionOptions{.seed = 7});
      options_.loss.type = LossType::mse;
    } else {
      recording_.emplace(network.name);
      auto model = std::make_shared<ModelSession>(ModelSession::open(recording_->model()));
      session_ = {model, &model->session()};
    }
    options_.dtype = dtype;
    options_.trainable = session_->parameters();
  }

  TrainingOptions& options() { return options_; }
  Session& session() { return *session_; }
  std::map<std::string, Dims> dims() const { return {{"x", x(0).dims()}}; }

  // Losses and, by name, states after some steps.
  std::pair<std::vector<double>, Tensors> run() {
    auto programs = session_->training(dims(), options_);
    std::vector<double> losses;
    for (int64_t i = 0; i < steps; ++i) losses.push_back(test::train_step(programs, x(i), labels(i), 0.01));
    EXPECT_EQ(programs.step->counters().allocations, 0);
    EXPECT_EQ(programs.step->plan().peak_bytes(), session_->recomputed().peak_after);
    return {losses, test::states(session_->store())};
  }

 private:
  Tensor x(int64_t i) const {
    return recording_ ? recording_->row("steps/x", i) : random_tensor(DType::f32, network_.x, static_cast<unsigned>(i));
  }
  Tensor labels(int64_t i) const {
    return recording_ ? recording_->row("steps/y", i)
                      : random_tensor(DType::f32, network_.y, static_cast<unsigned>(i + steps));
  }

  Network network_;
  std::optional<Recording> recording_;
  std::shared_ptr<Session> session_;
  TrainingOptions options_;
};

class RecomputeOf : public testing::TestWithParam<std::tuple<Network, DType>> {};

TEST_P(RecomputeOf, LeavesEveryBit) {
  const auto& [network, dtype] = GetParam();
  for (bool accumulate : {false, true}) {
    auto trained = [&](const MemoryOptions& memory) {
      Training training(network, dtype);
      training.options().memory = memory;
      training.options().accumulate = accumulate;
      auto result = training.run();
      return std::pair(result, training.session().recomputed());
    };
    auto [wanted, kept] = trained({});
    auto check = [&, &kept = kept, &wanted = wanted](const MemoryOptions& memory) {
      auto [got, found] = trained(memory);
      EXPECT_EQ(got.first, wanted.first);
      test::expect_same_bits(got.second, wanted.second);
      EXPECT_EQ(found.peak_before, kept.peak_after);
      EXPECT_LE(found.peak_after, found.peak_before);
      EXPECT_EQ(found.nodes > 0, found.peak_after < found.peak_before);
      return found;
    };
    Recomputed smallest = check({.recompute = Recompute::all});
    if (network.name == "tower") {
      EXPECT_GT(smallest.nodes, 6);
      EXPECT_LT(smallest.peak_after, smallest.peak_before * 4 / 5);
    }
    for (int64_t part : {1, 2, 3}) {
      int64_t limit = smallest.peak_after + (kept.peak_after - smallest.peak_after) * (part - 1) / 3;
      Recomputed found = check({.recompute = Recompute::automatic, .limit = limit});
      EXPECT_LE(found.peak_after, limit);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Network, RecomputeOf,
                         testing::Combine(testing::ValuesIn(all_networks()), testing::Values(DType::f32, DType::bf16)),
                         [](const auto& run) {
                           return cat(std::get<0>(run.param).name, '_', name_of(std::get<1>(run.param)));
                         });

class RecomputeOfTower : public testing::Test {
 protected:
  Training training_{all_networks().back()};
};

TEST_F(RecomputeOfTower, IsForWhatTheLimitWants) {
  training_.options().memory = {.recompute = Recompute::automatic, .limit = int64_t{1} << 40};
  training_.run();
  EXPECT_EQ(training_.session().recomputed().nodes, 0);
  training_.options().memory.limit = 0;  // that of the machine
  training_.run();
  EXPECT_EQ(training_.session().recomputed().nodes, 0);
  training_.options().memory.limit = training_.session().recomputed().peak_before - 1;
  training_.run();
  int64_t few = training_.session().recomputed().nodes;
  EXPECT_GT(few, 0);
  training_.options().memory = {.recompute = Recompute::all};
  training_.run();
  EXPECT_GT(training_.session().recomputed().nodes, few);
}

// Convolutions of so many channels leave little of a step to the rest.
TEST(RecomputeOfWideTower, SpendsNextToNothingWhereMuchIsKept) {
  Training training({"wide", tower<128>, {5, 128, 12, 11}, {5, 128, 12, 11}});
  auto peak = [&](int64_t batch, Recompute recompute) {
    TrainingOptions options = training.options();
    options.memory.recompute = recompute;
    auto dims = training.dims();
    dims.at("x").at(0) = batch;
    return training.session().training_cost(dims, options).peak_bytes;
  };
  int64_t batch = 1;
  while (peak(batch, Recompute::none) < int64_t{600} << 20) batch *= 2;
  EXPECT_LT(peak(batch, Recompute::automatic), peak(batch, Recompute::none));
  EXPECT_GT(peak(batch, Recompute::automatic), peak(batch, Recompute::all));
  EXPECT_EQ(peak(batch / 4, Recompute::automatic), peak(batch / 4, Recompute::none));
}

// A copy stands between its forward node and the backward nodes that read it, next to the first of them. Statistics of
// the batch, which it would find again, are those of its forward node.
TEST_F(RecomputeOfTower, StandsWhereItIsRead) {
  training_.options().memory = {.recompute = Recompute::all};
  auto programs = training_.session().training(training_.dims(), training_.options());
  const auto& nodes = programs.step->graph().nodes();
  bool backward = false;
  int64_t copies = 0;
  for (const auto& node : nodes) {
    backward = backward || node->type == "SquaredErrorGrad" || node->type.ends_with("Grad");
    if (node->type != "BatchNormalization" || node->provenance.direction != Direction::backward) continue;
    ++copies;
    EXPECT_TRUE(backward);
    for (size_t i : {1, 2}) EXPECT_EQ(node->output(i), nullptr);
    for (size_t i : {3, 4}) EXPECT_EQ(node->input(i), nullptr);
    for (size_t i = 1; i < node->outputs.size(); ++i) EXPECT_EQ(node->output(i), nullptr);
    const Value* saved = node->input(6);
    ASSERT_TRUE(saved && saved->opaque);
    EXPECT_EQ(saved->producer->type, "BatchNormalization");
    EXPECT_EQ(saved->producer->provenance.direction, Direction::forward);
  }
  EXPECT_GT(copies, 0);
}

// What runs again in backward looks for no sums over channels, and what runs again before it leaves none.
TEST(RecomputeOfThinConvolutions, BeginsFromWhatForwardFound) {
  Training training(test::network_named("thin_residual"));
  auto programs = training.session().training(training.dims(), training.options());
  auto graph = programs.step->graph().clone();
  std::vector<bool> chosen;
  for (const auto& node : graph->nodes())
    chosen.push_back((node->type == "Conv" && node->output(1)) || node->type == "DepthwiseNormalization");
  Origins copies = copy_into_backward(*graph, chosen);
  verify(*graph);
  EXPECT_EQ(copies.size(), 2U);
  for (auto [copy, original] : copies) {
    if (copy->type == "Conv") {
      EXPECT_TRUE(original->output(1) && !copy->output(1));
    } else {
      EXPECT_EQ(original->input(10)->producer->type, "Conv");
      EXPECT_EQ(copy->input(10), nullptr);
      EXPECT_EQ(copy->input(11), original->output(5));
      EXPECT_EQ(copy->output(5), nullptr);
    }
  }
}

TEST_F(RecomputeOfTower, RefusesWhatDoesNotFitWithTheBatchThatWould) {
  TrainingOptions options = training_.options();
  options.memory = {.recompute = Recompute::all, .optimiser = OptimiserState::memory};
  auto dims_of = [&](int64_t batch) {
    auto dims = training_.dims();
    dims.at("x").at(0) = batch;
    return dims;
  };
  auto least = [&](int64_t batch) { return training_.session().training_cost(dims_of(batch), options).peak_bytes; };
  const int64_t of_two = least(2);
  EXPECT_LT(of_two, least(3));
  auto refusal = [&](int64_t limit) {
    Training training(all_networks().back());
    training.options().memory = {
        .recompute = Recompute::automatic, .limit = limit, .optimiser = OptimiserState::memory};
    try {
      training.session().training(dims_of(9), training.options());
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string("fits");
  };
  EXPECT_NE(refusal(of_two).find("the largest batch that fits is 2"), std::string::npos) << refusal(of_two);
  EXPECT_NE(refusal(of_two).find("with a batch of 9 needs"), std::string::npos);
  EXPECT_NE(refusal(1000).find("no batch fits"), std::string::npos) << refusal(1000);
  EXPECT_EQ(refusal(least(9)), "fits");
}

TEST(LargestBatch, IsFoundByHalves) {
  for (int64_t fitting : {0, 1, 5, 6}) {
    int64_t asked = 0;
    EXPECT_EQ(largest_batch(7, [&](int64_t batch) { return ++asked, batch <= fitting; }), fitting);
    EXPECT_LE(asked, 3);
  }
  EXPECT_EQ(largest_batch(1, [](int64_t) { return true; }), 0);
}

}  // namespace
}  // namespace graft
