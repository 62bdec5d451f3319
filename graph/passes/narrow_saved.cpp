// What backward reads of forward lies in between as bfloat16: a Cast stands behind the node that computes it and one
// before its first reader in backward. Forward keeps its float32, and so does all that is no activation: only first
// results of nodes count, since others are statistics, masks and the like, whose errors backward would magnify.
#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "graph/passes/add_cast.h"
#include "graph/passes/passes.h"
#include "ops/op.h"

namespace graft {
namespace {

constexpr int64_t worth_it = int64_t{64} << 10;  // bytes

bool is_late(const Node& node) { return node.provenance.direction != Direction::forward; }

bool is_read_late(const Value& value) {
  return std::any_of(value.users.begin(), value.users.end(), [](const Node* user) { return is_late(*user); });
}

bool shows_its_operand(const Node& node) {
  static const std::unordered_set<std::string> types{"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"};
  return node.domain.empty() && types.contains(node.type);
}

// A comparison in backward, as that of a maximum with what it is the maximum of, wants both as forward had them.
bool is_compared_late(const Value& value) {
  return std::any_of(value.users.begin(), value.users.end(), [](const Node* user) {
    if (!is_late(*user) || user->outputs.empty() || !user->outputs[0]) return false;
    const Value& result = *user->outputs[0];
    const bool moves = shows_its_operand(*user) || user->type == "Expand" || user->type == "Transpose";
    return result.dtype == DType::boolean || (moves && is_compared_late(result));
  });
}

// Whose bytes a value is likely to show.
const Value* root_of(const Value* value) {
  while (value->producer && shows_its_operand(*value->producer) && value->producer->inputs[0])
    value = value->producer->inputs[0];
  return value;
}

class Narrower {
 public:
  explicit Narrower(Graph& graph) : graph_(graph), kept_(graph.outputs.begin(), graph.outputs.end()) {
    for (const State& state : graph.states) kept_.insert(state.out);
    for (const auto& node : graph.nodes()) {
      if (is_late(*node)) continue;
      for (const Value* value : node->outputs) {
        if (value && is_read_late(*value)) ++shown_[root_of(value)];
      }
    }
  }

  NarrowedValues run() {
    const std::vector<Node*> nodes = graph_.node_list();
    for (size_t i = 0; i < nodes.size(); ++i) {
      Value* value = nodes[i]->outputs.empty() ? nullptr : nodes[i]->outputs[0];
      if (is_late(*nodes[i]) || !value || !pays(*value)) continue;
      graph_.insert_before(i + 1 < nodes.size() ? nodes[i + 1] : nullptr);
      graph_.set_provenance(nodes[i]->provenance);
      low_[value] = add_cast(graph_, value, DType::bf16);
      ++found_.values;
      found_.bytes += byte_count(DType::bf16, value->dims);
    }
    for (Node* node : nodes) {
      if (!is_late(*node)) continue;
      for (size_t i = 0; i < node->inputs.size(); ++i) {
        auto low = low_.find(node->inputs[i]);
        if (low != low_.end()) graph_.set_input(node, i, widened(*node, low->second));
      }
    }
    graph_.insert_before(nullptr);
    graph_.set_provenance({});
    return found_;
  }

 private:
  // Where several values show the same bytes, one of them in float32 would keep them all.
  bool pays(const Value& value) const {
    return value.dtype == DType::f32 && !value.opaque && value.shaped() && is_read_late(value) &&
           !kept_.contains(&value) && byte_count(value.dtype, value.dims) >= worth_it && !is_compared_late(value) &&
           shown_.at(root_of(&value)) == 1 && root_of(&value)->producer && !kept_.contains(root_of(&value));
  }

  Value* widened(Node& reader, Value* low) {
    Value*& wide = wide_[low];
    if (wide) return wide;
    graph_.insert_before(&reader);
    graph_.set_provenance(reader.provenance);
    return wide = add_cast(graph_, low, DType::f32);
  }

  Graph& graph_;
  std::unordered_set<const Value*> kept_;
  std::unordered_map<const Value*, int> shown_;  // values read late, by what they show
  std::unordered_map<const Value*, Value*> low_, wide_;
  NarrowedValues found_;
};

}  // namespace

NarrowedValues narrow_saved(Graph& graph) { return Narrower(graph).run(); }

}  // namespace graft
