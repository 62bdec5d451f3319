#include "runtime/training/trainer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "importers/data/checkpoint_file.h"
#include "runtime/training/bootstrap.h"
#include "runtime/training/targets.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

// Three classes around three corners of a plane, in no order.
class Corners : public Dataset {
 public:
  explicit Corners(int64_t size, uint64_t seed = 1) : size_(size), seed_(seed) {}
  int64_t size() const override { return size_; }
  const std::vector<std::string>& input_names() const override { return names_; }
  std::vector<std::string> class_names() const override { return classes; }
  int64_t label_of(int64_t i) const override { return (i * 7 + i / 5) % 3; }
  std::string describe(int64_t i) const override { return cat("corner ", i); }
  Sample read(int64_t i) const override {
    if (i == broken) throw DataError(describe(i), " is broken");
    auto place = static_cast<double>(label_of(i));
    auto wave = [&](double k) { return 0.5 * std::sin(k * static_cast<double>(i) + static_cast<double>(seed_)); };
    auto x = static_cast<float>(std::cos(2 * place) + wave(1.7));
    auto y = static_cast<float>(std::sin(2 * place) + wave(2.9));
    return {{Tensor::of<float>({2}, {x, y})}, Tensor::scalar(label_of(i))};
  }
  std::vector<std::string> classes{"a", "b", "c"};
  int64_t broken = -1;

 private:
  int64_t size_;
  uint64_t seed_;
  std::vector<std::string> names_{"x"};
};

Tensor ramp(const Dims& dims) {
  Tensor t = Tensor::uninitialized(DType::f32, dims);
  for (int64_t i = 0; i < t.count(); ++i)
    t.data<float>()[i] = static_cast<float>(0.5 * std::sin(1.7 * static_cast<double>(i) + 0.3));
  return t;
}

// Softmax(Gemm(Dropout(Relu(Gemm(x)))))
std::unique_ptr<Session> make_session(double dropout = 0.2) {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input("x", DType::f32, {-1, 2});
  Value* w1 = graph->add_constant(ramp({2, 8}), "w1");
  Value* b1 = graph->add_constant(ramp({8}), "b1");
  Value* w2 = graph->add_constant(ramp({8, 3}), "w2");
  Value* h = graph->add_node("", "Relu", {graph->add_node("", "Gemm", {x, w1, b1}, 1)->outputs[0]}, 1)->outputs[0];
  Value* rate = graph->add_constant(Tensor::scalar(static_cast<float>(dropout)));
  Value* on = graph->add_constant(Tensor::scalar(true));
  Value* d = graph->add_node("", "Dropout", {h, rate, on}, 1)->outputs[0];
  graph->rename(d, "dropped");
  Value* p = graph->add_node("", "Softmax", {graph->add_node("", "Gemm", {d, w2}, 1)->outputs[0]}, 1)->outputs[0];
  graph->rename(p, "p");
  graph->outputs = {p};
  return std::make_unique<Session>(std::move(graph), Expander{}, SessionOptions{.seed = 5});
}

TrainerOptions options_for(const Session& session) {
  TrainerOptions options;
  options.training.trainable = session.parameters();
  options.schedule = {.decay = Decay::cosine, .rate = 0.02, .warmup = 3};
  options.epochs = 4;
  options.batch_size = 8;
  options.seed = 7;
  return options;
}

struct Outcome {
  TrainingResult result;
  std::vector<TrainingEpoch> epochs;
  std::vector<TrainingStep> steps;
  SavedStates states;
  int64_t exports = 0, checkpoints = 0;
};

// Runs to the end, or until `stop_after` batches; goes on from `from` where it is given. Every checkpoint goes through
// a file.
Outcome train(const TrainerOptions& options, Session& session, const Checkpoint* from = nullptr,
              int64_t stop_after = -1, Checkpoint* last = nullptr) {
  Corners corners(50), held_out(20, 3);
  TemporaryFolder folder;
  std::string path = folder / "last.ckpt";
  Outcome outcome;
  TrainerCallbacks callbacks;
  callbacks.on_epoch = [&](const TrainingEpoch& epoch) { outcome.epochs.push_back(epoch); };
  callbacks.on_step = [&](const TrainingStep& step) { outcome.steps.push_back(step); };
  callbacks.on_best = [&] { ++outcome.exports; };
  callbacks.on_checkpoint = [&](const TrainingProgress& at, const ParameterStore& states) {
    write_checkpoint(path, at, states, "settings: 1\n");
    ++outcome.checkpoints;
    // Whoever goes on from it would never tell of the missing one.
    const int64_t begun = from ? from->progress.epoch : 0;
    EXPECT_EQ(static_cast<int64_t>(outcome.epochs.size()), at.epoch - begun);
  };
  callbacks.interrupted = [&] { return stop_after >= 0 && static_cast<int64_t>(outcome.steps.size()) >= stop_after; };
  Trainer trainer(session, corners, all_indices(corners), &held_out, all_indices(held_out), options, callbacks);
  if (from) trainer.restore(*from);
  outcome.result = trainer.run();
  outcome.states = take_states(session.store());
  if (last) *last = read_checkpoint(path).checkpoint;
  return outcome;
}

