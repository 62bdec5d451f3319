// A depthwise convolution between two live BatchNormalizations becomes one node with them: all three work channel by
// channel, so that what lies between them need not be kept.
#include <unordered_set>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"
#include "ops/op.h"

namespace graft {
namespace {

class Joiner {
 public:
  explicit Joiner(Graph& graph) : graph_(graph), kept_(pattern::kept_values(graph)) {}

  bool join(Node* conv) {
    if (!is_depthwise(*conv)) return false;
    Node* before = normalization(conv->inputs[0]->producer);
    if (!before || !is_only_for(before->outputs[0], conv)) return false;
    Value* z = conv->outputs[0];
    Node* after = z->users.size() == 1 ? normalization(z->users[0]) : nullptr;
    if (!after || after->inputs[0] != z || !is_only_for(z, after)) return false;
    if (before->inputs[0]->dtype != z->dtype) return false;
    replace(before, conv, after);
    return true;
  }

 private:
  // On images, with one filter for each channel, no bias, and a window that the kernel has room for.
  static bool is_depthwise(const Node& node) {
    constexpr int64_t most_taps = 128;
    const Value& x = *node.inputs[0];
    const Dims& w = node.inputs[1]->dims;
    return x.dims.size() == 4 && w.size() == 4 && w[0] == x.dims[1] && w[1] == 1 && w[2] * w[3] <= most_taps &&
           node.integer("group", 1) == x.dims[1] && !node.input(2) && x.count() > 0 && node.outputs[0]->count() > 0 &&
           (x.dtype == DType::f32 || x.dtype == DType::f64);
  }

  // The node, if it is a live normalisation without a residual.
  static Node* normalization(Node* node) {
    constexpr size_t residual = 5;
    if (!node) return nullptr;
    bool is_one = (node->domain.empty() && node->type == "BatchNormalization") ||
                  (node->domain == "graft" && node->type == "BatchNormalizationActivation");
    return is_one && node->integer("training_mode", 0) != 0 && !node->input(residual) ? node : nullptr;
  }

  bool is_only_for(const Value* value, const Node* user) const {
    return value->users.size() == 1 && value->users[0] == user && !kept_.count(value);
  }

  void replace(Node* before, Node* conv, Node* after) {
    graph_.insert_before(after);
    graph_.set_provenance(conv->provenance);
    std::vector<Value*> operands = before->inputs;
    operands.push_back(conv->inputs[1]);
    operands.insert(operands.end(), after->inputs.begin() + 1, after->inputs.end());
    Attributes attributes = conv->attributes;
    for (auto [node, prefix] : {std::pair{before, "first_"}, {after, "second_"}}) {
      for (const char* name : {"activation", "min", "max", "epsilon", "momentum"}) {
        if (node->has(name)) attributes[cat(prefix, name)] = node->attributes.at(name);
      }
    }
    Node* node = graph_.add_node("graft", "DepthwiseNormalization", operands, 5, attributes);
    node->name = conv->name;
    infer(*node);
    Value* y = after->outputs[0];
    for (size_t i : {1, 2}) {
      pattern::take_over(graph_, before->output(i), node, i);
      pattern::take_over(graph_, after->output(i), node, 2 + i);
    }
    pattern::replace(graph_, y, node->outputs[0]);
  }

  Graph& graph_;
  std::unordered_set<const Value*> kept_;
};

}  // namespace

int join_depthwise(Graph& graph) {
  Joiner joiner(graph);
  return pattern::join_each(graph, "Conv", [&](Node* node) { return joiner.join(node); });
}

}  // namespace graft
