// Attention spelled out, softmax(q k^T [* or / number] [+ mask]) v, becomes one node: its scores are as large as all
// else that a transformer keeps together, and need not be kept.
#include <algorithm>
#include <unordered_set>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"
#include "ops/build.h"
#include "ops/op.h"

namespace graft {
namespace {

class Joiner {
 public:
  explicit Joiner(Graph& graph) : graph_(graph), kept_(pattern::kept_values(graph)) {}

  bool join(Node* product) {
    const size_t rank = product->outputs[0]->dims.size();
    if (rank < 3 || rank > 4 || !is_float(product->outputs[0]->dtype)) return false;
    const Node* softmax = inner(product->inputs[0], "Softmax");
    if (!softmax) return false;
    const int64_t axis = softmax->integer("axis", -1);
    if (axis != -1 && axis != static_cast<int64_t>(rank) - 1) return false;
    Value* scores = softmax->inputs[0];
    Value* mask = nullptr;
    if (const Node* add = inner(scores, "Add")) {
      const bool second = leads_to_product(add->inputs[0]);
      if (!second && !leads_to_product(add->inputs[1])) return false;
      mask = add->inputs[second ? 1 : 0];
      scores = add->inputs[second ? 0 : 1];
    }
    double scale = 1;
    scores = scaled(scores, scale);
    const Node* first = inner(scores, "MatMul");
    if (!first) return false;
    Value *q = first->inputs[0], *k = first->inputs[1], *v = product->inputs[1];
    const Dims wanted = scores->dims;
    if (product->outputs[0]->count() == 0 || scores->count() == 0 || q->count() == 0) return false;
    if (!alike(*q, *k) || !alike(*q, *v) || !alike(*q, *scores) || q->dtype != scores->dtype) return false;
    if (mask && (mask->dtype != q->dtype || !broadcasts(mask->dims, wanted))) return false;
    replace(product, q, k, v, mask, scale);
    return true;
  }

 private:
  // The node of this type that gives `value` for one reader alone, identities behind it left out.
  const Node* inner(const Value* value, std::string_view type) const {
    while (value->users.size() == 1 && !kept_.count(value)) {
      if (const Node* node = pattern::made_by(value, type)) return node;
      const Node* identity = pattern::made_by(value, "Identity");
      if (!identity) return nullptr;
      value = identity->inputs[0];
    }
    return nullptr;
  }

  // Steps over a product with a number or a division by one.
  Value* scaled(Value* value, double& scale) const {
    if (const Node* mul = inner(value, "Mul")) {
      for (size_t i : {0, 1}) {
        auto number = pattern::number(mul->inputs[i]);
        if (!number || mul->inputs[1 - i]->dims != value->dims) continue;
        scale = *number;
        return mul->inputs[1 - i];
      }
    }
    if (const Node* div = inner(value, "Div")) {
      auto number = pattern::number(div->inputs[1]);
      if (!number || *number == 0 || div->inputs[0]->dims != value->dims) return value;
      scale = 1 / *number;
      return div->inputs[0];
    }
    return value;
  }

  bool leads_to_product(Value* value) const {
    double scale = 1;
    return inner(scaled(value, scale), "MatMul");
  }

  // Batches and heads are not broadcast.
  static bool alike(const Value& a, const Value& b) {
    return a.dims.size() == b.dims.size() && std::equal(a.dims.begin(), a.dims.end() - 2, b.dims.begin());
  }

  static bool broadcasts(const Dims& mask, const Dims& scores) {
    if (mask.size() > scores.size()) return false;
    for (size_t d = 0; d < mask.size(); ++d) {
      if (mask[d] != 1 && mask[d] != scores[scores.size() - mask.size() + d]) return false;
    }
    return true;
  }

  void replace(Node* product, Value* q, Value* k, Value* v, Value* mask, double scale) {
    graph_.insert_before(product);
    graph_.set_provenance(product->provenance);
    const bool with_batch = q->dims.size() == 4;
    const std::vector<int64_t> perm = with_batch ? std::vector<int64_t>{0, 1, 3, 2} : std::vector<int64_t>{0, 2, 1};
    std::vector<Val> operands = {Val(graph_, q), call("Transpose", {Val(graph_, k)}, {{"perm", perm}}), Val(graph_, v)};
    if (mask) operands.emplace_back(graph_, mask);
    Val y = call("graft", "Attention", operands, 1, {{"scale", scale}})[0];
    y.value()->producer->name = product->name;
    pattern::replace(graph_, product->outputs[0], y.value());
  }

  Graph& graph_;
  std::unordered_set<const Value*> kept_;
};

}  // namespace

int join_attention(Graph& graph) {
  Joiner joiner(graph);
  // A region lies before its last node: what is erased was passed already.
  return pattern::join_each(graph, "MatMul", [&](Node* node) { return joiner.join(node); });
}

}  // namespace graft
