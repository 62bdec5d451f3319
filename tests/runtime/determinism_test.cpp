// The same model, data and seed give the same bits.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "runtime/model_session.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"
#include "tests/support/thread_count.h"

namespace graft {
namespace {

using test::Recording;
using test::Tensors;
using test::ThreadCount;

constexpr int64_t steps = 5;

TrainingOptions training_options(const Session& session) {
  TrainingOptions options;
  options.optimiser.weight_decay = 0.1;
  options.clip_norm = 1;
  options.trainable = session.parameters();
  return options;
}

// All states after some steps on the recorded batches.
Tensors trained(Session& session, const Recording& recording) {
  TrainingPrograms programs = session.training({{"x", recording.row("steps/x", 0).dims()}}, training_options(session));
  for (int64_t step = 0; step < steps; ++step) {
    test::train_step(programs, recording.row("steps/x", step), recording.row("steps/y", step), 0.01);
  }
  return test::states(session.store());
}

class Determinism : public testing::TestWithParam<const char*> {};

TEST_P(Determinism, TwoSessionsGiveTheSameBits) {
  Recording recording(GetParam());
  ModelSession first = ModelSession::open(recording.model());
  ModelSession second = ModelSession::open(recording.model());
  test::expect_same_bits(trained(second.session(), recording), trained(first.session(), recording));
}

// Every gradient, with a number of threads.
Tensors gradients(const Recording& recording, int threads) {
  ThreadCount some(threads);
  ModelSession model = ModelSession::open(recording.model());
  const Tensor& x = recording.array("gradient/x");
  auto shared = model.session().vjp({{"x", x.dims()}}, Mode::train);
  Program& vjp = *shared;
  vjp.set_input("x", x);
  vjp.set_input("cotangent:logits", recording.array("gradient/cotangent"));
  vjp.run();
  Tensors found;
  for (const Value* output : vjp.graph().outputs) found[output->name] = vjp.output(output->name);
  return found;
}

// Bits may differ: oneDNN adds up the gradients of Conv's weights in one part a thread.
TEST_P(Determinism, ThreadsChangeNoMoreThanRounding) {
  Recording recording(GetParam());
  Tensors alone = gradients(recording, 1);
  for (int threads : {2, 3}) {
    test::expect_agreement(gradients(recording, threads), alone, 1e-4, cat(threads, " threads"));
    test::expect_same_bits(gradients(recording, threads), gradients(recording, threads));
  }
}

TEST_P(Determinism, OneAndTwoThreadsGiveTheSameBitsButForWeightsOfConvolutions) {
  Recording recording(GetParam());
  Tensors alone = gradients(recording, 1), together = gradients(recording, 2);
  size_t left_out = 0;
  ModelSession model = ModelSession::open(recording.model());
  for (const auto& node : model.session().graph().nodes()) {
    if (node->type != "Conv") continue;
    std::string name = "grad:" + node->inputs[1]->name;
    left_out += alone.erase(name) && together.erase(name);
  }
  EXPECT_EQ(left_out, std::string(GetParam()) == "small_cnn" ? 2U : 0U);
  test::expect_same_bits(together, alone);
}

// Without convolutions whole runs are the same for any number of threads.
TEST(DeterminismOfTraining, HangsOnNoNumberOfThreads) {
  for (const char* network : {"small_mlp", "block"}) {
    Recording recording(network);
    auto trained_by = [&](int threads) {
      ThreadCount some(threads);
      ModelSession model = ModelSession::open(recording.model());
      return trained(model.session(), recording);
    };
    Tensors alone = trained_by(1);
    for (int threads : {2, 3, 5}) {
      SCOPED_TRACE(cat(network, ", ", threads, " threads"));
      test::expect_same_bits(trained_by(threads), alone);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Network, Determinism, testing::Values("small_mlp", "small_cnn", "block"),
                         [](const auto& run) { return std::string(run.param); });

struct Kernel {
  const char* domain;
  const char* type;
  std::vector<Tensor> inputs;
  size_t outputs = 1;
  Attributes attributes = {};
};

std::vector<Kernel> large_kernels() {
  constexpr int64_t n = 4001, wide = 67;
  auto random = [](const Dims& dims, unsigned seed) { return test::random_tensor(DType::f32, dims, seed, 0.1, 2); };
  Tensor x = random({n, wide}, 1);
  Tensor y = random({n, wide}, 2);
  Tensor labels(DType::i64, {n});
  for (int64_t i = 0; i < n; ++i) labels.data<int64_t>()[i] = i % wide;
  Tensor one = Tensor::scalar(0.5F);
  Tensor step = Tensor::scalar<int64_t>(3);
  return {{"", "ReduceSum", {x, Tensor::of<int64_t>({1}, {0})}},
          {"", "ReduceMean", {x, Tensor::of<int64_t>({2}, {0, 1})}},
          {"", "Softmax", {x}},
          {"", "Add", {x, random({wide}, 3)}},
          {"", "Exp", {x}},
          {"",
           "Gemm",
           {random({20, wide}, 8), random({5, wide}, 9)},
           1,
           {{"transB", int64_t{1}}}},  // the last part is short
          {"graft", "ChannelSum", {random({5, 24, 61, 37}, 4)}},
          {"graft", "ChannelSum", {random({5, 300, 11, 7}, 4)}},
          {"",
           "GroupNormalization",
           {random({5, 24, 61, 37}, 4), random({24}, 5), random({24}, 6)},
           1,
           {{"num_groups", int64_t{3}}}},
          {"graft", "GlobalNorm", {x, y}},
          {"graft", "SoftmaxCrossEntropy", {x, labels}, 2},
          {"graft", "SquaredError", {x, y}, 2},
          {"graft", "Sgd", {x, y, one, one, step, y}, 2, {{"momentum", 0.9}}},
          {"graft", "Adam", {x, y, one, one, step, y, y}, 3},
          {"graft", "Adam", {x, y, one, one, step, y, y}, 3, {{"weight_decay", 0.1}, {"decoupled", int64_t{1}}}}};
}

TEST(DeterminismOfKernels, OurOwnGiveTheSameBitsForAnyNumberOfThreads) {
  for (const Kernel& kernel : large_kernels()) {
    auto run = [&](int threads) {
      ThreadCount some(threads);
      return test::run_op(kernel.domain, kernel.type, kernel.inputs, kernel.outputs, kernel.attributes);
    };
    std::vector<Tensor> alone = run(1);
    for (int threads : {2, 3, 5}) {
      std::vector<Tensor> together = run(threads);
      for (size_t i = 0; i < alone.size(); ++i)
        test::expect_same_bits({{kernel.type, together[i]}}, {{kernel.type, alone[i]}});
    }
  }
}

struct Rule {
  const char* domain;
  const char* type;
  std::vector<Tensor> inputs;
  Attributes attributes = {};
};

// Gradients that are sums over all rows or over batch and space.
std::vector<Rule> summing_rules() {
  auto random = [](const Dims& dims, unsigned seed) { return test::random_tensor(DType::f32, dims, seed, 0.1, 2); };
  Tensor rows = random({4001, 67}, 1), row = random({67}, 2);
  Tensor images = random({5, 24, 61, 37}, 3), channel = random({24}, 4);
  return {{"", "LayerNormalization", {rows, row, row}},
          {"", "RMSNormalization", {rows, row}},
          {"", "GroupNormalization", {images, channel, channel}, {{"num_groups", int64_t{3}}}},
          {"", "InstanceNormalization", {images, channel, channel}},
          {"", "MatMul", {rows, random({67, 35}, 5)}},
          {"", "PRelu", {rows, row}}};
}

TEST(DeterminismOfKernels, OurOwnGradientsGiveTheSameBitsForAnyNumberOfThreads) {
  for (const Rule& rule : summing_rules()) {
    auto run = [&](int threads) {
      ThreadCount some(threads);
      std::vector<size_t> wanted(rule.inputs.size());
      std::iota(wanted.begin(), wanted.end(), size_t{0});
      Tensor like = test::run_op(rule.domain, rule.type, rule.inputs, 1, rule.attributes)[0];
      Tensor seed = test::random_tensor(DType::f32, like.dims(), 7);
      return test::op_gradients(rule.domain, rule.type, rule.inputs, 1, rule.attributes, seed, wanted);
    };
    std::vector<Tensor> alone = run(1);
    for (int threads : {2, 3, 5}) {
      std::vector<Tensor> together = run(threads);
      for (size_t i = 0; i < alone.size(); ++i)
        test::expect_same_bits({{cat(rule.type, ' ', i), together[i]}}, {{cat(rule.type, ' ', i), alone[i]}});
    }
  }
}

// logits = Dropout(Relu(x w1)) w2, with the recorded weights of small_mlp turned around
std::unique_ptr<Graph> dropping(const Recording& recording) {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input("x", DType::f32, {-1, 12});
  Value* w1 = graph->add_constant(recording.array("init/0.weight"), "w1");
  Value* w2 = graph->add_constant(recording.array("init/2.weight"), "w2");
  Value* ratio = graph->add_constant(Tensor::scalar(0.5F));
  Value* training = graph->add_constant(Tensor::scalar(true));
  Value* h = graph->add_node("", "Gemm", {x, w1}, 1, {{"transB", int64_t{1}}})->outputs[0];
  Value* a = graph->add_node("", "Relu", {h}, 1)->outputs[0];
  Value* d = graph->add_node("", "Dropout", {a, ratio, training}, 1)->outputs[0];
  Value* logits = graph->add_node("", "Gemm", {d, w2}, 1, {{"transB", int64_t{1}}})->outputs[0];
  graph->rename(a, "a");
  graph->rename(d, "d");
  graph->rename(logits, "logits");
  graph->outputs = {logits};
  return graph;
}

TEST(DeterminismOfDropout, HangsOnTheSeedAlone) {
  Recording recording("small_mlp");
  auto trained_with = [&](uint64_t seed) {
    SessionOptions options;
    options.seed = seed;
    Session session(dropping(recording), {}, options);
    return trained(session, recording);
  };
  Tensors wanted = trained_with(5);
  test::expect_same_bits(trained_with(5), wanted);
  Tensors other = trained_with(6);
  EXPECT_NE(std::memcmp(other.at("w2").raw(), wanted.at("w2").raw(), static_cast<size_t>(wanted.at("w2").bytes())), 0);
}

}  // namespace
}  // namespace graft
