// Times Programs: whole steps, and their kernels one by one, each beside the machine's limit.
#pragma once

#include "runtime/roofline.h"
#include "runtime/session.h"

namespace graft {

struct TimingOptions {
  double seconds = 3;  // of timed steps, about
  int64_t rounds = 5;  // timed steps at least
};

struct StepTimes {
  double min_seconds = 0, median_seconds = 0;
  int64_t steps = 0;                 // timed
  int64_t allocations = 0;           // in all timed steps together
  int64_t descriptors = 0;           // made in them, see descriptor_count
  std::vector<double> node_seconds;  // the least of each node, as Program::step_nodes
};

// Runs `program` on the inputs that it has. First steps that do not count, then steps as users run them, then some with
// a clock around each kernel for `node_seconds`.
StepTimes time_steps(Program& program, const TimingOptions& options);

// One step as it happened: nanoseconds from its beginning.
struct TimelineEntry {
  const Node* node = nullptr;
  int64_t start = 0, duration = 0;
};
std::vector<TimelineEntry> record_step(Program& program);

// What a node is called in tables: its operator's type, for an element-wise region those of its nodes ("Add+Relu").
std::string operator_label(const Node& node);
// Names by which a filter finds a node: its type, those of the nodes in a region, and the node of the file.
std::vector<std::string> filter_names(const Node& node);

// All nodes of one label in one direction.
struct OperatorTime {
  std::string label;
  Direction direction = Direction::forward;
  int64_t nodes = 0;
  double seconds = 0, limit_seconds = 0, flops = 0;
  int64_t bytes = 0;  // read and written
};
// The most expensive first.
std::vector<OperatorTime> by_operator(const Roofline& roofline, const std::vector<double>& node_seconds);

// Fills the slots of a Program of `session` with synthetic inputs, labels, cotangents and a learning rate of 1e-4.
void set_synthetic_inputs(Program& program, const Session& session, const LossOptions& loss, uint64_t seed = 0);
// Masks of tokens become those of samples from `shortest` tokens on. UsageError where there is no such input.
void set_padding(Program& program, const Session& session, int64_t shortest);

// A training step at these dims, compiled and timed; with padding as set_padding has it where `shortest` is given.
// Bytes of memory are 0 where the system does not tell.
struct StepBenchmark {
  std::shared_ptr<Program> program;
  double compile_seconds = 0;
  StepTimes times;
  Roofline roofline;
  int64_t planned_bytes = 0;          // peak of the memory plan
  int64_t planned_new_bytes = 0;      // the same without the parameters, which the session holds before it compiles
  int64_t resident_before_bytes = 0;  // of the process, before compiling
  int64_t resident_peak_bytes = 0;    // from then on
};
StepBenchmark benchmark_step(Session& session, const std::map<std::string, Dims>& dims, const TrainingOptions& training,
                             const MachineLimits& machine, const TimingOptions& timing,
                             std::optional<int64_t> shortest = {});

}  // namespace graft
