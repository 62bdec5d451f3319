// BatchNormalization takes in the addition and the activation behind it: one pass over memory less for each, forward
// and backward, and what lies between them is not kept.
#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"
#include "ops/op.h"

namespace graft {
namespace {

using pattern::made_by;

class Extender {
 public:
  explicit Extender(Graph& graph) : graph_(graph), kept_(pattern::kept_values(graph)) {}

  bool extend(Node* normalization) {
    Value* y = normalization->outputs[0];
    Value* residual = nullptr;
    if (const Node* add = only_user(y, "Add")) {
      residual = add->inputs[add->inputs[0] == y ? 1 : 0];
      if (residual->dims != y->dims || residual->dtype != y->dtype) return false;
      y = add->outputs[0];
    }
    Attributes activation;
    if (Node* node = activation_of(y, residual != nullptr, activation)) y = node->outputs[0];
    if (y == normalization->outputs[0]) return false;
    replace(normalization, residual, activation, y);
    return true;
  }

 private:
  // The one node that reads `value`, if it is of this type.
  Node* only_user(const Value* value, std::string_view type) const {
    if (value->users.size() != 1 || kept_.count(value)) return nullptr;
    Node* user = value->users[0];
    return made_by(user->outputs[0], type) ? user : nullptr;
  }

  // The activation that alone reads `value`, and how the kernels name it. With a residual they keep its slope in a bit.
  Node* activation_of(const Value* value, bool with_residual, Attributes& attributes) const {
    if (Node* relu = only_user(value, "Relu")) {
      attributes = {{"activation", std::string("relu")}};
      return relu;
    }
    Node* hard_swish = with_residual ? nullptr : only_user(value, "HardSwish");
    if (hard_swish) {
      attributes = {{"activation", std::string("hard_swish")}};
      return hard_swish;
    }
    Node* clip = only_user(value, "Clip");
    if (!clip || clip->inputs[0] != value) return nullptr;
    auto low = clip->input(1) ? pattern::number(clip->input(1)) : -HUGE_VAL;
    auto high = clip->input(2) ? pattern::number(clip->input(2)) : HUGE_VAL;
    if (!low || !high || !(*low <= 0 && *high >= 0)) return nullptr;
    attributes = {{"activation", std::string("clip")}, {"min", *low}, {"max", *high}};
    return clip;
  }

  void replace(Node* normalization, Value* residual, const Attributes& activation, Value* y) {
    graph_.insert_before(y->producer);
    graph_.set_provenance(normalization->provenance);
    std::vector<Value*> operands = normalization->inputs;
    if (residual) operands.push_back(residual);
    Attributes attributes = normalization->attributes;
    attributes.insert(activation.begin(), activation.end());
    Node* node =
        graph_.add_node("graft", "BatchNormalizationActivation", operands, normalization->outputs.size(), attributes);
    node->name = normalization->name;
    infer(*node);
    for (size_t i = 1; i < node->outputs.size(); ++i) pattern::take_over(graph_, normalization->outputs[i], node, i);
    pattern::replace(graph_, y, node->outputs[0]);
  }

  Graph& graph_;
  std::unordered_set<const Value*> kept_;
};

}  // namespace

int extend_normalization(Graph& graph) {
  Extender extender(graph);
  return pattern::join_each(graph, "BatchNormalization", [&](Node* node) { return extender.extend(node); });
}

}  // namespace graft
