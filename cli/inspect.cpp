// graft inspect: what a model is made of, what in it can be trained, and what a training step takes.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <set>

#include "cli/bench.h"
#include "cli/train_config.h"
#include "cli/verbs.h"
#include "runtime/clock.h"
#include "runtime/estimate.h"
#include "runtime/model_session.h"

namespace graft {
namespace {

constexpr const char* examples = R"(Examples:
  graft inspect model.onnx
  graft inspect model.onnx --train 'head.*' --batch 16 --dim sequence=128      # what other choices would save
  graft inspect model.onnx --after differentiate --batch 2

The first axis of the inputs is the batch where it is free. Other free dimensions without --dim are taken as 64.
A training step is one with AdamW on the first output: cross-entropy, or MSE where that has one dimension only. Its
memory is the peak of the plan; FLOPs count two for each multiply-add of convolutions and products, forward and
backward, and one for each element elsewhere.

A given --batch also has a table of what saves work or memory: the step as asked, then each of --dtype, --recompute,
graft train's --optimizer-state and --cache-features (a step of the second epoch and later) changed alone, and all
parameters where some are frozen. Nothing runs but a measurement of the machine. "limit ms" is the sum over the kernels of what their FLOPs and their bytes take at
the rates that were measured: a lower bound. On most networks steps reach 25 to 90 % of it in float32 and 15 to 75 % in
bfloat16 (docs/benchmarks.md); graft bench step tells how much one of yours reaches.

PASS: lift, classify, specialise, decompose, recognise, differentiate, fuse, mix_precision,
lay_out.

Keys of --json: model, ir_version, opsets, producer, graph, metadata, operators, functions, inputs and outputs (name,
dtype, dims: numbers, names or null), free_dims (name, of), parameters (name, dtype, dims, count, kind, trainable,
selected), totals (tensors, tensor_bytes, parameters, trainable, selected: elements), blockers (operator, node,
reason), without_gradient, assumed_dims, training_steps (batch, planned_peak_bytes, flops; or error). For a given --batch
also machine (as graft bench step has it), and in training_steps smallest_peak_bytes and smallest_flops, those of
--recompute all, and choices (choice, limit_ms, samples_per_s at that limit, planned_peak_bytes, flops, relative_time and
relative_memory to the first, where they apply feature_bytes of a sample and note; or error).)";

struct InspectOptions {
  std::string model, after, mode = "train", dtype = "f32", recompute = "auto";
  std::vector<std::string> train, freeze, dims, disable;
  std::vector<int64_t> batches;
  bool json = false;
};

// A dimension as JSON has it: its size, its name, or null.
Json dims_of(const Value& value) {
  if (!value.ranked) return nullptr;
  Json dims = Json::array();
  for (size_t i = 0; i < value.dims.size(); ++i) {
    bool named = i < value.dim_names.size() && !value.dim_names[i].empty();
    if (value.dims[i] >= 0) dims.push_back(value.dims[i]);
    else if (named) dims.push_back(value.dim_names[i]);
    else dims.push_back(nullptr);
  }
  return dims;
}

Json describe(const Value& value) {
  return {{"name", value.name}, {"dtype", name_of(value.dtype)}, {"dims", dims_of(value)}};
}

Json describe(const ModelSummary& summary) {
  Json opsets = Json::object();
  for (const auto& [domain, version] : summary.opsets) opsets[domain.empty() ? "ai.onnx" : domain] = version;
  return {
      {"ir_version", summary.ir_version},
      {"opsets", opsets},
      {"producer", summary.producer_name + (summary.producer_version.empty() ? "" : " " + summary.producer_version)},
      {"graph", summary.graph_name},
      {"metadata", summary.metadata},
      {"operators", summary.operators},
      {"functions", summary.functions}};
}

Json describe(const std::vector<Blocker>& blockers) {
  Json list = Json::array();
  for (const auto& [type, name, reason] : blockers)
    list.push_back({{"operator", type}, {"node", name}, {"reason", reason}});
  return list;
}

// What a Session knows of a model beyond its file.
class SessionReport {
 public:
  SessionReport(Session& session, const InspectOptions& options)
      : session_(session), options_(options), selected_(session.match(options.train, options.freeze)) {
    bind_free_dims();
    training_.trainable = selected_;
    if (options.dtype == "bf16") training_.dtype = DType::bf16;
    training_.memory.recompute = parse_recompute(options.recompute);
    training_.loss.type = usual_loss(session.graph());
  }