void expect_same_bits(const SavedStates& a, const SavedStates& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, state] : a) {
    const Tensor& other = b.at(name).value;
    ASSERT_EQ(state.value.bytes(), other.bytes()) << name;
    EXPECT_EQ(std::memcmp(state.value.raw(), other.raw(), static_cast<size_t>(other.bytes())), 0) << name;
  }
}

TEST(Trainer, LearnsAndKeepsTheBest) {
  auto session = make_session();
  TrainerOptions options = options_for(*session);
  options.epochs = 15;
  options.monitor = "accuracy";
  Outcome outcome = train(options, *session);
  EXPECT_EQ(outcome.result.reason, StopReason::finished);
  EXPECT_EQ(outcome.result.steps, 15 * 7);
  ASSERT_EQ(outcome.epochs.size(), 15U);
  EXPECT_LT(outcome.epochs.back().loss, 0.6 * outcome.epochs.front().loss);
  EXPECT_GE(outcome.result.best, 0.9);
  const auto& best = outcome.epochs[static_cast<size_t>(outcome.result.best_epoch - 1)];
  EXPECT_TRUE(best.best);
  EXPECT_EQ(best.validation->value("accuracy"), outcome.result.best);
  int64_t improved = 0;
  for (const auto& epoch : outcome.epochs) improved += epoch.best;
  EXPECT_EQ(outcome.exports, improved);
  EXPECT_EQ(outcome.checkpoints, 15);
}

TEST(Trainer, GoesOnFromACheckpointToTheBit) {
  for (int64_t accumulate : {1, 3}) {
    for (int64_t stop : {4, 9, 14}) {  // in the first epoch, in the middle of one, and at its end
      SCOPED_TRACE(cat("accumulate ", accumulate, ", stopped after ", stop));
      auto whole = make_session(), first = make_session(), second = make_session();
      TrainerOptions options = options_for(*whole);
      options.accumulate = accumulate;
      options.training.clip_norm = 0.5;
      Outcome at_once = train(options, *whole);
      Checkpoint checkpoint;
      Outcome begun = train(options, *first, nullptr, stop, &checkpoint);
      EXPECT_EQ(begun.result.reason, StopReason::interrupted);
      Outcome gone_on = train(options, *second, &checkpoint);
      EXPECT_EQ(gone_on.result.steps, at_once.result.steps);
      expect_same_bits(gone_on.states, at_once.states);
      const TrainingEpoch& a = at_once.epochs.back();
      const TrainingEpoch& b = gone_on.epochs.back();
      EXPECT_EQ(a.loss, b.loss);
      EXPECT_EQ(a.accuracy, b.accuracy);
      EXPECT_EQ(a.validation->loss, b.validation->loss);
      EXPECT_EQ(at_once.epochs[begun.epochs.size()].loss, gone_on.epochs.front().loss) << "the epoch that was cut";
      EXPECT_EQ(at_once.result.best, gone_on.result.best);
      EXPECT_EQ(at_once.result.best_epoch, gone_on.result.best_epoch);
    }
  }
}

TEST(Trainer, StopsEarly) {
  auto session = make_session();
  TrainerOptions options = options_for(*session);
  options.schedule = {.decay = Decay::constant, .rate = 0};
  options.patience = 2;
  Outcome outcome = train(options, *session);
  EXPECT_EQ(outcome.result.reason, StopReason::early);
  EXPECT_EQ(outcome.epochs.size(), 3U);
  EXPECT_EQ(outcome.result.best_epoch, 1);
}

TEST(Trainer, CountsUpdates) {
  auto session = make_session();
  TrainerOptions options = options_for(*session);
  options.max_steps = 0;
  Outcome none = train(options, *session);
  EXPECT_EQ(none.result.steps, 0);
  EXPECT_EQ(none.exports, 1);
  expect_same_bits(none.states, take_states(make_session()->store()));
  options.max_steps = 9;
  options.epochs = -1;
  EXPECT_EQ(train(options, *make_session()).epochs.size(), 2U);
  options.accumulate = 3;  // 7 batches an epoch: windows of 3, 3 and 1
  Outcome windows = train(options, *make_session());
  EXPECT_EQ(windows.result.steps, 9);
  EXPECT_EQ(windows.epochs.size(), 3U);
  EXPECT_EQ(windows.steps.size(), 21U);
}

