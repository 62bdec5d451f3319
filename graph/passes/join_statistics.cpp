// A normalisation wants the sums of what it reads over each channel first: a kernel that can leave them with what it
// gives saves it a pass over memory. Behind lay_out, which decides what kernels run.
#include "graph/passes/passes.h"
#include "ops/op.h"

namespace graft {

int join_statistics(Graph& graph) {
  int joined = 0;
  for (Node* node : graph.node_list()) {
    const Op* op = find_op(*node);
    Node* before = op && op->statistics_slot >= 0 ? node->inputs[0]->producer : nullptr;
    if (!before || node->inputs[0] != before->outputs[0] || before->stage != node->stage) continue;
    const Op* giver = find_op(*before);
    if (!giver || !giver->gives_statistics || !giver->gives_statistics(*before)) continue;
    constexpr size_t result = 1;
    Value* statistics = before->output(result);
    if (!statistics) {
      statistics = graph.add_output(before);
      statistics->opaque = true;
    }
    graph.set_input(node, static_cast<size_t>(op->statistics_slot), statistics);
    ++joined;
  }
  return joined;
}

}  // namespace graft
