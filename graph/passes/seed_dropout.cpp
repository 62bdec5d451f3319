// Gives Dropout nodes in training mode their random numbers: a seed, a key of their own, and a step that counts runs.
#include "graph/passes/dropout.h"
#include "graph/passes/passes.h"
#include "ops/build.h"

namespace graft {
namespace {

constexpr const char* step_name = "random/step";

bool is_on(const Node& node) {
  const Value* mode = node.input(2);
  if (!mode) return false;
  if (!mode->is_constant()) throw UnsupportedError(node.where(), " has a training_mode that depends on the data");
  return mode->data.cast(DType::boolean).data<bool>()[0];
}

double ratio_of(const Node& node) {
  const Value* ratio = node.input(1);
  if (!ratio) return 0.5;
  if (!ratio->is_constant() || ratio->data.count() != 1) {
    throw UnsupportedError(node.where(), " has a ratio that depends on the data");
  }
  return ratio->data.cast(DType::f64).data<double>()[0];
}

// The step of this run: 1 for the first one.
Value* step_of(Graph& graph) {
  Value* counter = graph.add_state(step_name, StateKind::counter, DType::i64, {});
  Val step = call("graft", "Increment", {{graph, counter}}, 1)[0];
  graph.bind_state(counter, step.value());
  return step.value();
}

}  // namespace

void seed_dropout(Graph& graph, uint64_t seed) {
  Value* step = nullptr;
  for (Node* node : graph.node_list()) {
    if (!node->domain.empty() || node->type != "Dropout" || !is_on(*node)) continue;
    double ratio = ratio_of(*node);
    // Exporters leave nodes of ratio 0 behind: nothing is dropped there, and nothing need be drawn.
    if (ratio == 0 && !is_mask_read(graph, *node)) {
      make_identity(graph, node);
      continue;
    }
    // The order of nodes, and so of the counter, does not matter: names tell the masks apart.
    Value* first = node->output(0) ? node->output(0) : node->output(1);
    std::string key = first && !first->name.empty() ? first->name : node->provenance.source;
    if (!step) {
      graph.insert_before(graph.nodes().front().get());
      step = step_of(graph);
    }
    graph.insert_before(nullptr);
    for (size_t i = 1; i < node->inputs.size(); ++i) graph.set_input(node, i, nullptr);
    node->inputs.resize(1);
    graph.set_input(node, 1, step);
    node->domain = "graft";
    node->attributes = {{"ratio", ratio}, {"seed", static_cast<int64_t>(seed)}, {"key", key}};
  }
}

}  // namespace graft
