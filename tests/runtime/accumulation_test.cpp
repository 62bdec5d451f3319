// Gradient accumulation: a window of micro-batches, however ragged, is one step on all of its rows.
#include <gtest/gtest.h>

#include "runtime/model_session.h"
#include "tests/support/recording.h"

namespace graft {
namespace {

using test::expect_agreement;
using test::Recording;
using test::rows;
using test::Tensors;
using Window = std::vector<int64_t>;  // rows of each micro-batch

constexpr int64_t window_rows = 16;
constexpr double learning_rate = 0.05;

struct Case {
  const char* name;
  OptimiserOptions optimiser;
  double clip_norm = 0;
  double label_smoothing = 0;
  std::vector<double> class_weights = {};
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

OptimiserOptions momentum(bool nesterov = false) {
  return {.type = OptimiserType::sgd, .momentum = 0.9, .nesterov = nesterov, .weight_decay = 0.01};
}

OptimiserOptions adamw() { return {.type = OptimiserType::adamw, .weight_decay = 0.1}; }

// The rows of the recorded steps, one behind the other.
class Rows {
 public:
  Rows(const Recording& recording, DType dtype) {
    const Tensor& x = recording.array("steps/x");
    Dims dims(x.dims().begin() + 1, x.dims().end());
    dims[0] *= x.dims()[0];
    x_ = x.reshaped(dims).cast(dtype);
    labels_ = recording.array("steps/y").reshaped({dims[0]}).clone();
  }

  void ignore(int64_t row) { labels_.data<int64_t>()[row] = LossOptions().ignore_index; }
  Tensor x(int64_t begin, int64_t count) const { return rows(x_, begin, begin + count); }
  Tensor labels(int64_t begin, int64_t count) const { return rows(labels_, begin, begin + count); }

 private:
  Tensor x_, labels_;
};

TrainingOptions training_options(const Session& session, const Case& c) {
  TrainingOptions options;
  options.loss.label_smoothing = c.label_smoothing;
  options.loss.class_weights = c.class_weights;
  options.optimiser = c.optimiser;
  options.clip_norm = c.clip_norm;
  options.trainable = session.parameters();
  options.batchnorm_live = false;  // live statistics are those of the micro-batch
  return options;
}

// One step on the rows from `begin` on, in one batch.
std::shared_ptr<Program> step_whole(Session& session, const TrainingOptions& options, const Rows& data, int64_t begin) {
  Tensor x = data.x(begin, window_rows);
  TrainingPrograms programs = session.training({{"x", x.dims()}}, options);
  test::train_step(programs, x, data.labels(begin, window_rows), learning_rate);
  return programs.step;
}

// The same in micro-batches.
std::shared_ptr<Program> step_window(Session& session, TrainingOptions options, const Rows& data, int64_t begin,
                                     const Window& window) {
  options.accumulate = true;
  TrainingPrograms programs;
  for (int64_t count : window) {
    Tensor x = data.x(begin, count);
    programs = session.training({{"x", x.dims()}}, options);
    programs.step->set_input("x", x);
    programs.step->set_input("graft.labels", data.labels(begin, count));
    programs.step->run();
    begin += count;
  }
  programs.apply->set_input("graft.lr", Tensor::scalar(learning_rate).cast(data.x(0, 1).dtype()));
  programs.apply->run();
  return programs.apply;
}

// Parameters, statistics and moments, as far as they can agree.
Tensors comparable_states(const ParameterStore& store, const Recording& recording) {
  Tensors all = test::states(store);
  std::erase_if(all, [&](const auto& state) {
    return store.entry(state.first).kind == StateKind::accumulator || recording.has_noise_for_gradient(state.first);
  });
  return all;
}

void expect_window_equals_batch(const char* network, DType dtype, const Case& c, double tolerance) {
  SessionOptions precision;
  precision.double_precision = dtype == DType::f64;
  Recording recording(network);
  ModelSession whole = ModelSession::open(recording.model(), precision);
  ModelSession parts = ModelSession::open(recording.model(), precision);
  TrainingOptions options = training_options(whole.session(), c);
  Rows data(recording, dtype);
  for (int64_t row : {0, 7, 8, 9, 15, 18, 33, 34}) data.ignore(row);  // 7 to 9: all that the second micro-batch has
  int64_t begin = 0;
  bool clipped = false;
  for (const Window& window : {Window{7, 3, 1, 5}, {5, 5, 6}, {1, 15}, {16}, {7, 3, 1, 5}}) {
    auto batch = step_whole(whole.session(), options, data, begin);
    auto applied = step_window(parts.session(), options, data, begin, window);
    std::string what = cat("rows from ", begin);
    for (const char* sum : {"graft.loss_sum", "graft.weight_sum"}) {
      EXPECT_NEAR(applied->scalar(sum), batch->scalar(sum), tolerance * batch->scalar(sum)) << what << ": " << sum;
    }
    if (c.clip_norm > 0) {
      double norm = batch->scalar("graft.gradient_norm");
      EXPECT_NEAR(applied->scalar("graft.gradient_norm"), norm, tolerance * norm) << what;
      clipped = clipped || norm > c.clip_norm;
    }
    expect_agreement(comparable_states(parts.session().store(), recording),
                     comparable_states(whole.session().store(), recording), tolerance, what);
    begin += window_rows;
  }
  EXPECT_EQ(clipped, c.clip_norm > 0);
}

class Accumulation : public testing::TestWithParam<Case> {};

TEST_P(Accumulation, EqualsTheLargeBatchInFloat64) {
  expect_window_equals_batch("small_mlp", DType::f64, GetParam(), 1e-12);
}

TEST_P(Accumulation, EqualsTheLargeBatchInFloat32) {
  for (const char* network : {"small_mlp", "small_cnn", "block"}) {
    SCOPED_TRACE(network);
    expect_window_equals_batch(network, DType::f32, GetParam(), 1e-4);
  }
}

const Case cases[] = {
    {"Momentum", momentum()},
    {"NesterovClipped", momentum(true), 0.1},
    {"AdamW", adamw()},
    {"AdamWClipped", adamw(), 0.1},
    {"MomentumSmoothedWeighted", momentum(), 0, 0.1, {1, 2, 0.5, 3}},
    {"AdamWClippedSmoothedWeighted", adamw(), 0.1, 0.1, {1, 2, 0.5, 3}},
};

INSTANTIATE_TEST_SUITE_P(Window, Accumulation, testing::ValuesIn(cases),
                         [](const auto& run) { return std::string(run.param.name); });

TEST(AccumulationWindow, WithoutALabelThatCountsMovesNothing) {
  Recording recording("small_mlp");
  ModelSession model = ModelSession::open(recording.model());
  Case plain{"", {.type = OptimiserType::sgd}};
  TrainingOptions options = training_options(model.session(), plain);
  Rows data(recording, DType::f32);
  for (int64_t row = 0; row < window_rows; ++row) data.ignore(row);
  Tensors before = test::states(model.session().store());
  auto applied = step_window(model.session(), options, data, 0, {8, 8});
  EXPECT_EQ(applied->scalar("graft.weight_sum"), 0);
  for (const auto& [name, value] : before) {
    test::expect_same_bits({{name, model.session().store().read(name)}}, {{name, value}});
  }
}

}  // namespace
}  // namespace graft