  std::string text_after(const std::string& pass) {
    return session_.text_after(pass, input_dims(batches_.at(0)), options_.mode == "train" ? &training_ : nullptr);
  }

  void add_to(Json& report, int64_t tensors, int64_t tensor_bytes) {
    for (const auto& [key, values] :
         {std::pair("inputs", &session_.graph().inputs), {"outputs", &session_.graph().outputs}}) {
      report[key] = Json::array();
      for (const Value* value : *values) report[key].push_back(describe(*value));
    }
    add_free_dims(report);
    report["totals"] = {{"tensors", tensors}, {"tensor_bytes", tensor_bytes}};
    add_parameters(report);
    Trainability trainability = check_training();
    report["blockers"] = describe(trainability.blockers);
    report["without_gradient"] = trainability.without_gradient;
    report["assumed_dims"] = assumed_;
    report["training_steps"] = Json::array();
    bool compare = !options_.batches.empty() && trainability.blockers.empty();
    if (compare) {
      machine_ = measure();
      report["machine"] = describe(machine_);
    }
    for (int64_t batch : batches_) report["training_steps"].push_back(compare ? choices(batch) : cost_of_step(batch));
  }

 private:
  // Free dims are the batch, given, or assumed.
  void bind_free_dims() {
    constexpr int64_t assumption = 64;
    sizes_ = parse_dims(options_.dims);
    batch_names_ = batch_names(session_.graph(), sizes_);
    for (const FreeDim& free : free_dims(session_.graph())) {
      if (!sizes_.count(free.name) && !batch_names_.count(free.name)) assumed_[free.name] = assumption;
    }
    batches_ = options_.batches.empty() ? std::vector<int64_t>{1, 8, 32} : options_.batches;
    if (!batch_names_.empty()) return;
    if (!options_.batches.empty()) throw UsageError("--batch: the first axis of the model's inputs is not free");
    batches_ = {fixed_batch()};
  }

  // Of a model whose batch the file or --dim settles.
  int64_t fixed_batch() const {
    for (const FreeDim& free : free_dims(session_.graph())) {
      if (free.axis == 0) return sizes_.at(free.name);
    }
    for (const Value* input : session_.graph().inputs) {
      if (!input->dims.empty()) return input->dims[0];
    }
    return 1;
  }

  std::map<std::string, Dims> input_dims(int64_t batch) const {
    auto sizes = sizes_;
    for (const auto& [name, size] : assumed_) sizes[name] = size;
    for (const auto& name : batch_names_) sizes[name] = batch;
    return bind_dims(session_.graph(), sizes);
  }

  void add_free_dims(Json& report) const {
    std::map<std::string, Json> places;
    for (const FreeDim& free : free_dims(session_.graph()))
      places[free.name].push_back(cat(free.input->name, '.', free.axis));
    report["free_dims"] = Json::array();
    for (const auto& [name, of] : places) report["free_dims"].push_back({{"name", name}, {"of", of}});
  }

  void add_parameters(Json& report) const {
    std::vector<std::string> names = session_.parameters();
    std::set<std::string> trainable(names.begin(), names.end()), chosen(selected_.begin(), selected_.end());
    int64_t all = 0, can = 0, will = 0;
    report["parameters"] = Json::array();
    for (const auto& state : session_.graph().states) {
      Json entry = describe(*state.in);
      bool parameter = state.in->kind == StateKind::parameter;
      bool can_train = trainable.count(state.in->name), selected = chosen.count(state.in->name);
      int64_t count = state.in->count();
      entry["count"] = count;
      entry["kind"] = parameter ? "parameter" : "statistic";
      entry["trainable"] = can_train;
      entry["selected"] = selected;
      report["parameters"].push_back(entry);
      all += parameter ? count : 0;
      can += can_train ? count : 0;
      will += selected ? count : 0;
    }
    report["totals"]["parameters"] = all;
    report["totals"]["trainable"] = can;
    report["totals"]["selected"] = will;
  }

