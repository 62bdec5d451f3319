// A parameter is updated as soon as its gradient is there and nothing reads the parameter any more: the gradient comes
// from the cache, and its memory is free for the next one.
#include "graph/passes/passes.h"

namespace graft {

void release_gradients(Graph& graph) {
  graph.sort([](const Node& node) { return node.provenance.direction == Direction::optimiser; });
}

}  // namespace graft
