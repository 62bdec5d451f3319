// How much arithmetic a graph of known shapes asks for.
#pragma once

#include "graph/graph.h"

namespace graft {

// Convolutions and matrix products, forward and backward, count two for each multiply-add. Every other node counts one
// for each element of its largest operand or result, those that only move data nothing.
double flops(const Node& node);
// Whether a node is an optimiser's step that leaves all rows alone but those of its gradient (input 1).
bool steps_picked_rows_only(const Node& node);
// Of the nodes that run every step.
double flops(const Graph& graph);

}  // namespace graft
