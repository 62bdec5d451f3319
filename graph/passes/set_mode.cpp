// Makes train and inference semantics explicit on every node that has both: BatchNormalization and Dropout.
#include "graph/passes/dropout.h"
#include "graph/passes/passes.h"

namespace graft {
namespace {

void drop_outputs_after_first(Graph& graph, Node* node) {
  for (size_t i = 1; i < node->outputs.size(); ++i) {
    Value* output = node->outputs[i];
    if (!output) continue;
    if (!output->users.empty()) throw UnsupportedError(node->where(), " has running statistics that other nodes read");
    graph.rename(output, "");
    output->producer = nullptr;
  }
  node->outputs.resize(1);
}

void set_batch_normalization(Graph& graph, Node* node, bool live) {
  // Statistics that a training-mode export lists as graph outputs are states here.
  std::erase_if(graph.outputs, [&](const Value* v) { return v->producer == node && v->index > 0; });
  if (node->outputs.size() > 1) drop_outputs_after_first(graph, node);
  node->attributes["training_mode"] = int64_t{live};
  if (!live) return;
  for (size_t i = 1; i <= 2; ++i) {
    Value* statistic = node->inputs.at(i + 2);
    Value* updated = graph.add_output(node);
    if (statistic->is_state()) graph.bind_state(statistic, updated);
  }
}

}  // namespace

void set_mode(Graph& graph, bool train, const std::set<std::string>& live_scales) {
  for (Node* node : graph.node_list()) {
    if (!node->domain.empty()) continue;
    if (node->type == "BatchNormalization") {
      const Value* scale = node->inputs.at(1);
      // Without a named scale (a computed one) there is nothing to freeze it by: it follows the mode.
      bool live = train && (!scale->is_state() || live_scales.count(scale->name));
      set_batch_normalization(graph, node, live);
    } else if (node->type == "Dropout") {
      if (!train && !is_mask_read(graph, *node)) {
        make_identity(graph, node);
      } else {
        Value* on = graph.add_constant(Tensor::scalar<bool>(train));
        graph.set_input(node, 2, on);
      }
    }
  }
}

}  // namespace graft
