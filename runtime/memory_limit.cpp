#include "runtime/memory_limit.h"

#include <algorithm>
#include <unordered_set>

#include "graph/flops.h"

namespace graft {

namespace {

int64_t planned_peak(const Graph& graph) { return plan_memory(graph, settle(graph)).peak_bytes(); }

int64_t most_bytes(const MemoryOptions& options) { return options.limit > 0 ? options.limit : physical_memory(); }

Recomputed compute_again(Graph& graph, const MemoryOptions& options) {
  const Settlements settlements = settle(graph);
  const int64_t peak = plan_memory(graph, settlements).peak_bytes();
  const Recomputed kept{.peak_before = peak, .peak_after = peak, .flops = flops(graph)};
  if (options.recompute == Recompute::none) return kept;
  auto plan = [&](const Graph& trial, const Origins& origins) {
    Settlements copies;
    for (const auto& node : trial.nodes()) copies.emplace(node.get(), settlements.at(origins.at(node.get())));
    MemoryPlan planned = plan_memory(trial, copies);
    PlannedBytes bytes{planned.peak_bytes(), std::move(planned.in_use)};
    for (int64_t& some : bytes.in_use) some += bytes.peak - planned.arena_bytes;
    return bytes;
  };
  if (options.recompute == Recompute::all) return recompute(graph, settlements, {}, plan);
  RecomputeGoal goal{.limit = most_bytes(options)};
  // Less than this matters to nobody; more may be what keeps a larger batch from fitting.
  constexpr int64_t much = int64_t{512} << 20;
  constexpr double next_to_nothing = 0.015;
  if (peak > much) goal.share = next_to_nothing;
  else if (peak <= goal.limit) return kept;
  return recompute(graph, settlements, goal, plan);
}

}  // namespace

bool put_on_disk(Graph& graph) {
  std::unordered_map<const Value*, const Value*> next;
  for (const auto& state : graph.states) next[state.in] = state.out;
  const std::unordered_set<const Value*> outputs(graph.outputs.begin(), graph.outputs.end());
  bool any = false;
  for (const auto& node : graph.nodes()) {
    const Op* op = find_op(*node);
    if (!op || op->disk_slots.empty() || node->device != Device::cpu) continue;
    auto is_its_own = [&](int slot) {
      const Value* in = node->input(static_cast<size_t>(slot));
      if (!in || !in->is_state() || in->users.size() != 1 || outputs.contains(in)) return false;
      const Value* out = next.at(in);
      return out && out->producer == node.get() && out->users.empty() && out->layout == in->layout &&
             !outputs.contains(out);
    };
    if (!std::all_of(op->disk_slots.begin(), op->disk_slots.end(), is_its_own)) continue;
    for (int slot : op->disk_slots) node->inputs[static_cast<size_t>(slot)]->on_disk = true;
    any = true;
  }
  return any;
}

Recomputed fit_memory(Graph& graph, const MemoryOptions& options) {
  if (options.optimiser == OptimiserState::disk) {
    const int64_t peak = planned_peak(graph);
    put_on_disk(graph);
    Recomputed found = compute_again(graph, options);
    found.peak_before = peak;
    return found;
  }
  Recomputed found = compute_again(graph, options);
  const bool stays = options.optimiser == OptimiserState::memory || found.peak_after <= most_bytes(options);
  if (stays || !put_on_disk(graph)) return found;
  if (options.recompute == Recompute::all) {
    found.peak_after = planned_peak(graph);  // what can be computed again, the graph does already
    return found;
  }
  const int64_t peak = found.peak_before;
  found = compute_again(graph, options);
  found.peak_before = peak;
  return found;
}

void fit_beside(Graph& apply, const MemoryOptions& options, int64_t taken) {
  if (options.optimiser == OptimiserState::memory) return;
  for (const auto& state : apply.states) {
    if (state.in->kind == StateKind::moment) taken = checked_add(taken, byte_count(state.in->dtype, state.in->dims));
  }
  if (options.optimiser == OptimiserState::disk || taken > most_bytes(options)) put_on_disk(apply);
}

int64_t largest_batch(int64_t too_many, const std::function<bool(int64_t batch)>& fits) {
  int64_t most = 0;
  while (most + 1 < too_many) {
    int64_t middle = most + (too_many - most) / 2;
    (fits(middle) ? most : too_many) = middle;
  }
  return most;
}

}  // namespace graft
