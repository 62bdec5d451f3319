// The same model, data and seed give the same bits.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/device/device.h"
#include "runtime/model_session.h"
#include "tests/support/recording.h"

namespace graft {
namespace {

using test::Recording;
using test::Tensors;

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

class ThreadCount {
 public:
  explicit ThreadCount(int threads) { set_thread_count(threads); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;
  ~ThreadCount() { set_thread_count(before_); }

 private:
  int before_ = thread_count();
};

class Determinism : public testing::TestWithParam<const char*> {};

TEST_P(Determinism, TwoSessionsGiveTheSameBits) {
  Recording recording(GetParam());
  ModelSession first = ModelSession::open(recording.model());
  ModelSession second = ModelSession::open(recording.model());
  test::expect_same_bits(trained(second.session(), recording), trained(first.session(), recording));
}

TEST_P(Determinism, ThreadsDoNotChangeTheBits) {
  Recording recording(GetParam());
  ModelSession alone = ModelSession::open(recording.model());
  Tensors wanted;
  {
    ThreadCount one(1);
    wanted = trained(alone.session(), recording);
  }
  for (int threads : {2, 3}) {
    SCOPED_TRACE(threads);
    ThreadCount several(threads);
    ModelSession together = ModelSession::open(recording.model());
    test::expect_same_bits(trained(together.session(), recording), wanted);
  }
}

INSTANTIATE_TEST_SUITE_P(Network, Determinism, testing::Values("small_mlp", "small_cnn", "block"),
                         [](const auto& run) { return std::string(run.param); });

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