TEST(Trainer, ALossThatIsNoNumberEndsTheRun) {
  auto session = make_session();
  TrainerOptions options = options_for(*session);
  options.schedule = {.decay = Decay::constant, .rate = 1e30};
  Outcome outcome = train(options, *session);
  EXPECT_EQ(outcome.result.reason, StopReason::diverged);
  EXPECT_EQ(outcome.exports, 0);
}

TEST(Trainer, RefusesWhatDoesNotFit) {
  auto session = make_session();
  Corners corners(12);
  auto refused = [&](auto change) {
    TrainerOptions options = options_for(*session);
    change(options);
    Trainer trainer(*session, corners, all_indices(corners), nullptr, {}, options, {});
    trainer.run();
  };
  EXPECT_THROW(refused([](TrainerOptions& o) { o.epochs = -2; }), UsageError);
  EXPECT_THROW(refused([](TrainerOptions& o) { o.accumulate = 0; }), UsageError);
  EXPECT_THROW(refused([](TrainerOptions& o) { o.batch_size = 0; }), UsageError);
  EXPECT_THROW(refused([](TrainerOptions& o) { o.monitor = "acuracy"; }), UsageError);
  corners.broken = 3;
  EXPECT_THROW(refused([](TrainerOptions&) {}), DataError);
  EXPECT_NO_THROW(refused([](TrainerOptions& o) { o.on_bad_sample = OnBadSample::skip; }));
  corners.broken = -1;
  corners.classes.emplace_back("d");
  EXPECT_THROW(refused([](TrainerOptions&) {}), DataError);
}

TEST(Trainer, RefusesCheckpointsOfOtherModels) {
  auto session = make_session();
  Corners corners(12);
  Checkpoint good{{}, take_states(session->store())};
  auto restore = [&](const Checkpoint& checkpoint) {
    auto fresh = make_session();
    Trainer(*fresh, corners, all_indices(corners), nullptr, {}, options_for(*fresh), {}).restore(checkpoint);
  };
  EXPECT_NO_THROW(restore(good));
  Checkpoint bad = good;
  bad.states.erase("w1");
  EXPECT_THROW(restore(bad), DataError);
  bad = good;
  bad.states["w9"] = bad.states["w1"];
  EXPECT_THROW(restore(bad), DataError);
  bad = good;
  bad.states["w1"].value = ramp({2, 9});
  EXPECT_THROW(restore(bad), DataError);
  bad = good;
  bad.progress.position = 13;
  EXPECT_THROW(restore(bad), DataError);
}

TEST(Targets, TakeTheFormOfTheLoss) {
  Tensor classes = Tensor::of<int64_t>({2}, {2, 0});
  EXPECT_EQ(fit_targets(classes, DType::i64, {2, 1}, "they").dims(), (Dims{2, 1}));
  EXPECT_EQ(fit_targets(classes, DType::f64, {2, 1}, "they").dtype(), DType::f64);
  Tensor rows = fit_targets(classes, DType::f32, {2, 3}, "they");
  EXPECT_EQ(std::vector<float>(rows.data<float>(), rows.data<float>() + 6), (std::vector<float>{0, 0, 1, 1, 0, 0}));
  EXPECT_THROW(fit_targets(classes, DType::f32, {2, 2}, "they"), DataError) << "class 2 of 2";
  EXPECT_THROW(fit_targets(classes, DType::i64, {3}, "they"), DataError);
  EXPECT_THROW(fit_targets(classes.cast(DType::f32), DType::i64, {2}, "they"), DataError);
  EXPECT_THROW(fit_targets({}, DType::i64, {2}, "they"), DataError);
}

TEST(Bootstrap, IntervalsHoldTheMetric) {
  Tensor scores = Tensor(DType::f32, {100, 2});
  Tensor labels = Tensor(DType::i64, {100});
  for (int64_t i = 0; i < 100; ++i) {
    labels.data<int64_t>()[i] = i % 2;
    bool right = i % 5 != 0;
    scores.data<float>()[2 * i + (right ? i % 2 : 1 - i % 2)] = 1;
  }
  Bootstrap bootstrap({});
  bootstrap.add(scores, labels);
  auto intervals = bootstrap.intervals(400, 3);
  Interval accuracy = intervals.at("accuracy");
  // Normal approximation: 0.8 +- 1.96 * 0.04
  EXPECT_NEAR(accuracy.low, 0.72, 0.025);
  EXPECT_NEAR(accuracy.high, 0.88, 0.025);
  EXPECT_EQ(bootstrap.intervals(400, 3).at("macro_f1").low, intervals.at("macro_f1").low);
}

}  // namespace
}  // namespace graft
