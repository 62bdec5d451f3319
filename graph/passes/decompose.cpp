// Operators without a kernel become their function bodies: forward and gradient come free.
#include <algorithm>
#include <array>
#include <string_view>

#include "graph/passes/passes.h"
#include "ops/op.h"

namespace graft {
namespace {

// Bodies of ONNX's own operators that train well. Others do not: Softplus as Log(1 + Exp) overflows, Elu gives inf * 0,
// Relu as Max changes ties, ReduceL2 and LayerNormalization go through float32.
constexpr std::array allowed{
    std::string_view("AffineGrid"),
    std::string_view("Attention"),
    std::string_view("CastLike"),
    std::string_view("CenterCropPad"),
    std::string_view("GreaterOrEqual"),
    std::string_view("GroupNormalization"),
    std::string_view("LessOrEqual"),
    std::string_view("LogSoftmax"),
    std::string_view("MeanVarianceNormalization"),
    std::string_view("NegativeLogLikelihoodLoss"),
    std::string_view("PRelu"),
    std::string_view("ReduceL1"),
    std::string_view("ReduceLogSum"),
    std::string_view("ReduceSumSquare"),
    std::string_view("RMSNormalization"),
    std::string_view("RotaryEmbedding"),
    std::string_view("Shrink"),
    std::string_view("SoftmaxCrossEntropyLoss"),
    std::string_view("Softsign"),
    std::string_view("ThresholdedRelu"),
};

bool may_expand(const Node& node) {
  return !node.domain.empty() || std::find(allowed.begin(), allowed.end(), node.type) != allowed.end();
}

void expand_node(Graph& graph, Node* node, const Graph& body) {
  std::unordered_map<const Value*, Value*> mapping;
  for (size_t i = 0; i < body.inputs.size(); ++i) mapping[body.inputs[i]] = node->input(i);
  graph.insert_before(node);
  graph.set_provenance(node->provenance);
  std::vector<Value*> results = graph.inline_body(body, std::move(mapping));
  graph.insert_before(nullptr);
  for (size_t i = 0; i < node->outputs.size(); ++i) {
    Value* old_value = node->outputs[i];
    if (!old_value) continue;
    if (i >= results.size())
      throw ModelError(node->where(), " has ", node->outputs.size(), " outputs, its function body ", results.size());
    std::string name = old_value->name;
    graph.replace_uses(old_value, results[i]);
    if (!name.empty() && results[i]->name.empty()) {
      graph.rename(old_value, "");
      graph.rename(results[i], name);
    }
  }
  graph.erase(node);
}

// Expands what it can; true when anything was.
bool expand_all(Graph& graph, const Expander& expand) {
  bool any = false;
  for (Node* node : graph.node_list()) {
    if (find_kernel(*node) || !may_expand(*node) || !expand) continue;
    std::shared_ptr<Graph> body = expand(*node);
    if (!body) continue;
    expand_node(graph, node, *body);
    any = true;
  }
  return any;
}

void refuse_without_kernel(const Graph& graph) {
  std::vector<Blocker> missing;
  for (const auto& node : graph.nodes()) {
    if (find_kernel(*node)) continue;
    missing.push_back(
        node->blocker(cat("has neither a kernel for ", kernel_dtype(*node), " nor a function body that trains well")));
  }
  if (!missing.empty()) throw UnsupportedError::listing("cannot be computed", std::move(missing));
}

}  // namespace

void decompose(Graph& graph, const Expander& expand, const Evaluator& evaluate) {
  constexpr int deepest = 16;  // bodies may use operators that have bodies
  Provenance before = graph.provenance();
  for (int depth = 0; depth < deepest && expand_all(graph, expand); ++depth) specialise(graph, {}, evaluate);
  graph.set_provenance(before);
  refuse_without_kernel(graph);
}

}  // namespace graft
