// Chooses kernels by measuring them. Each case (operator, types, shapes, layouts, attributes) for which the operator
// lists several kernels is timed once on this machine, and the fastest stands in a cache on disk from then on.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "graph/graph.h"
#include "runtime/kernel_cache.h"

namespace graft {

// What one graph came to.
struct AutotuneReport {
  int64_t cases = 0;                             // distinct ones with a choice
  int64_t measured = 0;                          // of them; the others were in the cache
  int64_t nodes = 0;                             // of all cases
  int64_t changed = 0;                           // of them: another kernel than without measuring
  double usual_seconds = 0, chosen_seconds = 0;  // of all nodes, as measured
  double seconds = 0;                            // that measuring took
};

struct AutotuneOptions {
  std::string folder = "";                                        // of the cache, see KernelCache
  double seconds_per_case = 0.1;                                  // of measuring, about
  std::function<void(int64_t done, int64_t cases)> on_case = {};  // before the first that is measured, and behind each
  std::function<void(const AutotuneReport&)> on_end = {};         // for each graph
  std::function<void(const std::string&)> warn = {};
};

class Autotuner {
 public:
  explicit Autotuner(AutotuneOptions options);
  // Sets Node::kernel of the step's nodes; layouts are final and nothing is settled yet.
  void tune(Graph& graph);

 private:
  AutotuneOptions options_;
  std::optional<KernelCache> cache_;
  int threads_ = 0;  // that the cache is for
};

// Seconds of the kernels that `node` can take, one of which is measured after the other in turn, on operands of random
// numbers that no core has in its own caches: that is how a step finds them. The least of several runs counts.
std::map<std::string, double> time_kernels(Node& node, const std::vector<std::string>& kernels, double seconds);

}  // namespace graft
