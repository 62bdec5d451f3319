// Reverse-mode differentiation: rules give the gradients of one node, this engine does all the rest. It walks from the
// targets back, accumulates, prunes what no wanted value needs, and sums over broadcast axes.
#include <algorithm>
#include <unordered_set>

#include "graph/passes/passes.h"
#include "ops/gradient.h"

namespace graft {
namespace {

class Differentiator {
 public:
  Differentiator(Graph& graph, const std::vector<Value*>& wanted) : graph_(graph) {
    // Downstream of what is wanted: only these values carry gradients.
    carries_.insert(wanted.begin(), wanted.end());
    for (Node* node : graph.node_list()) {
      if (!passes_gradient(*node)) continue;
      for (Value* output : node->outputs) {
        if (output && is_float(output->dtype)) carries_.insert(output);
      }
    }
  }

  void seed(Value* target, Value* gradient) {
    if (gradient->dims != target->dims || gradient->dtype != target->dtype) {
      throw UsageError("the seed of \"", target->name, "\" must be ", target->dtype, target->dims, ", got ",
                       gradient->dtype, gradient->dims);
    }
    add(target, Val(graph_, gradient));
  }

  void run() {
    std::vector<Node*> order = graph_.node_list();
    refuse_unsupported(order);
    for (auto node = order.rbegin(); node != order.rend(); ++node) visit(**node);
  }

  Value* gradient_of(Value* value) {
    auto found = gradients_.find(value);
    return found == gradients_.end() ? nullptr : total(found->second).value();
  }

 private:
  // Whether any input carries a gradient that this node could hand on.
  bool passes_gradient(const Node& node) const {
    const Op* op = find_op(node);
    if (op && op->gradient == GradientStatus::zero) return false;
    return std::any_of(node.inputs.begin(), node.inputs.end(), [&](Value* v) { return v && carries_.count(v); });
  }

  // All operators on the way from a target to a wanted value that have no rule, at once.
  void refuse_unsupported(const std::vector<Node*>& order) const {
    std::unordered_set<const Value*> reached;
    for (const auto& entry : gradients_) reached.insert(entry.first);
    std::vector<Blocker> missing;
    for (auto node = order.rbegin(); node != order.rend(); ++node) {
      bool on_the_way = passes_gradient(**node) && std::any_of((*node)->outputs.begin(), (*node)->outputs.end(),
                                                               [&](const Value* v) { return v && reached.count(v); });
      if (!on_the_way) continue;
      const Op* op = find_op(**node);
      if (!op || op->gradient == GradientStatus::unsupported) missing.push_back((*node)->blocker("has no gradient"));
      for (const Value* input : (*node)->inputs) {
        if (input && carries_.count(input)) reached.insert(input);
      }
    }
    if (missing.empty()) return;
    std::reverse(missing.begin(), missing.end());
    throw UnsupportedError::listing("lie between the loss and what is trained (freeze what stands before them)",
                                    std::move(missing));
  }

  void visit(Node& node) {
    if (!passes_gradient(node)) return;
    std::vector<Value*> output_gradients;
    bool any = false;
    for (Value* output : node.outputs) {
      auto found = output ? gradients_.find(output) : gradients_.end();
      output_gradients.push_back(found == gradients_.end() ? nullptr : total(found->second).value());
      any = any || output_gradients.back();
    }
    if (!any) return;
    std::vector<bool> needs;
    for (Value* input : node.inputs) needs.push_back(input && carries_.count(input));
    const Op* op = find_op(node);
    graph_.set_provenance({node.provenance.source, Direction::backward});
    Gradient gradient(graph_, node, std::move(output_gradients), needs);
    Vals results = op->differentiate(gradient);
    for (size_t i = 0; i < results.size() && i < node.inputs.size(); ++i) {
      if (!results[i] || !needs[i]) continue;
      Value* input = node.inputs[i];
      Val result = op->broadcasts ? unbroadcast(results[i], input->dims) : results[i];
      if (result.dims() != input->dims || result.dtype() != input->dtype) {
        throw ModelError(node.where(), " the gradient of input ", i, " is ", result.dtype(), result.dims(),
                         ", the input ", input->dtype, input->dims);
      }
      add(input, result);
    }
  }

  void add(Value* value, const Val& gradient) { gradients_[value].push_back(gradient); }

  // Sums the parts once; the sum stands for them from then on.
  static Val total(std::vector<Val>& parts) {
    Val sum = parts[0];
    for (size_t i = 1; i < parts.size(); ++i) sum = sum + parts[i];
    parts = {sum};
    return sum;
  }

  Graph& graph_;
  std::unordered_set<const Value*> carries_;
  std::unordered_map<const Value*, std::vector<Val>> gradients_;
};

}  // namespace

std::vector<Value*> differentiate(Graph& graph, const std::vector<Value*>& targets, const std::vector<Value*>& seeds,
                                  const std::vector<Value*>& wanted) {
  if (targets.size() != seeds.size())
    throw UsageError("differentiate wants one seed for each target, got ", seeds.size(), " for ", targets.size());
  Provenance before = graph.provenance();
  graph.insert_before(nullptr);
  Differentiator engine(graph, wanted);
  for (size_t i = 0; i < targets.size(); ++i) engine.seed(targets[i], seeds[i]);
  engine.run();
  std::vector<Value*> gradients;
  for (Value* value : wanted) gradients.push_back(engine.gradient_of(value));
  graph.set_provenance(before);
  return gradients;
}

}  // namespace graft
