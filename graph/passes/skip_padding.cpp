// Batches whose samples differ in length carry padding: keys that a mask hides from attention, and tokens whose
// gradient is zero. Kernels that look for it are told so here, in graphs that have attention.
#include <algorithm>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"

namespace graft {
namespace {

bool is_attention(const Node& node) {
  return node.domain == "graft" && (node.type == "Attention" || node.type == "AttentionGrad");
}

// Whether backward has computed the value, and not only given it another shape.
bool is_gradient(const Value* value) {
  while (const Node* reshape = pattern::made_by(value, "Reshape")) value = reshape->inputs[0];
  return value->producer && value->producer->provenance.direction == Direction::backward;
}

}  // namespace

int skip_padding(Graph& graph) {
  const auto& nodes = graph.nodes();
  if (std::none_of(nodes.begin(), nodes.end(), [](const auto& node) { return is_attention(*node); })) return 0;
  int told = 0;
  for (const auto& node : nodes) {
    if (is_attention(*node)) {
      node->attributes["skips"] = int64_t{1};
      ++told;
    } else if (node->provenance.direction == Direction::backward && (node->type == "MatMul" || node->type == "Gemm")) {
      const bool first = is_gradient(node->inputs[0]);
      if (first == is_gradient(node->inputs[1])) continue;
      node->attributes["zero_rows"] = int64_t{first ? 0 : 1};
      ++told;
    }
  }
  return told;
}

}  // namespace graft
