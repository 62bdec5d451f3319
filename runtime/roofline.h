// How fast a Program could be at most on a machine: the time that its arithmetic and its traffic alone would take.
//
// The limit of a node is max(FLOPs / rate, bytes from memory / bandwidth of memory, bytes from cache / bandwidth of the
// cache), that of a Program the sum over its nodes. What comes from where is found by walking the steps in their order
// with a cache of the size of the last level that holds whole values and forgets the one used longest ago:
//   - a value that is read costs memory traffic unless it is still there;
//   - a value that is written costs memory traffic when it has to give way before its last reader has had it; one in
//   the
//     arena that nobody will read again is simply forgotten, as its bytes are about to be used for another;
//   - two steps are walked and the second one counts: what the step before left in the cache is still there.
// Values count with the bytes that they take as they lie, padding included. Views cost nothing, a result in the bytes
// of an operand is one value with it. Nodes that pick (Gather, Slice, ...) read no more than they give; steps
// of picked rows that leave the others alone move no more of the table than dy has.
#pragma once

#include "runtime/machine.h"
#include "runtime/program.h"

namespace graft {

struct NodeLimit {
  const Node* node = nullptr;
  double flops = 0;
  int64_t read_bytes = 0, written_bytes = 0;  // as they lie
  int64_t memory_bytes = 0, cache_bytes = 0;  // the same, by where they come from and go to
  double seconds = 0;                         // the limit
};

struct Roofline {
  std::vector<NodeLimit> nodes;  // as Program::step_nodes
  double flops = 0;
  int64_t memory_bytes = 0, cache_bytes = 0;
  double seconds = 0;
};

Roofline roofline(const Program& program, const MachineLimits& machine);
// Of the Program that `graph` would be, which is as it runs: sorted and laid out.
Roofline roofline(const Graph& graph, const MachineLimits& machine);
// Of nodes that run in this order.
Roofline roofline(const std::vector<const Node*>& nodes, const MemoryPlan& plan, const Settlements& settlements,
                  const MachineLimits& machine);

}  // namespace graft
