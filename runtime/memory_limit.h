// Makes the step of a Program fit a limit of memory.
#pragma once

#include "graph/passes/recompute.h"
#include "runtime/program.h"

namespace graft {

struct MemoryOptions {
  // Without a limit `automatic` takes the memory of the machine for one.
  Recompute recompute = Recompute::automatic;
  int64_t limit = 0;  // bytes of the plan's peak; 0: none
  bool operator==(const MemoryOptions&) const = default;
};

// Computes again what the options want. The graph is as Programs take it. A limit may be out of reach: see
// Recomputed::peak_after.
Recomputed fit_memory(Graph& graph, const MemoryOptions& options);

// The largest batch below `too_many` that fits, 0 for none. A batch that fits says so of all that are smaller.
int64_t largest_batch(int64_t too_many, const std::function<bool(int64_t batch)>& fits);

}  // namespace graft
