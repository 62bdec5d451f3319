#include "graph/passes/dropout.h"

#include <algorithm>

namespace graft {

bool is_random(const Node& node) {
  return node.domain.empty() && (node.type.starts_with("Random") || node.type == "Bernoulli" ||
                                 node.type == "Multinomial" || node.type == "Dropout");
}

bool is_mask_read(const Graph& graph, const Node& dropout) {
  const Value* mask = dropout.output(1);
  if (!mask) return false;
  return !mask->users.empty() || std::find(graph.outputs.begin(), graph.outputs.end(), mask) != graph.outputs.end();
}

void make_identity(Graph& graph, Node* dropout) {
  for (size_t i = 1; i < dropout->inputs.size(); ++i) graph.set_input(dropout, i, nullptr);
  dropout->inputs.resize(1);
  for (size_t i = 1; i < dropout->outputs.size(); ++i) graph.drop_output(dropout, i);
  dropout->outputs.resize(1);
  dropout->attributes.clear();
  dropout->type = "Identity";
}

}  // namespace graft
