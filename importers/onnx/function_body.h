// The Expander of graph/passes: function bodies that the ONNX standard gives for its operators.
#pragma once

#include "graph/graph.h"

namespace graft {

// The body for this node's attributes and operand types, lifted; its inputs are the node's operands in order (absent
// ones too) and its outputs the node's results, where
// unwanted ones repeat the first. nullptr where ONNX has none.
std::shared_ptr<Graph> function_body_graph(const Node& node);

}  // namespace graft
