// graft train: fine-tunes a model on a data set.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <csignal>
#include <cstring>

#include "cli/command.h"
#include "cli/progress.h"
#include "cli/run_report.h"
#include "cli/verbs.h"
#include "importers/data/checkpoint_file.h"
#include "importers/data/open_dataset.h"
#include "importers/onnx/edit.h"
#include "runtime/device/cpu/system.h"
#include "runtime/durable_file.h"
#include "runtime/model_session.h"

namespace graft {
namespace {

constexpr const char* examples =
    "Examples:\n"
    "  graft train --model m.onnx --data photos/ --new-head 10 --out run\n"
    "  graft train --model m.onnx --data train.csv --val val.csv --loss mse --lr 1e-4 --out run\n"
    "  graft train --model m.onnx --data d.npz --train 'classifier.*' --epochs 10 --out run\n"
    "  graft train --config run/config.yaml --lr 1e-4 --out run2\n"
    "  graft train --model m.onnx --data photos/ --autotune --out run    (measures kernels once on this machine)\n"
    "  graft train --out run --resume\n"
    "Leaves in --out: model.onnx (best by validation), last.ckpt, config.yaml, metrics.csv, TensorBoard events and\n"
    "report.html.";

std::atomic<bool> interrupt_wanted{false};

// The first signal ends the run behind its batch, with a checkpoint; the second one at once.
void on_signal(int signal) {
  interrupt_wanted = true;
  std::signal(signal, SIG_DFL);
}

struct Switches {
  std::string config, log = "auto";
  bool resume = false, overwrite = false, json = false;
};

// A run that ended without the model it should give: exit code 1.
class RunError : public Error {
 public:
  using Error::Error;
};

class TrainRun {
 public:
  TrainRun(TrainConfig& config, const Switches& switches) : config_(config), switches_(switches) {}

  void operator()() {
    read_settings();
    Progress progress({.style = parse_log_style(switches_.log)});
    open_model(progress);
    open_data();
    cache_features(progress);
    Trainer trainer(model_->session(), *train_, split_.train, validation_source(), split_.validation, trainer_options(),
                    callbacks(progress));
    std::optional<int64_t> behind;
    if (saved_) {
      trainer.restore(saved_->checkpoint);
      behind = saved_->checkpoint.progress.epoch;
      saved_->checkpoint.states.clear();  // the store has them
    }
    resolved_ = config_.settings.to_yaml();
    describe(trainer, progress);
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    folder_->begin(loss_type(config_.loss), behind);
    write_durable_file(folder_->config().string(), resolved_);
    return_small_buffers();
    TrainingResult result = trainer.run();
    finish(result);
  }

 private:
  void read_settings() {
    Settings& settings = config_.settings;
    if (!switches_.config.empty()) settings.read_file(switches_.config);
    settings.apply_flags();
    if (config_.out.empty()) throw UsageError("--out is missing: the folder for the results");
    folder_.emplace(config_.out);
    bool there = std::filesystem::exists(folder_->checkpoint()) || std::filesystem::exists(folder_->model());
    if (switches_.resume && std::filesystem::exists(folder_->checkpoint())) {
      saved_ = read_checkpoint(folder_->checkpoint().string());
      // What the run was started with, and over it what is given now.
      settings.read_text(saved_->config, folder_->checkpoint().string());
      if (!switches_.config.empty()) settings.read_file(switches_.config);
      settings.apply_flags();
    } else if (switches_.resume) {
      spdlog::info("no checkpoint in \"{}\": a new run begins", config_.out);
    } else if (there && !switches_.overwrite) {
      throw UsageError("\"", config_.out, "\" has a run already: go on with --resume, replace it with --overwrite, or ",
                       "choose another --out");
    }
    if (config_.model.empty()) throw UsageError("--model is missing: the .onnx file to fine-tune");
    if (config_.data.empty()) throw UsageError("--data is missing: what to train on");
    config_.check_device();
  }

  void open_model(Progress& progress) {
    OnnxModel file = OnnxModel::load(config_.model);
    file.check(config_.save_options());
    auto seed = static_cast<uint64_t>(config_.seed);
    if (!config_.pool.empty()) {
      Pooling pooling = config_.pool == "cls" ? Pooling::cls : Pooling::mean;
      HeadEdit head = add_pooling_head(file, pooling, config_.new_head.value_or(0), seed, "", config_.output);
      trained_output_ = head.output;
    } else if (config_.new_head) {
      HeadEdit head = replace_head(file, *config_.new_head, seed, config_.output);
      spdlog::info("new head: \"{}\" with {} outputs in place of {}", head.node, head.classes, head.old_classes);
    }
    model_.emplace(std::move(file), config_.session_options(progress));
    trainable_ = model_->session().match(config_.train, config_.freeze);
    if (trainable_.empty()) throw UsageError("every parameter is frozen: nothing to train");
  }

