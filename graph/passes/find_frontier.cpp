// Where the part of a training graph ends that gives a sample the same values in every epoch.
#include <algorithm>
#include <unordered_set>

#include "graph/captures.h"
#include "graph/passes/dropout.h"
#include "graph/passes/passes.h"

namespace graft {
namespace {

class Finder {
 public:
  Finder(const Graph& graph, const std::set<std::string>& trained) : graph_(graph) {
    for (const auto& state : graph.states) {
      if (state.out || trained.count(state.in->name)) changing_states_.insert(state.in);
    }
  }

  Frontier find(const std::function<bool(const Value&)>& can_cut) {
    Frontier frontier = walk();
    // What no cut can go through is computed anew in every step, and the cut goes through its operands.
    for (bool moved = true; moved; frontier = walk()) {
      moved = false;
      for (const Value* value : frontier.values) {
        if (value->producer && !can_cut(*value)) moved = anew_.insert(value->producer).second || moved;
      }
    }
    return frontier;
  }

 private:
  Frontier walk() const {
    std::unordered_set<const Value*> changing = changing_states_;
    std::unordered_set<const Value*> of_sample(graph_.inputs.begin(), graph_.inputs.end());
    std::unordered_set<const Value*> listed;
    Frontier frontier;
    for (const auto& node : graph_.nodes()) {
      auto any_input = [&](const std::unordered_set<const Value*>& set) {
        return std::any_of(node->inputs.begin(), node->inputs.end(),
                           [&](const Value* v) { return v && set.count(v) > 0; });
      };
      bool bodies = has_bodies(*node);  // they may hold anything
      bool changes = any_input(changing) || bodies || is_random(*node) || anew_.count(node.get());
      if (bodies || any_input(of_sample)) of_sample.insert(node->outputs.begin(), node->outputs.end());
      if (!changes) continue;
      changing.insert(node->outputs.begin(), node->outputs.end());
      std::vector<Value*> read = node->inputs;
      for (Value* value : captured_values(*node)) read.push_back(value);
      for (Value* value : read) {
        if (!value || changing.count(value) || !of_sample.count(value)) continue;
        if (!frontier.first) frontier.first = node.get();
        if (listed.insert(value).second) frontier.values.push_back(value);
      }
    }
    return frontier;
  }

  const Graph& graph_;
  std::unordered_set<const Value*> changing_states_;
  std::unordered_set<const Node*> anew_;
};

}  // namespace

Frontier find_frontier(const Graph& graph, const std::set<std::string>& trained,
                       const std::function<bool(const Value&)>& can_cut) {
  return Finder(graph, trained).find(can_cut);
}

void cut_at(Graph& graph, const std::vector<Value*>& values) {
  std::vector<Value*> inputs;
  for (Value* value : values) {
    if (value->role == Role::input) {
      inputs.push_back(value);
      continue;
    }
    std::string name = value->name;
    graph.rename(value, "");
    Value* input = graph.add_input(name, value->dtype, value->dims);
    graph.replace_uses(value, input);
    inputs.push_back(input);
  }
  graph.inputs = inputs;
  graph.prune();
}

}  // namespace graft
