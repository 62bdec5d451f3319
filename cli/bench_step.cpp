// graft bench step: a whole training step on synthetic inputs.
#include <fmt/format.h>

#include "cli/bench.h"
#include "cli/train_config.h"
#include "runtime/durable_file.h"
#include "runtime/model_session.h"

namespace graft {
namespace {

constexpr const char* examples = R"(Examples:
  graft bench step model.onnx --batch 8
  graft bench step encoder.onnx --batch 8 --dim sequence=128 --freeze '*embeddings*' --json
  graft bench step encoder.onnx --batch 8 --dim sequence=128 --shortest 16
  graft bench step model.onnx --batch 32 --optimizer sgd --seconds 10 --trace step.json
  graft bench step model.onnx --batch 8 --autotune
  graft bench step model.onnx --batch 8 --memory-limit 500M
  graft bench step model.onnx --batch 8 --optimizer-state disk    (below $TMPDIR, or /tmp)

A step is forward, loss, backward and optimiser on inputs of a fixed seed: floats from N(0, 1), integers within the tables
that they pick from, masks of ones, labels within the classes. Steps are timed as a training run takes them, then with a
clock around each kernel. With --shortest samples have from N to all tokens, evenly between, and padding behind them,
which masks of tokens hide. --trace writes one step for chrome://tracing or ui.perfetto.dev. --autotune times the kernels
that a product or convolution can take before the step is compiled, and keeps what it found in $XDG_CACHE_HOME/graft, or
~/.cache/graft.

Keys of --json: model, batch, dims, machine (threads, gflops_f32, gflops_f32_tiles, gflops_f64,
memory_gb_per_s, cache_gb_per_s, cache_bytes, load), min_ms, median_ms, steps, samples_per_s, gflops, gb_per_s, limit_ms, share_of_limit, peak_rss_mb (of
the process, from before compiling), resident_growth_mb (the same less what was resident before), planned_peak_mb,
planned_growth_mb (the same less the parameters, which were there before), optimizer_state_disk_mb (of it on the disk),
recomputed_values, unlimited_peak_mb (planned where nothing is computed again and all lies in memory), more_flops (for what is, as a share of the others), allocations and descriptors (made by the timed
steps), reorders, working_copies, kernels, compile_ms, operators (operator, direction, nodes, ms, gflops, gb_per_s,
limit_ms, share_of_limit).)";

struct StepOptions {
  std::string model, trace;
  std::vector<std::string> dims;
  std::optional<int64_t> batch, shortest;
  TimingOptions timing;
  bool json = false;
};

double mb(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// Samples of a step: the first axis of the model's first input.
int64_t samples_of(const Graph& graph, const std::map<std::string, Dims>& dims) {
  for (const Value* input : graph.inputs) {
    const Dims& shape = dims.at(input->name);
    if (!shape.empty()) return shape[0];
  }
  return 1;
}

// A line of events on one track, as Chrome's tracing and Perfetto read them.
std::string trace_text(const std::vector<TimelineEntry>& entries) {
  constexpr double micro = 1e-3;
  Json events = Json::array();
  for (const auto& [node, start, duration] : entries) {
    Json arguments{{"node", node->name}, {"of", node->provenance.source}};
    for (const auto* operands : {&node->inputs, &node->outputs}) {
      std::string shapes;
      for (const Value* value : *operands) {
        if (value) shapes += cat(shapes.empty() ? "" : " ", value->opaque ? "bytes" : cat(value->dtype, value->dims));
      }
      arguments[operands == &node->inputs ? "inputs" : "outputs"] = shapes;
    }
    events.push_back({{"name", operator_label(*node)},
                      {"cat", name_of(node->provenance.direction)},
                      {"ph", "X"},
                      {"pid", 1},
                      {"tid", 1},
                      {"ts", micro * static_cast<double>(start)},
                      {"dur", micro * static_cast<double>(duration)},
                      {"args", arguments}});
  }
  Json trace{{"displayTimeUnit", "ms"}, {"traceEvents", events}};
  return trace.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

class BenchStep {
 public:
  BenchStep(TrainConfig& config, const StepOptions& options) : config_(config), options_(options) {}

  void operator()() {
    config_.settings.apply_flags();
    config_.check_device();
    std::map<std::string, int64_t> sizes = parse_dims(options_.dims);
    ModelSession model = ModelSession::open(options_.model, config_.session_options(progress_));
    Session& session = model.session();
    TrainingOptions training = config_.trainer_options().training;
    training.trainable = session.match(config_.train, config_.freeze);
    if (training.trainable.empty()) throw UsageError("every parameter is frozen: nothing to train");
    dims_ = input_dims(session.graph(), options_.batch, sizes);
    samples_ = samples_of(session.graph(), dims_);
    std::optional<DurableFile> trace;  // what cannot be written is said before anything is timed
    if (!options_.trace.empty()) trace.emplace(options_.trace);
    Machine machine = measure();
    step_ = benchmark(session, training, machine.limits);
    mixed_ = session.mixed_nodes();
    narrowed_ = session.narrowed();
    recomputed_ = session.recomputed();
    on_disk_ = session.store().on_disk();
    warn_of_memory(on_disk_);
    if (trace) {
      trace->write(trace_text(record_step(*step_.program)));
      trace->commit();
    }
    if (options_.json) print_json(to_json(machine));
    else print_result(to_table(machine));
  }

 private:
  StepBenchmark benchmark(Session& session, const TrainingOptions& training, const MachineLimits& limits) {
    try {
      return benchmark_step(session, dims_, training, limits, options_.timing, options_.shortest);
    } catch (const UnsupportedError&) {
      require_trainable(session, dims_, training);
      throw;
    }
  }

  Work work() const {
    int64_t bytes = step_.roofline.memory_bytes + step_.roofline.cache_bytes;
    return {step_.times.min_seconds, step_.roofline.seconds, step_.roofline.flops, bytes};
  }

  double samples_per_second() const { return static_cast<double>(samples_) / step_.times.min_seconds; }
  int64_t growth() const { return std::max<int64_t>(step_.resident_peak_bytes - step_.resident_before_bytes, 0); }

  Json to_json(const Machine& machine) const {
    Json json{{"model", options_.model}, {"batch", samples_}, {"dims", Json::object()}, {"machine", describe(machine)}};
    for (const auto& [name, dims] : dims_) json["dims"][name] = dims;
    json["min_ms"] = step_.times.min_seconds * 1e3;
    json["median_ms"] = step_.times.median_seconds * 1e3;
    json["steps"] = step_.times.steps;
    json["samples_per_s"] = samples_per_second();
    Json rates = describe(work());
    rates.erase("ms");
    json.update(rates);
    json["peak_rss_mb"] = mb(step_.resident_peak_bytes);
    json["resident_growth_mb"] = mb(growth());
    json["planned_peak_mb"] = mb(step_.planned_bytes);
    json["planned_growth_mb"] = mb(step_.planned_new_bytes);
    json["optimizer_state_disk_mb"] = mb(on_disk_.bytes);
    json["recomputed_values"] = recomputed_.values;
    json["unlimited_peak_mb"] = mb(recomputed_.peak_before);
    json["more_flops"] = recomputed_.more_flops / std::max(recomputed_.flops, 1.0);
    json["allocations"] = step_.times.allocations;
    json["descriptors"] = step_.times.descriptors;
    json["reorders"] = step_.program->counters().reorders;
    json["working_copies"] = step_.program->counters().working_copies;
    json["kernels"] = step_.program->counters().kernels;
    json["compile_ms"] = step_.compile_seconds * 1e3;
    json["operators"] = describe(by_operator(step_.roofline, step_.times.node_seconds));
    return json;
  }

  std::string to_table(const Machine& machine) const {
    Json rates = describe(work());
    const Counters& counters = step_.program->counters();
    fmt::memory_buffer out;
    auto at = fmt::appender(out);
    constexpr double percent = 100;
    fmt::format_to(at, "{}{}", graft::to_text(machine), limit_text());
    fmt::format_to(at, "step     {:.3f} ms min, {:.3f} ms median of {}; {:.1f} samples/s at batch {}\n",
                   step_.times.min_seconds * 1e3, step_.times.median_seconds * 1e3, step_.times.steps,
                   samples_per_second(), samples_);
    fmt::format_to(at, "         {:.1f} GFLOP/s, {:.1f} GB/s; limit {:.3f} ms, {:.1f} % of it reached\n",
                   rates["gflops"].get<double>(), rates["gb_per_s"].get<double>(), rates["limit_ms"].get<double>(),
                   percent * rates["share_of_limit"].get<double>());
    fmt::format_to(at,
                   "memory   planned peak {:.1f} MB, {:.1f} of it beside the parameters; resident peak {:.1f} MB, "
                   "grown by {:.1f}\n",
                   mb(step_.planned_bytes), mb(step_.planned_new_bytes), mb(step_.resident_peak_bytes), mb(growth()));
    fmt::format_to(at,
                   "program  {} kernels, {} reorders of activations, {} working copies of weights, {} allocations and "
                   "{} descriptors in {} steps; compiled in {:.0f} ms\n\n",
                   counters.kernels, counters.reorders, counters.working_copies, step_.times.allocations,
                   step_.times.descriptors, step_.times.steps, step_.compile_seconds * 1e3);
    if (narrowed_.values > 0) fmt::format_to(at, "{}\n\n", graft::to_text(narrowed_));
    if (recomputed_.nodes > 0) fmt::format_to(at, "{}\n\n", graft::to_text(recomputed_));
    if (on_disk_.bytes > 0) fmt::format_to(at, "{}\n\n", graft::to_text(on_disk_));
    if (config_.dtype == "bf16") fmt::format_to(at, "{}\n\n", graft::to_text(mixed_));
    fmt::format_to(at, "{}", graft::to_text(by_operator(step_.roofline, step_.times.node_seconds)));
    return fmt::to_string(out);
  }

  TrainConfig& config_;
  const StepOptions& options_;
  std::map<std::string, Dims> dims_;
  int64_t samples_ = 0;
  StepBenchmark step_;
  MixedNodes mixed_;
  NarrowedValues narrowed_;
  Recomputed recomputed_;
  ParameterStore::OnDisk on_disk_;
  Progress progress_;
};

}  // namespace

void add_bench_step(CLI::App& bench) {
  auto config = std::make_shared<TrainConfig>();
  auto options = std::make_shared<StepOptions>();
  CLI::App& verb = *bench.add_subcommand("step", "Time a training step: forward, loss, backward, optimiser");
  add_model(verb, options->model);
  add_batch(verb, options->batch);
  add_dims(verb, options->dims);
  config->settings.attach(
      verb, {"output", "loss", "optimizer", "clip-norm", "freeze", "train", "batchnorm", "dtype", "device", "recompute",
             "saved-activations", "memory-limit", "optimizer-state", "autotune", "disable"});
  add_seconds(verb, options->timing.seconds, "Time for timed steps, about");
  verb.add_option("--rounds", options->timing.rounds, "Timed steps at least (default 5)")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}))
      ->option_text("N");
  verb.add_option("--shortest", options->shortest, "Tokens of the shortest sample (default: samples are full)")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}))
      ->option_text("N");
  verb.add_option("--trace", options->trace, "Where to write a trace of one step")->option_text("FILE");
  add_threads(verb);
  add_json(verb, options->json);
  verb.footer(examples);
  verb.callback([config, options] {
    BenchStep step(*config, *options);
    step();
  });
}

}  // namespace graft
