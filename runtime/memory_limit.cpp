#include "runtime/memory_limit.h"

#include "graph/flops.h"

namespace graft {

Recomputed fit_memory(Graph& graph, const MemoryOptions& options) {
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
  RecomputeGoal goal{.limit = options.limit > 0 ? options.limit : physical_memory()};
  // Less than this matters to nobody; more may be what keeps a larger batch from fitting.
  constexpr int64_t much = int64_t{512} << 20;
  constexpr double next_to_nothing = 0.015;
  if (peak > much) goal.share = next_to_nothing;
  else if (peak <= goal.limit) return kept;
  return recompute(graph, settlements, goal, plan);
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