  void open_data() {
    DatasetOptions options = config_.dataset_options(model_->session());
    train_ = open_dataset(config_.data, options);
    if (config_.classes.empty()) config_.classes = train_->class_names();
    if (!config_.val.empty()) {
      options.class_names = config_.classes;
      validation_ = open_dataset(config_.val, options);
      split_ = {all_indices(*train_), all_indices(*validation_)};
    } else if (config_.val_split != 0) {
      split_ = stratified_split(*train_, config_.val_split, static_cast<uint64_t>(config_.seed));
    } else {
      split_ = {all_indices(*train_), {}};
    }
  }

  // Features take the place of the data from here on.
  void cache_features(Progress& progress) {
    std::optional<FeatureCacheOptions> options = config_.cache_options();
    if (!options) return;
    int64_t batch = 0;
    options->on_begin = [&](const FrozenPart& frozen, int64_t samples, int64_t batches) {
      progress.note(to_text(frozen, samples, *options));
      progress.begin_pass("features", batches);
    };
    options->on_batch = [&](int64_t samples) { progress.step({++batch, samples, std::nullopt, std::nullopt}); };
    std::vector<FeatureSource> sources{{train_.get(), split_.train}};
    if (validation_) sources.push_back({validation_.get(), split_.validation});
    else sources[0].indices = all_indices(*train_);
    auto features = graft::cache_features(model_->session(), trainer_options().training, sources, *options);
    progress.end_pass();
    raw_.push_back(std::exchange(train_, std::move(features[0])));
    if (validation_) raw_.push_back(std::exchange(validation_, std::move(features[1])));
  }

  const Dataset* validation_source() const {
    if (validation_) return validation_.get();
    return split_.validation.empty() ? nullptr : train_.get();
  }

  TrainerOptions trainer_options() const {
    TrainerOptions options = config_.trainer_options();
    options.training.trainable = trainable_;
    if (!trained_output_.empty()) options.training.output = trained_output_;
    return options;
  }

  TrainerCallbacks callbacks(Progress& progress) {
    TrainerCallbacks callbacks;
    callbacks.on_compiled = [&](const TrainingPrograms& programs) {
      facts_.plan = programs.step->plan();
      constexpr double mb = 1 << 20;
      double peak = static_cast<double>(programs.step->plan().peak_bytes()) / mb;
      progress.note(
          fmt::format("step compiled: {} kernels, planned peak {:.1f} MB", programs.step->counters().kernels, peak));
      const Recomputed& recomputed = model_->session().recomputed();
      if (recomputed.nodes > 0 || !config_.recompute.empty() || !config_.memory_limit.empty())
        progress.note(to_text(recomputed));
      say_where(model_->session().store().on_disk(), progress);
      if (config_.saved_activations == "bf16") progress.note(to_text(model_->session().narrowed()));
      if (config_.dtype == "bf16") progress.note(to_text(model_->session().mixed_nodes()));
    };
    callbacks.on_epoch_begin = [&, epochs = epochs()](int64_t epoch, int64_t batches) {
      progress.begin_epoch(epoch, epochs, batches);
    };
    callbacks.on_step = [&](const TrainingStep& step) {
      progress.step({step.batch, step.samples, step.loss, step.rate});
      folder_->add(step);
    };
    callbacks.on_validation_begin = [&](int64_t batches) {
      progress.begin_pass("validation", batches);
      validated_ = 0;
    };
    callbacks.on_validation_batch = [&](const Batch& batch, double loss) {
      progress.step({++validated_, batch.count, loss, std::nullopt});
    };
    callbacks.on_epoch = [&](const TrainingEpoch& epoch) { end_epoch(progress, epoch); };
    callbacks.on_best = [&] { model_->save(folder_->model(), config_.save_options()); };
    callbacks.on_checkpoint = [&](const TrainingProgress& at, const ParameterStore& states) {
      write_checkpoint(folder_->checkpoint().string(), at, states, resolved_);
    };
    callbacks.interrupted = [] { return interrupt_wanted.load(); };
    return callbacks;
  }

  static void say_where(const ParameterStore::OnDisk& states, Progress& progress) {
    if (states.bytes == 0) return;
    progress.note(to_text(states));
    warn_of_memory(states);
  }

  int64_t epochs() const { return config_.trainer_options().epochs; }

  void end_epoch(Progress& progress, const TrainingEpoch& epoch) {
    if (epoch.validation) progress.end_pass();
    MetricValues shown{{"loss", epoch.loss}};
    if (!std::isnan(epoch.accuracy)) shown.emplace_back("accuracy", epoch.accuracy);
    if (epoch.validation) {
      shown.emplace_back("val_loss", epoch.validation->loss);
      for (const auto& [name, value] : epoch.validation->metrics) shown.emplace_back("val_" + name, value);
    }
    progress.end_epoch({epoch.seconds, epoch.samples, shown, epoch.best, epoch.train_seconds});
    facts_.skipped = epoch.skipped + (epoch.validation ? epoch.validation->skipped : 0);
    facts_.skip_reasons = epoch.skipped || !epoch.validation ? epoch.skip_reasons : epoch.validation->skip_reasons;
    if (facts_.skipped > 0)
      progress.note(fmt::format("{} samples skipped, the first: {}", facts_.skipped, facts_.skip_reasons.front()));
    if (epoch.best) facts_.best = epoch.validation;
    folder_->add(epoch);
    ++done_.epochs;
    done_.loss = epoch.loss;
    done_.seconds += epoch.seconds;
    done_.train_seconds += epoch.train_seconds;
    done_.samples += epoch.samples;
  }

