// The gradient of a normalisation that two nodes read comes as a sum: its kernel can add while it reads. Behind
// lay_out, since a sum that is reordered before it is read is cheaper than two reordered operands.
#include <algorithm>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"

namespace graft {
int join_sums(Graph& graph) {
  constexpr size_t dy = 0, more_dy = 7;
  const auto kept = pattern::kept_values(graph);
  int joined = 0;
  for (Node* node : graph.node_list()) {
    if (node->domain != "graft" || node->type != "BatchNormalizationGrad" || node->input(more_dy)) continue;
    const Value* sum = node->inputs[dy];
    Node* add = sum->producer;
    if (!add || !add->domain.empty() || add->type != "Add" || sum->users.size() != 1 || kept.count(sum)) continue;
    std::vector<Value*> parts = add->inputs;
    bool alike = std::all_of(parts.begin(), parts.end(), [&](const Value* part) {
      return part->dims == sum->dims && part->layout == sum->layout && part->dtype == sum->dtype;
    });
    if (!alike) continue;
    graph.set_input(node, dy, parts[0]);
    graph.set_input(node, more_dy, parts[1]);
    graph.erase(add);
    ++joined;
  }
  return joined;
}

}  // namespace graft
