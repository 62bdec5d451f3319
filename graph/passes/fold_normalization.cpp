// A BatchNormalization whose numbers do not change goes into the convolution before it:
//   w' = w * factor, b' = (b - mean) * factor + bias, factor = scale / sqrt(variance + epsilon)
// Nodes on states compute them: in the prologue, once when parameters are bound. Where no gradient flows, the
// convolution takes in what is behind the normalisation too, an addition and an activation: their slope is wanted by
// nobody.
#include <algorithm>
#include <unordered_set>

#include "graph/captures.h"
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
    for (const auto& node : graph.nodes()) {
      if (is_any_changing(node->inputs) || is_any_changing(captured_values(*node)))
        changing_.insert(node->outputs.begin(), node->outputs.end());
    }
  }

  bool fold(Node* normalization) {
    constexpr size_t residual = 5;
    const bool finishes = normalization->domain == "graft";
    const Value* x = normalization->inputs[0];
    Node* conv = x->producer;
    if (finishes && is_any_changing(normalization->inputs)) return false;
    if (normalization->integer("training_mode", 0) != 0 || !conv || !pattern::made_by(x, "Conv")) return false;
    if (x->users.size() != 1 || kept_.count(x) || !is_fixed(*conv) || !is_fixed(*normalization)) return false;
    graph_.insert_before(normalization);
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
    std::vector<Value*> operands{conv->inputs[0], folded.value(), folded_bias.value()};
    Attributes attributes = conv->attributes;
    if (Value* beside = normalization->input(residual)) operands.push_back(beside);
    for (const char* name : {"activation", "min", "max"}) {
      if (finishes && normalization->has(name)) attributes[name] = normalization->attributes.at(name);
    }
    Node* both = graph_.add_node(finishes ? "graft" : "", "Conv", operands, 1, attributes);
    both->name = conv->name;
    infer(*both);
    pattern::replace(graph_, normalization->outputs[0], both->outputs[0]);
    return true;
  }

 private:
  // Weights, or scale, bias and statistics, are constants and states that stay.
  bool is_fixed(const Node& node) const {
    constexpr size_t numbers = 5;  // of a normalisation, with x; a convolution has fewer
    const auto end = node.inputs.begin() + static_cast<std::ptrdiff_t>(std::min(numbers, node.inputs.size()));
    return std::all_of(node.inputs.begin() + 1, end, [&](const Value* value) {
      return !value || value->is_constant() || (value->is_state() && !changing_.count(value));
    });
  }

  bool is_any_changing(const std::vector<Value*>& values) const {
    return std::any_of(values.begin(), values.end(), [&](const Value* value) { return changing_.count(value) > 0; });
  }

  Graph& graph_;
  std::unordered_set<const Value*> kept_;
  std::unordered_set<const Value*> changing_;  // and what they lead to
};

}  // namespace

int fold_normalization(Graph& graph, const std::set<std::string>& trained, bool finish) {
  Folder folder(graph, trained);
  auto fold = [&](Node* node) { return folder.fold(node); };
  int folded = pattern::join_each(graph, "BatchNormalization", fold);
  if (finish) folded += pattern::join_each(graph, "BatchNormalizationActivation", fold, "graft");
  return folded;
}

}  // namespace graft
