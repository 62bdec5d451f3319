// graft bench: how fast operators and training steps are, as a share of what the machine can do.
#include "cli/bench.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "cli/verbs.h"
#include "runtime/device/cpu/system.h"

namespace graft {
namespace {

constexpr const char* examples = R"(Examples:
  graft bench ops --filter 'Conv*' --backward
  graft bench step model.onnx --batch 8 --dim sequence=128

Both measure the machine first: multiply-adds in registers, and the triad a = b + s*c through memory and through the
last-level cache, with the threads in use. See graft bench ops --help and graft bench step --help.)";

double giga(double value) { return value / 1e9; }

}  // namespace

void add_batch(CLI::App& verb, std::optional<int64_t>& batch) {
  verb.add_option("--batch", batch, "Size of the batch, the free first axis of the model's inputs")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32))
      ->option_text("N");
}

void add_seconds(CLI::App& verb, double& seconds, const std::string& description) {
  constexpr double most = 3600;
  verb.add_option("--seconds", seconds, fmt::format("{} (default {:g})", description, seconds))
      ->check(CLI::Range(0.0, most))
      ->option_text("S");
}

Machine measure() {
  constexpr double busy = 0.5;  // processes a core beside this one
  Machine machine;
  machine.load = load_average();
  int cores = core_count();
  if (machine.load && *machine.load > busy * cores)
    spdlog::warn("the machine is loaded: load average {:.2f} on {} cores; times and limits are not to be trusted",
                 *machine.load, cores);
  machine.limits = measure_machine();
  return machine;
}

std::map<std::string, Dims> input_dims(const Graph& graph, const std::optional<int64_t>& batch,
                                       const std::map<std::string, int64_t>& sizes) {
  std::map<std::string, int64_t> all = sizes;
  std::set<std::string> batches = batch_names(graph, sizes);
  if (batch) {
    for (const auto& name : batches) all[name] = *batch;
    if (batches.empty()) throw UsageError("--batch: the first axis of the model's inputs is not free");
  }
  auto dims = bind_dims(graph, all);
  std::set<std::string> missing;
  for (const FreeDim& free : free_dims(graph)) {
    if (!all.count(free.name)) missing.insert(free.name);
  }
  std::string text;
  for (const auto& name : missing)
    text += cat(text.empty() ? "" : ", ", '"', name, "\" (", batches.count(name) ? "--batch N" : "--dim " + name + "=N",
                ')');
  if (!missing.empty()) throw UsageError("free dimensions of the model's inputs want a size: ", text);
  for (const Value* input : graph.inputs) {
    if (!input->ranked) throw UsageError("input \"", input->name, "\" has no declared shape: it cannot be benchmarked");
  }
  return dims;
}

LossType usual_loss(const Graph& graph) {
  bool one_dim = !graph.outputs.empty() && graph.outputs[0]->ranked && graph.outputs[0]->dims.size() < 2;
  return one_dim ? LossType::mse : LossType::cross_entropy;
}

void require_trainable(Session& session, const std::map<std::string, Dims>& dims, const TrainingOptions& training) {
  std::vector<Blocker> blockers = session.trainability(dims, training).blockers;
  if (!blockers.empty()) throw UnsupportedError::listing("cannot be trained", std::move(blockers));
}

std::string_view name_of(Direction direction) {
  return direction == Direction::forward ? "forward" : direction == Direction::backward ? "backward" : "optimiser";
}

Json describe(const Machine& machine) {
  const MachineLimits& limits = machine.limits;
  Json json{{"threads", limits.threads},
            {"gflops_f32", giga(limits.flops_f32)},
            {"gflops_f32_tiles", giga(limits.flops_tiles)},
            {"gflops_f64", giga(limits.flops_f64)},
            {"gflops_bf16", giga(limits.flops_bf16)},
            {"memory_gb_per_s", giga(limits.memory_bandwidth)},
            {"cache_gb_per_s", giga(limits.cache_bandwidth)},
            {"cache_bytes", limits.cache_bytes}};
  json["load"] = machine.load ? Json(*machine.load) : Json();
  return json;
}

