// Fine-tuning: epochs over a data set, validation, early stopping, checkpoints. Sees data as a Dataset and everything
// that leaves memory (export, checkpoints, progress) as callbacks.
#pragma once

#include <optional>

#include "runtime/training/checkpoint.h"
#include "runtime/training/early_stopping.h"
#include "runtime/training/evaluation.h"
#include "runtime/training/schedule.h"

namespace graft {

struct TrainerOptions {
  TrainingOptions training;         // `accumulate` is set by the Trainer
  ScheduleOptions schedule;         // `steps` is set by the Trainer
  int64_t epochs = 3;               // -1: as many as max_steps wants
  int64_t max_steps = -1;           // updates of the whole run, 0: none at all; -1: as many as the epochs give
  int64_t batch_size = 32;          // samples a forward pass
  int64_t accumulate = 1;           // batches an update
  int64_t evaluation_batch = 0;     // samples a forward pass of validation; 0: batch_size
  std::string monitor = "loss";     // of validation: what is best and when to stop
  int64_t patience = 0;             // epochs without gain before the run ends; 0: never ends early
  double checkpoint_seconds = 600;  // between checkpoints within an epoch; one at the end of each epoch anyway
  uint64_t seed = 42;               // of the order of samples
  OnBadSample on_bad_sample = OnBadSample::fail;
  int loader_threads = 1;
  bool length_buckets = true;  // batches are cut where that changes nothing, see LengthBuckets
};

struct TrainingStep {
  int64_t epoch = 0;  // from 1
  int64_t batch = 0;  // of the epoch, from 1
  int64_t step = 0;   // updates so far
  int64_t samples = 0;
  double loss = 0;  // of this batch
  double rate = 0;
  std::optional<double> gradient_norm;  // before clipping, where gradients are clipped and this batch ended an update
};

struct TrainingEpoch {
  int64_t epoch = 0;  // from 1
  int64_t step = 0;
  double rate = 0;      // of its last update
  double loss = 0;      // weighted mean over the epoch, in training mode
  double accuracy = 0;  // of cross_entropy, likewise; NaN for other losses
  std::optional<Evaluation> validation;
  bool best = false;
  double seconds = 0;        // with validation
  double train_seconds = 0;  // without
  int64_t samples = 0;       // trained on in this process
  int64_t skipped = 0;
  std::vector<std::string> skip_reasons;
};

enum class StopReason : uint8_t { finished, early, interrupted, diverged };

struct TrainingResult {
  StopReason reason = StopReason::finished;
  int64_t steps = 0;
  int64_t best_epoch = 0;  // 0: none was validated
  double best = 0;         // of the monitored value
};

struct TrainerCallbacks {
  // Once, before the first batch runs: the Programs for full batches of the longest rows, whose plan is the peak.
  std::function<void(const TrainingPrograms&)> on_compiled;
  std::function<void(int64_t epoch, int64_t batches)> on_epoch_begin;
  std::function<void(const TrainingStep&)> on_step;
  std::function<void(int64_t batches)> on_validation_begin;
  std::function<void(const Batch& batch, double loss)> on_validation_batch;
  std::function<void(const TrainingEpoch&)> on_epoch;
  std::function<void()> on_best;  // export: the states are the best so far, or the last where there is no validation
  std::function<void(const TrainingProgress&, const ParameterStore&)> on_checkpoint;
  std::function<bool()> interrupted;  // asked behind every batch: true ends the run with a checkpoint
};

class Trainer {
 public:
  // All outlive the Trainer. `validation` may be nullptr.
  // UsageError for options out of range, DataError where data and model do not fit.
  Trainer(Session& session, const Dataset& train, std::vector<int64_t> train_indices, const Dataset* validation,
          std::vector<int64_t> validation_indices, TrainerOptions options, TrainerCallbacks callbacks);

  // Goes on where a checkpoint was taken, to the bit. UsageError where it is of another model or optimiser.
  void restore(const Checkpoint& checkpoint);
  // At most once. A loss that is no number ends the run as `diverged`, before a checkpoint could keep it.
  TrainingResult run();

  int64_t total_steps() const { return total_steps_; }
  // What batches for training are cut to; those for validation likewise.
  const std::optional<LengthBuckets>& buckets() const { return loader_.buckets(); }

 private:
  void compile_largest(std::map<std::string, Dims> dims);
  TrainingPrograms programs_for(const Batch& batch);
  bool train_epoch(TrainingResult& result);
  bool train_batch(const Batch& batch);
  void apply();
  void count_accuracy(const Program& step, const Tensor& targets);
  bool end_epoch(double begin);
  void checkpoint();
  bool done() const { return progress_.step >= total_steps_; }

  Session& session_;
  const Dataset& train_;
  const Dataset* validation_;
  TrainerOptions options_;
  TrainerCallbacks callbacks_;
  Loader loader_;
  std::optional<Loader> validation_loader_;
  int64_t total_steps_ = 0;
  Schedule schedule_;
  EarlyStopping stopping_;
  TrainingProgress progress_;
  TrainingEpoch epoch_;
  int64_t pending_ = 0;  // batches in the accumulators
  double checkpoint_time_ = 0;
  TrainingPrograms programs_;  // for batches of these dims, until something else was compiled
  std::map<std::string, Dims> programs_dims_;
  bool compiled_ = false;
};

}  // namespace graft
