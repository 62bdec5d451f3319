// What passes share about Dropout nodes.
#pragma once

#include "graph/graph.h"

namespace graft {

bool is_mask_read(const Graph& graph, const Node& dropout);
// The node hands its first operand on. Its mask must not be read.
void make_identity(Graph& graph, Node* dropout);

}  // namespace graft