  void describe(const Trainer& trainer, Progress& progress) const {
    int64_t numbers = 0;
    for (const auto& name : trainable_) numbers += element_count(model_->session().store().entry(name).dims);
    progress.note(fmt::format("training {} of {} parameters ({} numbers) on {} samples, validation on {}, {} updates",
                              trainable_.size(), model_->session().parameters().size(), numbers, split_.train.size(),
                              split_.validation.size(), trainer.total_steps()));
    if (trainer.buckets()) progress.note(to_text(*trainer.buckets()));
    if (saved_) {
      const auto& at = saved_->checkpoint.progress;
      progress.note(fmt::format("going on behind epoch {}, update {}", at.epoch, at.step));
    }
  }

  void write_report(const TrainingResult& result) {
    static constexpr const char* ends[] = {"finished", "stopped early", "interrupted",
                                           "ended by a loss that is no number"};
    facts_.model = &*model_;
    facts_.config = &config_;
    facts_.result = result;
    facts_.end = ends[static_cast<size_t>(result.reason)];
    facts_.class_names = config_.classes;
    facts_.train_samples = static_cast<int64_t>(split_.train.size());
    facts_.validation_samples = static_cast<int64_t>(split_.validation.size());
    write_durable_file(folder_->report().string(), render_report(make_report(*folder_, facts_)));
  }

  void finish(const TrainingResult& result) {
    write_report(result);
    if (result.reason == StopReason::diverged) {
      throw RunError(cat("the loss is no number any more behind update ", result.steps,
                         ": try a lower --lr, --warmup or --clip-norm; the last checkpoint is from before"));
    }
    if (result.reason == StopReason::interrupted) {
      throw RunError(
          cat("interrupted behind update ", result.steps, ": go on with graft train --out ", config_.out, " --resume"));
    }
    if (switches_.json) return print_json(summary(result));
    std::string text = "\"" + folder_->model().string() + "\": ";
    if (result.best_epoch > 0)
      text += fmt::format("epoch {}, {} {:.6g}", result.best_epoch, config_.monitor, result.best);
    else text += fmt::format("after {} updates", result.steps);
    print_result(text + '\n');
  }

  Json summary(const TrainingResult& result) const {
    Json json{{"model", folder_->model().string()}, {"steps", result.steps}, {"epochs", done_.epochs}};
    json["stopped_early"] = result.reason == StopReason::early;
    if (result.best_epoch > 0) {
      json["best_epoch"] = result.best_epoch;
      json["best_" + config_.monitor] = result.best;
    }
    if (done_.epochs == 0) return json;
    json["train_loss"] = done_.loss;
    json["seconds"] = done_.seconds;
    json["samples_per_second"] = static_cast<double>(done_.samples) / std::max(done_.train_seconds, 1e-9);
    return json;
  }

  TrainConfig& config_;
  const Switches& switches_;
  std::optional<RunFolder> folder_;
  std::optional<SavedRun> saved_;
  std::optional<ModelSession> model_;
  std::string trained_output_;  // of a head that was added
  std::vector<std::string> trainable_;
  std::vector<std::unique_ptr<Dataset>> raw_;  // what features were computed of
  std::unique_ptr<Dataset> train_, validation_;
  Split split_;
  std::string resolved_;
  struct {
    int64_t epochs = 0, samples = 0;
    double loss = 0;  // of the last one
    double seconds = 0, train_seconds = 0;
  } done_;          // in this process
  RunFacts facts_;  // for the report
  int64_t validated_ = 0;
};

}  // namespace

void add_train(CLI::App& app) {
  auto config = std::make_shared<TrainConfig>();
  auto switches = std::make_shared<Switches>();
  CLI::App& verb = *app.add_subcommand("train", "Fine-tune a model on a data set");
  config->settings.attach(verb);
  verb.add_option("--config", switches->config, "Settings as YAML; flags win")->option_text("FILE");
  verb.add_flag("--resume", switches->resume, "Go on from the checkpoint in --out");
  verb.add_flag("--overwrite", switches->overwrite, "Replace a run that --out has");
  add_log(verb, switches->log);
  add_threads(verb);
  add_json(verb, switches->json);
  verb.footer(examples);
  verb.callback([config, switches] {
    TrainRun run(*config, *switches);
    run();
  });
}

}  // namespace graft
