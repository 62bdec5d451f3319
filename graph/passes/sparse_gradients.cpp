// The gradient of an embedding is zero but for the rows that a step picks: its optimiser takes those rows and their
// indices, and no tensor of the table's size is filled, read and kept for it.
#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"

namespace graft {
namespace {

// The node that gives this gradient, where it is of rows and nothing else reads it.
Node* rows_of(const Value* gradient) {
  Node* node = gradient->producer;
  if (!node || node->domain != "graft" || node->type != "GatherGrad" || gradient->users.size() != 1) return nullptr;
  const int64_t axis = node->integer("axis", 0);
  return axis == 0 || axis + static_cast<int64_t>(gradient->dims.size()) == 0 ? node : nullptr;
}

}  // namespace

int sparse_gradients(Graph& graph) {
  constexpr size_t gradient = 1;
  const auto kept = pattern::kept_values(graph);
  int found = 0;
  for (Node* node : graph.node_list()) {
    if (node->domain != "graft" || (node->type != "Adam" && node->type != "Sgd")) continue;
    const Value* dw = node->inputs[gradient];
    Node* rows = kept.count(dw) ? nullptr : rows_of(dw);
    if (!rows) continue;
    Value *dy = rows->inputs[0], *indices = rows->inputs[1];
    graph.set_input(node, gradient, dy);
    graph.set_input(node, node->inputs.size(), indices);
    node->type += "Rows";
    graph.erase(rows);
    ++found;
  }
  return found;
}

}  // namespace graft
