#include "runtime/memory_limit.h"

#include "graph/flops.h"

namespace graft {

Recomputed fit_memory(Graph& graph, const MemoryOptions& options) {
  const Settlements settlements = settle(graph);
  if (options.recompute == Recompute::none) {
    int64_t peak = plan_memory(graph, settlements).peak_bytes();
    return {.peak_before = peak, .peak_after = peak, .flops = flops(graph)};
  }
  auto plan = [&](const Graph& trial, const Origins& origins) {
    Settlements copies;
    for (const auto& node : trial.nodes()) copies.emplace(node.get(), settlements.at(origins.at(node.get())));
    MemoryPlan planned = plan_memory(trial, copies);
    PlannedBytes bytes{planned.peak_bytes(), std::move(planned.in_use)};
    for (int64_t& some : bytes.in_use) some += bytes.peak - planned.arena_bytes;
    return bytes;
  };
  const bool smallest = options.recompute == Recompute::all;
  const int64_t limit = options.limit > 0 ? options.limit : physical_memory();
  return recompute(graph, settlements, smallest ? 0 : limit, plan);
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