  Trainability check_training() const {
    if (selected_.empty()) return {{{"", "", "the model has no parameters to train"}}, {}};
    try {
      return session_.trainability(input_dims(batches_.at(0)), training_);
    } catch (const Error& error) {
      return {{{"", "", error.what()}}, {}};
    }
  }

  Json cost_of_step(int64_t batch) const {
    try {
      StepCost cost = session_.training_cost(input_dims(batch), training_);
      return {{"batch", batch}, {"planned_peak_bytes", cost.peak_bytes}, {"flops", cost.flops}};
    } catch (const Error& error) {
      return {{"batch", batch}, {"error", error.what()}};
    }
  }

  // With what each choice would take, for a batch that was asked for: that takes its time.
  Json choices(int64_t batch) {
    const std::vector<Choice> found =
        estimate_choices(session_, input_dims(batch), training_, machine_.limits, [this] { say_that_it_lasts(); });
    const Choice& asked = found.at(0);
    Json step{{"batch", batch}};
    if (!asked.error.empty()) step["error"] = asked.error;
    else step.update({{"planned_peak_bytes", asked.step.cost.peak_bytes}, {"flops", asked.step.cost.flops}});
    step["choices"] = Json::array();
    for (const Choice& choice : found) {
      step["choices"].push_back(row_of(choice, asked, batch));
      bool smallest =
          choice.name == "--recompute all" || (&choice == &asked && training_.memory.recompute == Recompute::all);
      if (!smallest || !choice.error.empty()) continue;
      step["smallest_peak_bytes"] = choice.step.cost.peak_bytes;
      step["smallest_flops"] = choice.step.cost.flops;
    }
    return step;
  }

  static Json row_of(const Choice& choice, const Choice& asked, int64_t batch) {
    if (!choice.error.empty()) return {{"choice", choice.name}, {"error", choice.error}};
    const StepEstimate& step = choice.step;
    Json json{{"choice", choice.name},
              {"limit_ms", 1e3 * step.limit_seconds},
              {"samples_per_s", static_cast<double>(batch) / step.limit_seconds},
              {"planned_peak_bytes", step.cost.peak_bytes},
              {"flops", step.cost.flops}};
    if (asked.error.empty()) {
      auto peak = [](const Choice& of) { return static_cast<double>(of.step.cost.peak_bytes); };
      json["relative_time"] = step.limit_seconds / asked.step.limit_seconds;
      json["relative_memory"] = peak(choice) / peak(asked);
    }
    if (choice.feature_bytes > 0) json["feature_bytes"] = choice.feature_bytes;
    if (!choice.note.empty()) json["note"] = choice.note;
    return json;
  }

  void say_that_it_lasts() {
    constexpr double patience = 1;
    if (said_ || seconds_now() - begin_ < patience) return;
    said_ = true;
    spdlog::info("planning steps for each choice, which takes some seconds on large models");
  }

