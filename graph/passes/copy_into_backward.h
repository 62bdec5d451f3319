// Nodes of forward that run a second time in backward, see recompute.
#pragma once

#include "graph/passes/recompute.h"

namespace graft {

// Nodes of a step by when they run: in forward, or behind it. Between the nodes of backward there are some of forward's
// too, which stand where backward wants them, such as a Reorder of what it reads.
enum class Time : uint8_t { prologue, early, late };
std::vector<Time> times_of(const Graph& graph);

// The result of a node that a copy of it begins from, see Op::shortcut: all who read it read the original's. nullptr
// where there is none.
Value* shared_result(const Node& node);

// Backward reads copies of the nodes that are `chosen`, by their place in the order of the graph, right before it reads
// their results. Nodes that nobody reads then are gone. Returns copy -> original.
Origins copy_into_backward(Graph& graph, const std::vector<bool>& chosen);

}  // namespace graft
