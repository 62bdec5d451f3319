#include "graph/passes/copy_into_backward.h"

#include <algorithm>
#include <unordered_set>

#include "ops/op.h"

namespace graft {
namespace {

bool is_forward(const Node& node) { return node.provenance.direction == Direction::forward; }

class Copier {
 public:
  Copier(Graph& graph, const std::vector<bool>& chosen)
      : graph_(graph), nodes_(graph.node_list()), times_(times_of(graph)) {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (chosen[i]) chosen_.insert(nodes_[i]);
    }
    for (const State& state : graph.states) {
      if (!state.out) continue;
      new_states_.insert(state.out);
      if (state.in->kind == StateKind::statistic) gone_.insert(state.in);
    }
  }

  // Copy -> original.
  Origins run() {
    const Provenance before = graph_.provenance();
    for (size_t at = 0; at < nodes_.size(); ++at) {
      if (times_[at] != Time::late) continue;
      Node* node = nodes_[at];
      graph_.insert_before(node);
      for (size_t i = 0; i < node->inputs.size(); ++i) {
        Value* again = copy_of(node->inputs[i]);
        if (again != node->inputs[i]) graph_.set_input(node, i, again);
      }
    }
    graph_.insert_before(nullptr);
    graph_.set_provenance(before);
    for (auto& [original, copy] : copies_) drop_unread(copy);
    graph_.prune();
    graph_.sort();
    return std::move(origins_);
  }

 private:
  Value* copy_of(Value* value) {
    if (!value || !value->producer || !chosen_.count(value->producer) || value == shared_result(*value->producer))
      return value;
    auto known = copies_.find(value->producer);
    Node* copy = known != copies_.end() ? known->second : copy_node(*value->producer);
    return copy->outputs[static_cast<size_t>(value->index)];
  }

  // What others would go on with, and nobody does.
  void drop_unread(Node* copy) {
    for (size_t i = 0; i < copy->outputs.size(); ++i) {
      const Value* output = copy->outputs[i];
      if (output && output->opaque && output->users.empty()) graph_.drop_output(copy, i);
    }
  }

  // Statistics are updated once, and what they were is gone in backward. Those of the batch are found once, too.
  Node* copy_node(const Node& from) {
    std::vector<Value*> operands;
    Value* shared = shared_result(from);
    const int statistics = shared ? find_op(from)->statistics_slot : -1;
    for (size_t i = 0; i < from.inputs.size(); ++i) {
      const bool is_gone = gone_.count(from.inputs[i]) || static_cast<int>(i) == statistics;
      operands.push_back(is_gone ? nullptr : copy_of(from.inputs[i]));
    }
    if (shared) {
      const size_t slot = find_op(from)->shortcut(from)->slot;
      operands.resize(std::max(operands.size(), slot + 1));
      operands[slot] = shared;
    }
    graph_.set_provenance({from.provenance.source, Direction::backward});
    Node* node = graph_.add_node(from.domain, from.type, std::move(operands), from.outputs.size(), from.attributes);
    node->name = from.name;
    node->device = from.device;
    node->kernel = from.kernel;
    for (size_t i = 0; i < from.outputs.size(); ++i) {
      const Value* original = from.outputs[i];
      if (!original || original == shared || new_states_.count(original)) {
        graph_.drop_output(node, i);
        continue;
      }
      Value& result = *node->outputs[i];
      result.dtype = original->dtype;
      result.ranked = original->ranked;
      result.dims = original->dims;
      result.layout = original->layout;
      result.device = original->device;
      result.opaque = original->opaque;
      result.opaque_bytes = original->opaque_bytes;
    }
    origins_[node] = &from;
    return copies_[&from] = node;
  }

  Graph& graph_;
  std::vector<Node*> nodes_;
  std::vector<Time> times_;
  std::unordered_set<const Node*> chosen_;
  std::unordered_set<const Value*> new_states_, gone_;
  std::unordered_map<const Node*, Node*> copies_;
  Origins origins_;
};

}  // namespace

std::vector<Time> times_of(const Graph& graph) {
  std::unordered_set<const Value*> kept(graph.outputs.begin(), graph.outputs.end());
  for (const State& state : graph.states) kept.insert(state.out);
  const std::vector<Node*> nodes = graph.node_list();
  std::vector<Time> times(nodes.size(), Time::prologue);
  std::unordered_set<const Node*> early;
  auto is_backward = [](const Node* node) { return node->stage == Stage::step && !is_forward(*node); };
  const auto begin = std::find_if(nodes.begin(), nodes.end(), is_backward) - nodes.begin();
  auto serves_forward = [&](const Value* value) {
    return value && (kept.count(value) || std::any_of(value->users.begin(), value->users.end(),
                                                      [&](const Node* user) { return early.count(user) > 0; }));
  };
  for (size_t i = nodes.size(); i-- > 0;) {
    const Node& node = *nodes[i];
    if (node.stage != Stage::step) continue;
    bool is_early = is_forward(node) && (static_cast<std::ptrdiff_t>(i) < begin ||
                                         std::any_of(node.outputs.begin(), node.outputs.end(), serves_forward));
    times[i] = is_early ? Time::early : Time::late;
    if (is_early) early.insert(&node);
  }
  return times;
}

Value* shared_result(const Node& node) {
  const Op* op = find_op(node);
  auto shortcut = op && op->shortcut ? op->shortcut(node) : std::nullopt;
  return shortcut ? node.output(shortcut->result) : nullptr;
}

Origins copy_into_backward(Graph& graph, const std::vector<bool>& chosen) { return Copier(graph, chosen).run(); }

}  // namespace graft
