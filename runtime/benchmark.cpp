#include "runtime/benchmark.h"

#include <algorithm>
#include <limits>

#include "runtime/clock.h"
#include "runtime/device/cpu/system.h"
#include "runtime/synthetic_inputs.h"

namespace graft {
namespace {

constexpr double rate = 1e-4;

double run_timed(Program& program) {
  double start = seconds_now();
  program.run();
  return seconds_now() - start;
}

double median(std::vector<double> values) {
  auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Minima of each node over steps that take `budget` seconds, at least three.
std::vector<double> time_nodes(Program& program, double budget) {
  constexpr int least = 3;
  std::vector<const Node*> nodes = program.step_nodes();
  std::unordered_map<const Node*, double> fastest;
  for (const Node* node : nodes) fastest[node] = std::numeric_limits<double>::infinity();
  program.set_timing_hook([&](const Node& node, int64_t nanoseconds) {
    auto found = fastest.find(&node);  // the prologue's nodes are none of the step's
    if (found != fastest.end()) found->second = std::min(found->second, 1e-9 * static_cast<double>(nanoseconds));
  });
  double begin = seconds_now();
  for (int step = 0; step < least || seconds_now() - begin < budget; ++step) program.run();
  program.set_timing_hook({});
  std::vector<double> seconds;
  for (const Node* node : nodes) seconds.push_back(fastest.at(node));
  return seconds;
}

// The types in a region's body, in their order, each once; a product and what is behind it.
std::vector<std::string> types_inside(const Node& node) {
  std::vector<std::string> types;
  if (node.has("behind")) {
    types = {node.type, node.text("behind", "")};
    if (node.output(1)) types.emplace_back("ReduceSum");
    return types;
  }
  if (node.type != "Elementwise") return types;
  for (const auto& inner : std::get<std::shared_ptr<Graph>>(node.attributes.at("body"))->nodes()) {
    if (std::find(types.begin(), types.end(), inner->type) == types.end()) types.push_back(inner->type);
  }
  return types;
}

}  // namespace

std::string operator_label(const Node& node) {
  std::string label;
  for (const std::string& type : types_inside(node)) label += (label.empty() ? "" : "+") + type;
  return label.empty() ? node.type : label;
}

std::vector<std::string> filter_names(const Node& node) {
  std::vector<std::string> names = types_inside(node);
  names.insert(names.begin(), node.type);
  names.push_back(node.provenance.source);
  return names;
}

StepTimes time_steps(Program& program, const TimingOptions& options) {
  constexpr int warm_up = 2;
  constexpr size_t most = 100000;  // steps of nanoseconds must not fill the memory
  for (int step = 0; step < warm_up; ++step) program.run();
  StepTimes times;
  std::vector<double> seconds;
  Counters before = program.counters();
  double begin = seconds_now();
  auto rounds = static_cast<size_t>(std::max<int64_t>(options.rounds, 1));
  while (seconds.size() < rounds || (seconds_now() - begin < options.seconds && seconds.size() < most))
    seconds.push_back(run_timed(program));
  times.allocations = program.counters().allocations - before.allocations;
  times.descriptors = program.counters().descriptors - before.descriptors;
  times.steps = static_cast<int64_t>(seconds.size());
  times.min_seconds = *std::min_element(seconds.begin(), seconds.end());
  times.median_seconds = median(std::move(seconds));
  constexpr double share = 0.3;
  times.node_seconds = time_nodes(program, share * options.seconds);
  return times;
}

std::vector<TimelineEntry> record_step(Program& program) {
  std::vector<TimelineEntry> entries;
  entries.reserve(program.step_nodes().size());
  program.run();
  double begin = seconds_now();
  program.set_timing_hook([&](const Node& node, int64_t nanoseconds) {
    auto end = static_cast<int64_t>(1e9 * (seconds_now() - begin));
    entries.push_back({&node, std::max<int64_t>(end - nanoseconds, 0), nanoseconds});
  });
  program.run();
  program.set_timing_hook({});
  return entries;
}

std::vector<OperatorTime> by_operator(const Roofline& roofline, const std::vector<double>& node_seconds) {
  std::map<std::pair<std::string, Direction>, OperatorTime> groups;
  for (size_t i = 0; i < roofline.nodes.size(); ++i) {
    const NodeLimit& limit = roofline.nodes[i];
    const Node& node = *limit.node;
    std::string label = operator_label(node);
    OperatorTime& group = groups[{label, node.provenance.direction}];
    group.label = label;
    group.direction = node.provenance.direction;
    ++group.nodes;
    group.seconds += node_seconds[i];
    group.limit_seconds += limit.seconds;
    group.flops += limit.flops;
    group.bytes += limit.read_bytes + limit.written_bytes;
  }
  std::vector<OperatorTime> sorted;
  for (auto& [key, group] : groups) sorted.push_back(std::move(group));
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const OperatorTime& a, const OperatorTime& b) { return a.seconds > b.seconds; });
  return sorted;
}

void set_synthetic_inputs(Program& program, const Session& session, const LossOptions& loss, uint64_t seed) {
  for (const Value* slot : program.graph().inputs) {
    const std::string& name = slot->name;
    const Value* input = session.graph().find(name);
    if (input && input->role == Role::input) program.set_input(name, synthetic_input(*input, slot->dims, seed));
    else if (name == "graft.lr") program.set_input(name, Tensor::scalar(rate).cast(slot->dtype));
    else if (name == "graft.labels")
      program.set_input(name, synthetic_labels(*program.graph().find("graft.prediction"), loss, seed));
    else program.set_input(name, random_normal(slot->dtype, slot->dims, name, seed));  // a cotangent
  }
}

void set_padding(Program& program, const Session& session, int64_t shortest) {
  bool found = false;
  for (const Value* slot : program.graph().inputs) {
    const Value* input = session.graph().find(slot->name);
    if (!input || input->role != Role::input || !is_token_mask(*input, slot->dims)) continue;
    program.set_input(slot->name, padding_mask(slot->dtype, slot->dims, shortest));
    found = true;
  }
  if (!found) throw UsageError("the model has no mask of tokens, an input (batch, tokens) with \"mask\" in its name");
}

StepBenchmark benchmark_step(Session& session, const std::map<std::string, Dims>& dims, const TrainingOptions& training,
                             const MachineLimits& machine, const TimingOptions& timing,
                             std::optional<int64_t> shortest) {
  StepBenchmark result;
  int64_t held = 0;
  for (const auto& [name, entry] : session.store().entries()) held += byte_count(entry.dtype, entry.dims);
  reset_peak_resident();
  result.resident_before_bytes = resident_bytes();
  double start = seconds_now();
  result.program = session.training(dims, training).step;
  result.compile_seconds = seconds_now() - start;
  Program& program = *result.program;
  set_synthetic_inputs(program, session, training.loss);
  if (shortest) set_padding(program, session, *shortest);
  result.times = time_steps(program, timing);
  result.resident_peak_bytes = peak_resident_bytes();
  result.planned_bytes = program.plan().peak_bytes();
  result.planned_new_bytes = std::max<int64_t>(result.planned_bytes - held, 0);
  result.roofline = roofline(program, machine);
  return result;
}

}  // namespace graft
