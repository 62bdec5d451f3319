// What the two verbs of `graft bench` share: the machine's limits, the model's shapes, and how times are shown.
#pragma once

#include "cli/command.h"
#include "runtime/benchmark.h"

namespace graft {

void add_bench_ops(CLI::App& bench);
void add_bench_step(CLI::App& bench);

// --batch, and --seconds with its default in the help.
void add_batch(CLI::App& verb, std::optional<int64_t>& batch);
void add_seconds(CLI::App& verb, double& seconds, const std::string& description);

// The machine as it was when the benchmark began.
struct Machine {
  MachineLimits limits;
  std::optional<double> load;  // average of the last minute
};
// Measures it; warns where other programs keep it busy.
Machine measure();

// Dims of all inputs. UsageError that lists every free dimension without a size, and for a batch that the model does
// not have or that is not given.
std::map<std::string, Dims> input_dims(const Graph& graph, const std::optional<int64_t>& batch,
                                       const std::map<std::string, int64_t>& sizes);

// What trains on the model: cross-entropy, or MSE where its first output has one dimension only.
LossType usual_loss(const Graph& graph);

// Throws an UnsupportedError that lists every node that blocks training, not only those that the first pass which
// refuses would see; returns where there is none.
void require_trainable(Session& session, const std::map<std::string, Dims>& dims, const TrainingOptions& training);

std::string_view name_of(Direction direction);

Json describe(const Machine& machine);
std::string to_text(const Machine& machine);
// How limits come about, in a line.
std::string limit_text();

// Rates and the share of the limit of some work: gflops, gb_per_s, limit_ms, share_of_limit.
struct Work {
  double seconds = 0, limit_seconds = 0, flops = 0;
  int64_t bytes = 0;
};
Json describe(const Work& work);
// Columns for a table, with their heads.
std::string work_heads();
std::string to_text(const Work& work);

// Cut to the width of a column.
std::string short_label(const std::string& label);

Json describe(const std::vector<OperatorTime>& operators);
std::string to_text(const std::vector<OperatorTime>& operators);

}  // namespace graft
