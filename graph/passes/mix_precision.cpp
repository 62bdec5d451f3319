// Values become bfloat16 where kernels work with that, Cast nodes stand wherever it meets float32. Behind
// differentiation: forward, backward and the gradients of weights, which stay float32, are told apart by their
// operators. States stay float32, and so do all that no operator asks to have otherwise: statistics, losses, what the
// graph gives.
#include <algorithm>

#include "graph/passes/add_cast.h"
#include "graph/passes/passes.h"
#include "ops/op.h"

namespace graft {
namespace {

class PrecisionMixer {
 public:
  explicit PrecisionMixer(Graph& graph) : graph_(graph) {
    for (const auto& node : graph.nodes()) {
      const Op* op = find_op(*node);
      bool eligible = node->provenance.direction != Direction::optimiser && node->device == Device::cpu;
      if (!eligible || !op || !op->mixed_precision) continue;
      if (auto how = op->mixed_precision(*node)) how_.emplace(node.get(), *how);
    }
  }

  MixedNodes run() {
    for (Node* node : graph_.node_list()) {
      auto how = how_.find(node);
      if (how == how_.end()) keep_wide(*node);
      else if (how->second.follows) follow(*node, how->second.mixes);
      else mix(*node, how->second);
    }
    graph_.insert_before(nullptr);
    for (Value*& output : graph_.outputs) output = named(output);
    for (auto& state : graph_.states) {
      if (state.out) state.out = as(state.out, DType::f32);
    }
    graph_.set_provenance({});
    return std::move(nodes_);
  }

 private:
  void mix(Node& node, const MixedPrecision& how) {
    for (size_t i = 0; i < node.inputs.size(); ++i) take(node, i, how.takes_low(i) ? DType::bf16 : DType::f32);
    bool gives = false;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      Value* y = node.outputs[i];
      if (!y || y->opaque || y->dtype != DType::f32 || !how.gives_low(i)) continue;
      if (!how.gives_either(i) || is_wanted_low(*y)) y->dtype = DType::bf16;
      gives = true;
    }
    if (gives || how.inputs != 0) ++nodes_.low;
  }

  void follow(Node& node, bool mixes) {
    bool low = std::any_of(node.inputs.begin(), node.inputs.end(),
                           [](const Value* x) { return x && !x->opaque && x->dtype == DType::bf16; });
    if (!low) return;
    for (size_t i = 0; i < node.inputs.size() && !mixes; ++i) take(node, i, DType::bf16);
    for (Value* y : node.outputs) {
      if (y && y->dtype == DType::f32 && (!mixes || is_wanted_low(*y))) y->dtype = DType::bf16;
    }
    ++nodes_.low;
  }

  void keep_wide(Node& node) {
    bool low = false;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const Value* x = node.inputs[i];
      low |= x && !x->opaque && x->dtype == DType::bf16;
      take(node, i, DType::f32);
    }
    if (low && node.provenance.direction != Direction::optimiser) ++nodes_.wide[node.type];
  }

  void take(Node& node, size_t i, DType dtype) {
    if (!node.inputs[i]) return;
    graph_.insert_before(&node);
    graph_.set_provenance(node.provenance);
    Value* wanted = as(node.inputs[i], dtype);
    if (wanted != node.inputs[i]) graph_.set_input(&node, i, wanted);
  }

  // The value, or its copy in another type, made where it is first wanted.
  Value* as(Value* value, DType dtype) {
    if (value->dtype == dtype || (value->dtype != DType::f32 && value->dtype != DType::bf16)) return value;
    Value*& copy = copies_[value];
    if (copy) return copy;
    if (value->producer) graph_.set_provenance(value->producer->provenance);  // else the reader's
    return copy = add_cast(graph_, value, dtype);
  }

  Value* named(Value* output) {
    Value* wide = as(output, DType::f32);
    if (wide == output) return output;
    std::string name = output->name;
    graph_.rename(output, "");
    graph_.rename(wide, name);
    return wide;
  }

  // Whether a kernel reads the value as bfloat16, perhaps behind nodes that do as their operands.
  bool is_wanted_low(const Value& value) {
    auto [known, fresh] = wanted_.emplace(&value, false);
    if (!fresh) return known->second;
    bool wanted = false;
    for (const Node* user : value.users) {
      auto how = how_.find(user);
      if (how == how_.end() || wanted) continue;
      if (how->second.follows) {
        wanted = std::any_of(user->outputs.begin(), user->outputs.end(),
                             [&](const Value* y) { return y && is_wanted_low(*y); });
        continue;
      }
      for (size_t i = 0; i < user->inputs.size(); ++i) wanted |= user->inputs[i] == &value && how->second.takes_low(i);
    }
    return wanted_[&value] = wanted;
  }

  Graph& graph_;
  std::unordered_map<const Node*, MixedPrecision> how_;
  std::unordered_map<const Value*, Value*> copies_;
  std::unordered_map<const Value*, bool> wanted_;
  MixedNodes nodes_;
};

}  // namespace

MixedNodes mix_precision(Graph& graph) { return has_bfloat16() ? PrecisionMixer(graph).run() : MixedNodes{}; }

}  // namespace graft
