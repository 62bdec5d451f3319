#include "runtime/estimate.h"

#include "runtime/device/device.h"

namespace graft {
namespace {

class Choices {
 public:
  Choices(Session& session, const std::map<std::string, Dims>& dims, const TrainingOptions& asked,
          const MachineLimits& machine, const std::function<void()>& on_choice)
      : session_(session), dims_(dims), asked_(asked), machine_(machine), on_choice_(on_choice) {}

  std::vector<Choice> find() {
    add("as asked", [](TrainingOptions&) {});
    std::vector<std::string> all = session_.parameters();
    if (asked_.trainable.size() < all.size())
      add("all parameters", [&](TrainingOptions& options) { options.trainable = all; });
    DType other = asked_.dtype == DType::bf16 ? DType::f32 : DType::bf16;
    add(other == DType::bf16 ? "--dtype bf16" : "--dtype f32",
        [&](TrainingOptions& options) { options.dtype = other; });
    if (other == DType::bf16 && !has_bfloat16())
      choices_.back().note = "slower than float32 here: this CPU has no instructions for bfloat16";
    for (auto [how, name] : {std::pair(Recompute::none, "--recompute none"),
                             {Recompute::automatic, "--recompute auto"},
                             {Recompute::all, "--recompute all"}}) {
      if (how != asked_.memory.recompute)
        add(name, [&, how = how](TrainingOptions& options) { options.memory.recompute = how; });
    }
    if (asked_.dtype == DType::f32 && asked_.saved == DType::f32)
      add("--saved-activations bf16", [](TrainingOptions& options) { options.saved = DType::bf16; });
    if (asked_.memory.optimiser != OptimiserState::disk) add_disk();
    add_features();
    return std::move(choices_);
  }

 private:
  template <class Estimate>
  void attempt(const std::string& name, const Estimate& estimate) {
    if (on_choice_) on_choice_();
    Choice& choice = choices_.emplace_back();
    choice.name = name;
    try {
      estimate(choice);
    } catch (const Error& error) {
      choice.error = error.what();
    }
  }

  template <class Change>
  void add(const std::string& name, const Change& change) {
    TrainingOptions options = asked_;
    change(options);
    attempt(name, [&](Choice& choice) { choice.step = estimate_step(session_, dims_, options, machine_); });
  }

  void add_disk() {
    add("--optimizer-state disk", [](TrainingOptions& options) { options.memory.optimiser = OptimiserState::disk; });
    Choice& choice = choices_.back();
    if (choice.error.empty())
      choice.note = cat(choice.step.cost.disk_bytes, " bytes on the disk, read and written in every step");
  }

  void add_features() {
    attempt("--cache-features memory", [&](Choice& choice) {
      const FrozenPart& frozen = session_.split(dims_, asked_);
      std::map<std::string, Dims> features;
      for (const auto& feature : frozen.features) features[feature.name] = feature.dims;
      const int64_t batch = dims_.begin()->second.at(0);
      choice.step = estimate_step(session_, with_batch(features, batch), asked_, machine_);
      choice.feature_bytes = frozen.bytes();
    });
  }

  Session& session_;
  const std::map<std::string, Dims>& dims_;
  const TrainingOptions& asked_;
  const MachineLimits& machine_;
  const std::function<void()>& on_choice_;
  std::vector<Choice> choices_;
};

}  // namespace

StepEstimate estimate_step(Session& session, const std::map<std::string, Dims>& dims, const TrainingOptions& options,
                           const MachineLimits& machine) {
  PlannedStep step = session.plan_training(dims, options);
  return {step.cost, roofline(*step.graph, machine).seconds};
}

std::vector<Choice> estimate_choices(Session& session, const std::map<std::string, Dims>& dims,
                                     const TrainingOptions& asked, const MachineLimits& machine,
                                     const std::function<void()>& on_choice) {
  return Choices(session, dims, asked, machine, on_choice).find();
}

}  // namespace graft