std::string to_text(const Machine& machine) {
  const MachineLimits& limits = machine.limits;
  std::string load = machine.load ? fmt::format("; load {:.2f}", *machine.load) : "";
  std::string tiles = limits.flops_tiles > 0 ? fmt::format(" ({:.1f} on tiles)", giga(limits.flops_tiles)) : "";
  std::string low = has_bfloat16() ? fmt::format(", {:.1f} bfloat16", giga(limits.flops_bf16)) : "";
  return fmt::format(
      "machine  {} threads: {:.1f} GFLOP/s float32{}, {:.1f} float64{}; {:.1f} GB/s memory, {:.1f} GB/s cache of {} "
      "MiB{}\n",
      limits.threads, giga(limits.flops_f32), tiles, giga(limits.flops_f64), low, giga(limits.memory_bandwidth),
      giga(limits.cache_bandwidth), limits.cache_bytes >> 20, load);
}

std::string limit_text() {
  return "limit    sum over kernels of max(FLOPs / rate, bytes from memory / its GB/s, bytes from cache / its GB/s);\n"
         "         bytes that an LRU cache of that size still holds come from the cache, all others from memory\n";
}

Json describe(const Work& work) {
  double seconds = std::max(work.seconds, 1e-12);
  return {{"ms", work.seconds * 1e3},
          {"gflops", giga(work.flops / seconds)},
          {"gb_per_s", giga(static_cast<double>(work.bytes) / seconds)},
          {"limit_ms", work.limit_seconds * 1e3},
          {"share_of_limit", work.limit_seconds / seconds}};
}

std::string work_heads() {
  return fmt::format("{:>10} {:>9} {:>8} {:>10} {:>9}", "ms", "GFLOP/s", "GB/s", "limit ms", "of limit");
}

std::string to_text(const Work& work) {
  double seconds = std::max(work.seconds, 1e-12);
  constexpr double percent = 100;
  return fmt::format("{:10.4f} {:9.1f} {:8.1f} {:10.4f} {:7.1f} %", work.seconds * 1e3, giga(work.flops / seconds),
                     giga(static_cast<double>(work.bytes) / seconds), work.limit_seconds * 1e3,
                     percent * work.limit_seconds / seconds);
}

std::string short_label(const std::string& label) {
  constexpr size_t width = 24;
  return label.size() <= width ? label : label.substr(0, width - 3) + "...";
}

Json describe(const std::vector<OperatorTime>& operators) {
  Json list = Json::array();
  for (const OperatorTime& time : operators) {
    Json entry{{"operator", time.label}, {"direction", name_of(time.direction)}, {"nodes", time.nodes}};
    entry.update(describe(Work{time.seconds, time.limit_seconds, time.flops, time.bytes}));
    list.push_back(entry);
  }
  return list;
}

std::string to_text(const std::vector<OperatorTime>& operators) {
  double total = 0;
  for (const OperatorTime& time : operators) total += time.seconds;
  fmt::memory_buffer out;
  auto at = fmt::appender(out);
  fmt::format_to(at, "{:24} {:9} {:>5} {} {:>7}\n", "operator", "direction", "nodes", work_heads(), "of all");
  constexpr double percent = 100;
  for (const OperatorTime& time : operators) {
    fmt::format_to(at, "{:24} {:9} {:5} {} {:5.1f} %\n", short_label(time.label), name_of(time.direction), time.nodes,
                   to_text(Work{time.seconds, time.limit_seconds, time.flops, time.bytes}),
                   percent * time.seconds / std::max(total, 1e-12));
  }
  return fmt::to_string(out);
}

void add_bench(CLI::App& app) {
  CLI::App& verb = *app.add_subcommand("bench", "Time operators or a training step against the machine's limit");
  verb.require_subcommand(1);
  verb.footer(examples);
  add_bench_ops(verb);
  add_bench_step(verb);
}

}  // namespace graft
