#include "runtime/training/trainer.h"

#include <algorithm>
#include <cmath>

#include "runtime/clock.h"
#include "runtime/training/targets.h"

namespace graft {
namespace {

constexpr int64_t largest_count = int64_t{1} << 40;

void require(bool holds, const char* what, double got, const char* allowed) {
  if (!holds) throw UsageError(what, " is ", got, ", allowed is ", allowed);
}

TrainerOptions checked(TrainerOptions options) {
  auto number = [](int64_t value) { return static_cast<double>(value); };
  require(options.epochs >= -1 && options.epochs < largest_count, "the number of epochs", number(options.epochs),
          "0 or more");
  require(options.max_steps >= -1 && options.max_steps < largest_count, "the largest number of steps",
          number(options.max_steps), "0 or more");
  require(options.accumulate >= 1 && options.accumulate < largest_count, "the number of batches an update",
          number(options.accumulate), "1 or more");
  require(options.evaluation_batch >= 0, "the batch size of validation", number(options.evaluation_batch), "1 or more");
  require(options.patience >= 0, "the patience", number(options.patience), "0 or more");
  if (options.epochs == -1 && options.max_steps == -1) throw UsageError("neither epochs nor steps end the training");
  auto metrics = metric_names(options.training.loss.type);
  if (std::find(metrics.begin(), metrics.end(), options.monitor) == metrics.end()) {
    throw UsageError("no metric \"", options.monitor, "\" to monitor; nearest: \"",
                     nearest_names(options.monitor, metrics, 1).at(0), '"');
  }
  options.training.accumulate = options.accumulate > 1;
  return options;
}

std::optional<LengthBuckets> buckets_for(Session& session, const Dataset& data, const std::vector<int64_t>& indices,
                                         const TrainerOptions& options) {
  if (!options.length_buckets) return {};
  return find_length_buckets(session, data, indices, [&](const std::map<std::string, Dims>& dims) {
    return session.evaluation(dims, options.training.loss, options.training.output);
  });
}

LoaderOptions training_order(const TrainerOptions& options, std::optional<LengthBuckets> buckets) {
  return {.batch_size = options.batch_size,
          .seed = options.seed,
          .on_bad_sample = options.on_bad_sample,
          .threads = options.loader_threads,
          .buckets = std::move(buckets)};
}

LoaderOptions validation_order(const TrainerOptions& options, std::optional<LengthBuckets> buckets) {
  LoaderOptions order = training_order(options, std::move(buckets));
  order.shuffle = false;
  if (options.evaluation_batch > 0) order.batch_size = options.evaluation_batch;
  return order;
}

int64_t updates_of(const TrainerOptions& options, int64_t batches) {
  int64_t each = (batches + options.accumulate - 1) / options.accumulate;
  if (options.epochs == -1) return options.max_steps;
  int64_t all = checked_mul(options.epochs, each);
  return options.max_steps == -1 ? all : std::min(all, options.max_steps);
}

ScheduleOptions with_steps(ScheduleOptions schedule, int64_t steps) {
  schedule.steps = std::max<int64_t>(steps, 1);
  return schedule;
}

}  // namespace

Trainer::Trainer(Session& session, const Dataset& train, std::vector<int64_t> train_indices, const Dataset* validation,
                 std::vector<int64_t> validation_indices, TrainerOptions options, TrainerCallbacks callbacks)
    : session_(session),
      train_(train),
      validation_(validation),
      options_(checked(std::move(options))),
      callbacks_(std::move(callbacks)),
      loader_(train, train_indices, training_order(options_, buckets_for(session, train, train_indices, options_))),
      total_steps_(updates_of(options_, loader_.batches())),
      schedule_(with_steps(options_.schedule, total_steps_)),
      stopping_(more_is_better(options_.monitor) ? Goal::higher : Goal::lower, options_.patience) {
  if (validation)
    validation_loader_.emplace(*validation, std::move(validation_indices), validation_order(options_, buckets()));
}

void Trainer::restore(const Checkpoint& checkpoint) {
  const TrainingProgress& progress = checkpoint.progress;
  bool sound = progress.epoch >= 0 && progress.position >= 0 && progress.position <= loader_.size() &&
               progress.batch >= 0 && progress.step >= 0 && progress.best_update >= -1 &&
               progress.best_update < std::max<int64_t>(progress.updates, 1);
  if (!sound) {
    throw DataError("the checkpoint stands at epoch ", progress.epoch, ", sample ", progress.position, ", step ",
                    progress.step, ": the data has ", loader_.size(), " samples");
  }
  put_states(session_.store(), checkpoint.states);
  progress_ = progress;
  stopping_.restore(progress.best, progress.best_update, progress.updates);
}

// What takes most comes first: what follows fits into its memory, and the layouts that it chooses do not depend on
// where a run goes on.
void Trainer::compile_largest(std::map<std::string, Dims> dims) {
  compiled_ = true;
  for (auto& [name, shape] : dims) shape.at(0) = std::min(options_.batch_size, loader_.size());
  if (buckets()) buckets()->lengthen(dims);
  TrainingPrograms largest = session_.training(dims, options_.training);
  for (const Value* output : largest.step->graph().outputs) {
    if (output->name == "graft.prediction") check_classes(output->dims, options_.training.loss, train_);
  }
  if (callbacks_.on_compiled) callbacks_.on_compiled(largest);
}

TrainingPrograms Trainer::programs_for(const Batch& batch) {
  auto dims = dims_of(batch);
  if (!compiled_) compile_largest(dims);
  bool known = programs_.step && dims == programs_dims_ && !programs_.step->stale();
  if (!known) {
    programs_ = session_.training(dims, options_.training);
    programs_dims_ = std::move(dims);
  }
  return programs_;
}

// False when the loss is no number.
bool Trainer::train_batch(const Batch& batch) {
  TrainingPrograms programs = programs_for(batch);
  Program& step = *programs.step;
  const Value& slot = *step.graph().find("graft.labels");
  Tensor targets = fit_targets(batch.labels, slot.dtype, slot.dims,
                               "the samples from " + train_.describe(batch.indices.at(0)) + " on");
  set_inputs(step, batch);
  step.set_input("graft.labels", targets);
  double rate = schedule_.rate(progress_.step);
  Program& updating = programs.apply ? *programs.apply : step;
  updating.set_input("graft.lr", Tensor::scalar(rate).cast(updating.graph().find("graft.lr")->dtype));
  step.run();
  double sum = step.scalar("graft.loss_sum");
  double weight = step.scalar("graft.weight_sum");
  if (!std::isfinite(sum)) return false;
  progress_.loss_sum += sum;
  progress_.loss_weight += weight;
  progress_.position = batch.position;
  ++progress_.batch;
  count_accuracy(step, targets);
  TrainingStep info{progress_.epoch + 1, progress_.batch, 0, batch.count, weight > 0 ? sum / weight : 0, rate, {}};
  if (!programs.apply || ++pending_ == options_.accumulate) {
    if (programs.apply) apply();
    else ++progress_.step;
    if (options_.training.clip_norm > 0) info.gradient_norm = updating.scalar("graft.gradient_norm");
  }
  info.step = progress_.step;
  epoch_.rate = rate;
  epoch_.samples += batch.count;
  if (callbacks_.on_step) callbacks_.on_step(info);
  return true;
}

void Trainer::apply() {
  programs_.apply->run();
  pending_ = 0;
  ++progress_.step;
}

void Trainer::count_accuracy(const Program& step, const Tensor& targets) {
  constexpr int64_t largest = 1 << 20;  // predictions of every pixel would cost more than they tell
  if (options_.training.loss.type != LossType::cross_entropy || targets.dtype() != DType::i64) return;
  Tensor prediction = step.output("graft.prediction");
  if (prediction.dims().size() < 2 || prediction.count() > largest) return;
  RightCount count = count_right(prediction, targets, options_.training.loss.ignore_index);
  progress_.right += count.right;
  progress_.counted += count.counted;
}

void Trainer::checkpoint() {
  checkpoint_time_ = seconds_now();
  if (callbacks_.on_checkpoint) callbacks_.on_checkpoint(progress_, session_.store());
}

// False when the run ends here.
bool Trainer::train_epoch(TrainingResult& result) {
  epoch_ = {};
  epoch_.epoch = progress_.epoch + 1;
  double begin = seconds_now();
  if (callbacks_.on_epoch_begin) callbacks_.on_epoch_begin(epoch_.epoch, loader_.batches() - progress_.batch);
  loader_.start_epoch(progress_.epoch, progress_.position);
  Batch batch;
  while (!done() && loader_.next(batch)) {
    if (!train_batch(batch)) {
      result.reason = StopReason::diverged;
      return false;
    }
    if (pending_ > 0) continue;
    if (callbacks_.interrupted && callbacks_.interrupted()) {
      result.reason = StopReason::interrupted;
      checkpoint();
      return false;
    }
    if (seconds_now() - checkpoint_time_ > options_.checkpoint_seconds) checkpoint();
  }
  if (pending_ > 0) apply();  // the last window of an epoch may be short
  epoch_.train_seconds = seconds_now() - begin;
  bool goes_on = end_epoch(begin);
  if (!goes_on) result.reason = StopReason::early;
  return goes_on;
}

// False when early stopping ends the run.
bool Trainer::end_epoch(double begin) {
  epoch_.step = progress_.step;
  epoch_.loss = progress_.loss_weight > 0 ? progress_.loss_sum / progress_.loss_weight : 0;
  epoch_.accuracy = static_cast<double>(progress_.right) / static_cast<double>(progress_.counted);  // NaN for none
  epoch_.skipped = loader_.skipped();
  epoch_.skip_reasons = loader_.skip_reasons();
  if (validation_) {
    if (callbacks_.on_validation_begin) callbacks_.on_validation_begin(validation_loader_->batches());
    EvaluationOptions evaluation{options_.training.loss, options_.training.output, {}};
    evaluation.on_batch = [&](const Batch& batch, const Tensor&, const Tensor&, double loss) {
      if (callbacks_.on_validation_batch) callbacks_.on_validation_batch(batch, loss);
    };
    programs_ = {};  // evaluation compiles Programs of its own
    epoch_.validation = evaluate(session_, *validation_, *validation_loader_, evaluation);
    epoch_.best = stopping_.update(epoch_.validation->value(options_.monitor));
  }
  progress_ = {.epoch = progress_.epoch + 1,
               .step = progress_.step,
               .best = stopping_.best(),
               .best_update = stopping_.best_update(),
               .updates = stopping_.updates()};
  if ((epoch_.best || !validation_) && callbacks_.on_best) callbacks_.on_best();
  epoch_.seconds = seconds_now() - begin;
  // Before the checkpoint: a run that is killed between the two does the epoch once more, and tells of it again.
  if (callbacks_.on_epoch) callbacks_.on_epoch(epoch_);
  checkpoint();
  return !(validation_ && stopping_.should_stop());
}

TrainingResult Trainer::run() {
  TrainingResult result;
  checkpoint_time_ = seconds_now();
  if (total_steps_ == 0) {
    if (callbacks_.on_best) callbacks_.on_best();
    checkpoint();
  }
  while (!done() && train_epoch(result)) continue;
  bool whole = result.reason == StopReason::finished || result.reason == StopReason::early;
  // A monitored value that never was a number leaves the last states as the best.
  if (whole && validation_ && progress_.epoch > 0 && stopping_.best_update() < 0 && callbacks_.on_best) {
    callbacks_.on_best();
  }
  result.steps = progress_.step;
  result.best_epoch = stopping_.best_update() + 1;
  result.best = stopping_.best();
  return result;
}

}  // namespace graft
