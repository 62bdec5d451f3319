// Less memory for more work: what backward reads of forward is computed again, just before it is read, instead of kept.
#pragma once

#include <unordered_map>

#include "ops/op.h"

namespace graft {

enum class Recompute : uint8_t {
  none,       // all that backward reads is kept
  automatic,  // what costs next to nothing is computed again where much is kept, and as little more as the limit allows
  all,        // the plan is made as small as it gets
};

// What it came to.
struct Recomputed {
  int64_t values = 0;  // that are not kept
  int64_t nodes = 0;   // that run a second time
  int64_t peak_before = 0, peak_after = 0;
  double flops = 0;  // of a step before
  double more_flops = 0;
  double more_work = 0;  // as a share of the step's: of FLOPs, and of bytes that are moved
};

// The memory plan of a graph whose nodes work as those of another one, which `origins` names: its peak, and the bytes
// in use while each node runs, in their order.
struct PlannedBytes {
  int64_t peak = 0;
  std::vector<int64_t> in_use;
};
using Origins = std::unordered_map<const Node*, const Node*>;
using PlanBytes = std::function<PlannedBytes(const Graph& graph, const Origins& origins)>;

struct RecomputeGoal {
  int64_t limit = 0;  // bytes into which the plan has to fit; 0: it is made as small as it gets
  double share = 0;   // of a step's work, that may be spent again even where the plan fits
};

// Copies nodes of forward into backward, as late as can be, until the goal is reached. What costs least for a byte
// comes first. Copies have the attributes, the layouts and so the kernels of their originals, begin from what those
// left where that saves work (Op::shortcut), and backward reads the same bits as before.
//
// `graph` is as it runs: in order, laid out, and settled. An operator whose results are new statistics gets a copy
// without them, and without the old ones. Where the limit cannot be kept, the graph stays as it is, and `peak_after` is
// the smallest that was found.
Recomputed recompute(Graph& graph, const std::unordered_map<const Node*, Settlement>& settlements,
                     const RecomputeGoal& goal, const PlanBytes& plan);

}  // namespace graft
