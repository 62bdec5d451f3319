// Makes the step of a Program fit a limit of memory.
#pragma once

#include "graph/passes/recompute.h"
#include "runtime/program.h"

namespace graft {

// Where the optimiser's state lies: moments, which nobody but the optimiser reads and writes.
enum class OptimiserState : uint8_t {
  automatic,  // on the disk where the plan exceeds the limit otherwise
  memory,
  disk,
};

struct MemoryOptions {
  // Without a limit `automatic` takes the memory of the machine for one.
  Recompute recompute = Recompute::automatic;
  int64_t limit = 0;  // bytes of the plan's peak; 0: none
  OptimiserState optimiser = OptimiserState::automatic;
  std::string folder;  // for the file of what lies on the disk; "": that of temporary files
  bool operator==(const MemoryOptions&) const = default;
};

// Computes again what the options want, and puts states on the disk. The graph is as Programs take it. A limit may be
// out of reach: see Recomputed::peak_after.
Recomputed fit_memory(Graph& graph, const MemoryOptions& options);

// Of the Program that applies what steps have accumulated: its moments come on top of `taken`, the plan of a step.
void fit_beside(Graph& apply, const MemoryOptions& options, int64_t taken);

// Marks the states that a kernel can take from the disk (Op::disk_slots) and that no other node reads; false where
// there are none.
bool put_on_disk(Graph& graph);

// The largest batch below `too_many` that fits, 0 for none. A batch that fits says so of all that are smaller.
int64_t largest_batch(int64_t too_many, const std::function<bool(int64_t batch)>& fits);

}  // namespace graft