  Session& session_;
  const InspectOptions& options_;
  std::vector<std::string> selected_;
  TrainingOptions training_;
  std::map<std::string, int64_t> sizes_, assumed_;
  std::set<std::string> batch_names_;
  std::vector<int64_t> batches_;
  Machine machine_;
  double begin_ = seconds_now();
  bool said_ = false;
};

std::string type_text(const Json& value) {
  std::string dims;
  for (const Json& dim : value["dims"])
    dims += (dims.empty() ? "" : ",") + (dim.is_null() ? "?" : dim.is_string() ? dim.get<std::string>() : dim.dump());
  return value["dtype"].get<std::string>() + '[' + (value["dims"].is_null() ? "..." : dims) + ']';
}

void write_file_text(fmt::memory_buffer& out, const Json& report) {
  auto at = fmt::appender(out);
  fmt::format_to(at, "{}\n  IR {}", report["model"].get<std::string>(), report["ir_version"].get<int64_t>());
  for (const auto& [domain, version] : report["opsets"].items())
    fmt::format_to(at, ", {} opset {}", domain, version.get<int64_t>());
  std::string producer = report["producer"].get<std::string>();
  if (!producer.empty()) fmt::format_to(at, ", by {}", producer);
  fmt::format_to(at, "\noperators\n");
  for (const auto& [type, count] : report["operators"].items())
    fmt::format_to(at, "  {:6} {}\n", count.get<int64_t>(), type);
}

void write_parameters_text(fmt::memory_buffer& out, const Json& report) {
  auto at = fmt::appender(out);
  const Json& totals = report["totals"];
  fmt::format_to(at, "parameters: {} elements, {} can be trained, {} selected; {} tensors in {} bytes\n",
                 totals["parameters"].get<int64_t>(), totals["trainable"].get<int64_t>(),
                 totals["selected"].get<int64_t>(), totals["tensors"].get<int64_t>(),
                 totals["tensor_bytes"].get<int64_t>());
  for (const Json& entry : report["parameters"]) {
    const char* use = entry["selected"].get<bool>()                     ? "trained"
                      : entry["kind"].get<std::string>() == "statistic" ? "statistic"
                      : entry["trainable"].get<bool>()                  ? "frozen"
                                                                        : "cannot be trained";
    fmt::format_to(at, "  {:10} {:24} {}\n", use, type_text(entry), entry["name"].get<std::string>());
  }
}

std::string cost_text(const Json& step) {
  return fmt::format("{:>10}B  {:>10}FLOP a step",
                     scaled(step["planned_peak_bytes"].get<double>(), 1024, {"", "Ki", "Mi", "Gi", "Ti"}),
                     scaled(step["flops"].get<double>(), 1000, {"", "k", "M", "G", "T", "P"}));
}

// "1.25x" where there is something to compare with.
std::string ratio_text(const Json& choice, const char* key) {
  return choice.contains(key) ? fmt::format("{:.2f}x", choice[key].get<double>()) : "";
}

void write_choices_text(fmt::memory_buffer& out, const Json& choices) {
  auto at = fmt::appender(out);
  constexpr double mb = 1 << 20, giga = 1e9;
  fmt::format_to(at, "    {:24} {:>10} {:>11} {:>9} {:>9} {:>7} {:>7}\n", "", "limit ms", "samples/s", "peak MB",
                 "GFLOP", "time", "memory");
  for (const Json& choice : choices) {
    fmt::format_to(at, "    {:24} ", choice["choice"].get<std::string>());
    if (choice.contains("error")) {
      fmt::format_to(at, "-  {}\n", choice["error"].get<std::string>());
      continue;
    }
    fmt::format_to(at, "{:10.3f} {:11.1f} {:9.1f} {:9.3f} {:>7} {:>7}", choice["limit_ms"].get<double>(),
                   choice["samples_per_s"].get<double>(), choice["planned_peak_bytes"].get<double>() / mb,
                   choice["flops"].get<double>() / giga, ratio_text(choice, "relative_time"),
                   ratio_text(choice, "relative_memory"));
    if (choice.contains("feature_bytes"))
      fmt::format_to(at, "  from epoch 2 on; keeps {} bytes a sample", choice["feature_bytes"].get<int64_t>());
    if (choice.contains("note")) fmt::format_to(at, "  {}", choice["note"].get<std::string>());
    fmt::format_to(at, "\n");
  }
}

void write_training_text(fmt::memory_buffer& out, const Json& report) {
  auto at = fmt::appender(out);
  const Json& blockers = report["blockers"];
  fmt::format_to(at, "training: {}\n", blockers.empty() ? "nothing blocks it" : "blocked");
  for (const Json& blocker : blockers) {
    std::string type = blocker["operator"].get<std::string>();
    if (!type.empty()) fmt::format_to(at, "  [{} \"{}\"]", type, blocker["node"].get<std::string>());
    fmt::format_to(at, "{} {}\n", type.empty() ? " " : "", blocker["reason"].get<std::string>());
  }
  for (const Json& name : report["without_gradient"])
    fmt::format_to(at, "  the first output does not depend on \"{}\"\n", name.get<std::string>());
  for (const auto& [name, size] : report["assumed_dims"].items())
    fmt::format_to(at, "  {} is taken as {}, change it with --dim\n", name, size.get<int64_t>());
  for (const Json& step : report["training_steps"]) {
    fmt::format_to(at, "  batch {:<5} ", step["batch"].get<int64_t>());
    if (step.contains("error")) fmt::format_to(at, "{}\n", blockers.empty() ? step["error"].get<std::string>() : "-");
    else fmt::format_to(at, "{}\n", cost_text(step));
    if (step.contains("choices")) write_choices_text(out, step["choices"]);
  }
  if (report.contains("machine"))
    fmt::format_to(
        at,
        "  \"limit\" is a lower bound by what this machine can do at most: on most networks steps reach 25 to "
        "90 % of it in\n  float32 and 15 to 75 % in bfloat16, see docs/benchmarks.md; graft bench step "
        "measures\n");
}

std::string to_text(const Json& report) {
  fmt::memory_buffer out;
  write_file_text(out, report);
  for (const char* key : {"inputs", "outputs"}) {
    if (!report.contains(key)) continue;
    fmt::format_to(fmt::appender(out), "{}\n", key);
    for (const Json& value : report[key])
      fmt::format_to(fmt::appender(out), "  {:24} {}\n", type_text(value), value["name"].get<std::string>());
  }
  if (report.contains("parameters")) write_parameters_text(out, report);
  write_training_text(out, report);
  return fmt::to_string(out);
}

void inspect(const InspectOptions& options) {
  OnnxModel file = OnnxModel::load(options.model);
  ModelSummary summary = file.summary();
  Json report = {{"model", options.model}};
  report.update(describe(summary));
  std::optional<ModelSession> model;
  try {
    SessionOptions session{.disabled = {options.disable.begin(), options.disable.end()}};
    model.emplace(std::move(file), session);
  } catch (const UnsupportedError& error) {
    if (!options.after.empty()) throw;
    bool listed = !error.blockers().empty();
    report["blockers"] = describe(listed ? error.blockers() : std::vector<Blocker>{{"", "", error.what()}});
    for (const char* key : {"without_gradient", "assumed_dims", "training_steps"}) report[key] = Json::array();
  }
  if (model) {
    SessionReport session(model->session(), options);
    if (!options.after.empty()) return print_result(session.text_after(options.after));
    session.add_to(report, summary.tensor_count, summary.tensor_bytes);
  }
  if (options.json) print_json(report);
  else print_result(to_text(report));
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App& verb = *app.add_subcommand("inspect", "Show what a model is made of and whether it can be trained");
  add_model(verb, options->model);
  verb.add_option("--after", options->after, "Print the graph after this pass, in ONNX text, and nothing else")
      ->option_text("PASS");
  verb.add_option("--mode", options->mode, "Which graph --after prints: that of training (the default) or of inference")
      ->option_text("infer|train");
  verb.add_option("--dtype", options->dtype, "Precision of the training step (default f32)")->option_text("f32|bf16");
  verb.add_option("--recompute", options->recompute, "What backward reads is computed again (default auto; see train)")
      ->option_text("none|auto|all");
  add_list(verb, "--train", options->train, "Parameters to train; all unless given")->option_text("GLOB ...");
  add_list(verb, "--freeze", options->freeze, "Parameters to leave as they are")->option_text("GLOB ...");
  add_dims(verb, options->dims);
  add_disable(verb, options->disable);
  verb.add_option("--batch", options->batches,
                  "Batch size to plan a training step for (default 1, 8 and 32), with what other choices would save")
      ->allow_extra_args(false)
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32))
      ->option_text("N ...");
  add_threads(verb);
  add_json(verb, options->json);
  verb.footer(examples);
  verb.callback([options] {
    require_choice("--mode", options->mode, {"infer", "train"});
    require_choice("--dtype", options->dtype, {"f32", "bf16"});
    require_choice("--recompute", options->recompute, {"none", "auto", "all"});
    inspect(*options);
  });
}

}  // namespace graft
