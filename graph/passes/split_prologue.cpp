// Tells constants from variables: what depends on constants and unwritten states only runs once, when states are bound.
#include <algorithm>
#include <unordered_set>

#include "graph/passes/passes.h"

namespace graft {

void split_prologue(Graph& graph) {
  std::unordered_set<const Value*> written;
  for (const auto& state : graph.states) {
    if (state.out) written.insert(state.in);
  }
  auto known = [&](const Value* value) {
    if (!value || value->is_constant()) return true;
    if (value->is_state()) return written.count(value) == 0;
    return value->producer && value->producer->stage == Stage::prologue;
  };
  std::unordered_set<const Value*> kept;
  for (const auto& state : graph.states) kept.insert(state.out);
  for (const auto& node : graph.nodes()) {
    bool writes_state =
        std::any_of(node->outputs.begin(), node->outputs.end(), [&](const Value* v) { return v && kept.count(v); });
    bool all_known = std::all_of(node->inputs.begin(), node->inputs.end(), known);
    node->stage = all_known && !writes_state ? Stage::prologue : Stage::step;
  }
}

}  // namespace graft
