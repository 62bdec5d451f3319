// What passes share about Dropout nodes and others that draw random numbers.
#pragma once

#include "graph/graph.h"

namespace graft {

// Two runs on equal operands may differ: a node of ONNX that draws for itself.
bool is_random(const Node& node);

bool is_mask_read(const Graph& graph, const Node& dropout);
// The node hands its first operand on. Its mask must not be read.
void make_identity(Graph& graph, Node* dropout);

}  // namespace graft
