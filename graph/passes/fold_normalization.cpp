// A BatchNormalization whose numbers do not change goes into the convolution before it:
//   w' = w * factor, b' = (b - mean) * factor + bias, factor = scale / sqrt(variance + epsilon)
// Nodes on states compute them: in the prologue, once when parameters are bound.
#include <algorithm>
#include <unordered_set>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"
#include "ops/build.h"
#include "ops/op.h"

namespace graft {
namespace {

class Folder {
 public:
  Folder(Graph& graph, const std::set<std::string>& trained) : graph_(graph), kept_(pattern::kept_values(graph)) {
    for (const auto& state : graph.states) {
      if (state.out || trained.count(state.in->name)) changing_.insert(state.in);
    }
  }

  bool fold(Node* normalization) {
    const Value* x = normalization->inputs[0];
    Node* conv = x->producer;
    if (normalization->integer("training_mode", 0) != 0 || !conv || !pattern::made_by(x, "Conv")) return false;
    if (x->users.size() != 1 || kept_.count(x) || !is_fixed(*conv) || !is_fixed(*normalization)) return false;
    graph_.insert_before(conv);
    graph_.set_provenance(normalization->provenance);
    auto operand = [&](const Node* node, size_t i) { return Val(graph_, node->inputs[i]); };
    Val scale = operand(normalization, 1), bias = operand(normalization, 2), mean = operand(normalization, 3);
    Val variance = operand(normalization, 4);
    Val factor = scale / sqrt(variance + constant_like(variance, normalization->real("epsilon", 1e-5)));
    Val w = operand(conv, 1);
    Dims one_a_filter(w.dims().size(), 1);
    one_a_filter[0] = w.dims()[0];
    Val shifted = conv->input(2) ? operand(conv, 2) - mean : -mean;
    Val folded_bias = shifted * factor + bias;
    Val folded = w * reshape(factor, one_a_filter);
    graph_.set_provenance(conv->provenance);
    Node* both =
        graph_.add_node("", "Conv", {conv->inputs[0], folded.value(), folded_bias.value()}, 1, conv->attributes);
    both->name = conv->name;
    infer(*both);
    pattern::replace(graph_, normalization->outputs[0], both->outputs[0]);
    return true;
  }

 private:
  // All operands but the first are constants and states that stay.
  bool is_fixed(const Node& node) const {
    return std::all_of(node.inputs.begin() + 1, node.inputs.end(), [&](const Value* value) {
      return !value || value->is_constant() || (value->is_state() && !changing_.count(value));
    });
  }

  Graph& graph_;
  std::unordered_set<const Value*> kept_;
  std::unordered_set<const Value*> changing_;
};

}  // namespace

int fold_normalization(Graph& graph, const std::set<std::string>& trained) {
  Folder folder(graph, trained);
  return pattern::join_each(graph, "BatchNormalization", [&](Node* node) { return folder.fold(node); });
}

}  // namespace graft
