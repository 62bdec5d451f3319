// Tells weights and statistics from other constants by where they are used: in a slot of an operator that holds
// weights, or added to or multiplied with what such an operator gives. Before folding, so that folding cannot swallow
// them.
#include <algorithm>
#include <string_view>
#include <unordered_set>

#include "graph/passes/passes.h"
#include "ops/op.h"

namespace graft {
namespace {

bool is_any(const Node& node, std::initializer_list<std::string_view> types) {
  return node.domain.empty() && std::find(types.begin(), types.end(), node.type) != types.end();
}

// Operators that hand on their first input's elements.
bool is_view(const Node& node) {
  return is_any(node, {"Identity", "Reshape", "Transpose", "Cast", "DequantizeLinear", "Squeeze", "Unsqueeze",
                       "Flatten", "Slice", "Expand", "Dropout"});
}

const Value* behind_views(const Value* value) {
  while (value && value->producer && is_view(*value->producer)) value = value->producer->input(0);
  return value;
}

bool is_float_constant(const Value* value) {
  return value && value->is_constant() && is_float(value->dtype) && value->data.defined() && !value->name.empty();
}

// Masks of attention: 0 where seen, hugely negative where not; and 0/1 factors.
bool is_mask(const Value& constant, bool factor) {
  constexpr double hidden = -1e4;
  Tensor wide = constant.data.cast(DType::f64);
  bool zero = false;
  bool other = false;
  for (double x : wide.values<double>()) {
    bool marked = factor ? x == 1 : x <= hidden;
    if (x != 0 && !marked) return false;
    zero = zero || x == 0;
    other = other || marked;
  }
  return other && (zero || !factor);
}

class Classifier {
 public:
  explicit Classifier(Graph& graph) : graph_(graph) {}

  std::map<std::string, Tensor> run() {
    for (const auto& node : graph_.nodes()) visit(*node);
    std::map<std::string, Tensor> data;
    for (auto& [constant, kind] : found_) {
      data[constant->name] = constant->data;
      graph_.make_state(constant, kind);
    }
    return data;
  }

 private:
  void visit(const Node& node) {
    bool holds_weights = take_slots(node);
    if (is_arithmetic(node)) take_operands(node);
    if (is_any(node, {"Concat"}) && is_scaled_any(node)) {
      for (const Value* input : node.inputs) take_token(input);
    }
    if (holds_weights || is_normalisation(node)) mark(scaled_, node);
    if (is_normalised(node)) mark(normalised_, node);
    if (hands_on(node)) mark(scaled_, node);
  }

  // Operands of these are weights in some places only.
  static bool is_arithmetic(const Node& node) { return is_any(node, {"Add", "Sub", "Mul"}); }

  // Constants in the slots that Op names. A Gather reads weights only from a table of rows.
  bool take_slots(const Node& node) {
    if (is_any(node, {"Gather"})) {
      const Value* table = behind_views(node.input(0));
      return table && table->dims.size() >= 2 && take(table, StateKind::parameter);
    }
    const Op* op = find_op(node);
    if (!op || is_arithmetic(node)) return false;
    bool any = false;
    for (int slot : op->parameter_slots) {
      any |= take(behind_views(node.input(static_cast<size_t>(slot))), StateKind::parameter);
    }
    for (int slot : op->statistic_slots) {
      take(behind_views(node.input(static_cast<size_t>(slot))), StateKind::statistic);
    }
    return any;
  }

  // Biases, scales and position embeddings: operands of rank >= 1 beside a value that weights have made.
  void take_operands(const Node& node) {
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const Value* source = behind_views(node.inputs[i]);
      const Value* other = node.input(1 - i);
      if (!is_float_constant(source) || source->dims.empty() || !is_scaled(other)) continue;
      bool several = source->data.count() > 1;
      if (!several && !follows_single_channel(other)) continue;
      if (!is_mask(*source, node.type == "Mul")) add(source, StateKind::parameter);
    }
  }

  // A learned token beside the tokens of the data.
  void take_token(const Value* input) {
    const Value* source = behind_views(input);
    if (!is_float_constant(source) || source->dims.size() < 2 || source->data.count() < 2) return;
    Tensor wide = source->data.cast(DType::f64);
    auto values = wide.values<double>();
    bool uniform = std::all_of(values.begin(), values.end(), [&](double x) { return x == values[0]; });
    if (!uniform) add(source, StateKind::parameter);
  }

  // One element is a bias, and not some epsilon, behind a MatMul or Conv with one output channel.
  static bool follows_single_channel(const Value* value) {
    value = behind_views(value);
    const Node* node = value ? value->producer : nullptr;
    const Value* w = node ? behind_views(node->input(1)) : nullptr;
    if (!w || w->dims.size() < 2) return false;
    if (is_any(*node, {"MatMul"}))
      return node->inputs[1]->ranked ? node->inputs[1]->dims.back() == 1 : w->dims.back() == 1;
    return is_any(*node, {"Conv"}) && w->dims[0] == 1;
  }

  static bool is_normalisation(const Node& node) {
    return is_any(node, {"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization",
                         "RMSNormalization", "LpNormalization", "MeanVarianceNormalization"});
  }

  // 1/sigma or (x - mean)/sigma spelled out, and what is multiplied with it.
  bool is_normalised(const Node& node) const {
    if (is_any(node, {"Reciprocal"})) return is_deviation(node.input(0));
    if (is_any(node, {"Pow"})) return has_exponent(node, -0.5) && comes_from_reduction(node.input(0));
    if (is_any(node, {"Div"}) && is_deviation(node.input(1))) return true;
    if (is_any(node, {"Mul"})) return normalised_.count(node.input(0)) || normalised_.count(node.input(1));
    return is_view(node) && normalised_.count(node.input(0));
  }

  static bool has_exponent(const Node& pow, double wanted) {
    const Value* exponent = behind_views(pow.input(1));
    return is_float_constant(exponent) && exponent->data.count() == 1 &&
           exponent->data.cast(DType::f64).data<double>()[0] == wanted;
  }

  static bool is_deviation(const Value* value) {
    value = behind_views(value);
    const Node* node = value ? value->producer : nullptr;
    if (!node) return false;
    bool root = is_any(*node, {"Sqrt"}) || (is_any(*node, {"Pow"}) && has_exponent(*node, 0.5));
    return root && comes_from_reduction(node->input(0));
  }

  // sqrt(variance), unlike sqrt(d): a mean or a sum is a few element-wise steps before.
  static bool comes_from_reduction(const Value* value) {
    constexpr size_t farthest = 64;
    std::vector<const Value*> pending{value};
    std::unordered_set<const Node*> seen;
    for (size_t i = 0; i < pending.size() && i < farthest; ++i) {
      const Node* node = pending[i] ? pending[i]->producer : nullptr;
      if (!node || !seen.insert(node).second) continue;
      if (is_any(*node, {"ReduceMean", "ReduceSum", "ReduceSumSquare", "GlobalAveragePool"})) return true;
      bool passes = is_view(*node) || is_any(*node, {"Add", "Sub", "Mul", "Div", "Max", "Clip", "Relu"});
      if (passes) pending.insert(pending.end(), node->inputs.begin(), node->inputs.end());
    }
    return false;
  }

  // Whether a node's result is still what weights have made, up to a shift, a scale or a view.
  bool hands_on(const Node& node) const {
    if (is_view(node)) return is_scaled(node.input(0));
    if (is_any(node, {"Add", "Sub", "Concat"})) return is_scaled_any(node);
    if (!is_any(node, {"Mul", "Div"})) return false;
    for (size_t i = 0; i < 2; ++i) {
      const Value* factor = behind_views(node.input(1 - i));
      if (is_scaled(node.input(i)) && factor && factor->role != Role::result) return true;
    }
    return false;
  }

  bool is_scaled(const Value* value) const { return value && (scaled_.count(value) || normalised_.count(value)); }
  bool is_scaled_any(const Node& node) const {
    return std::any_of(node.inputs.begin(), node.inputs.end(), [&](const Value* v) { return is_scaled(v); });
  }

  static void mark(std::unordered_set<const Value*>& set, const Node& node) {
    if (!node.outputs.empty() && node.outputs[0]) set.insert(node.outputs[0]);
  }

  bool take(const Value* source, StateKind kind) {
    if (!is_float_constant(source)) return false;
    add(source, kind);
    return true;
  }

  void add(const Value* constant, StateKind kind) {
    Value* own = graph_.find(constant->name);
    if (own == constant && known_.insert(constant).second) found_.emplace_back(own, kind);
  }

  Graph& graph_;
  std::vector<std::pair<Value*, StateKind>> found_;  // in the order of use
  std::unordered_set<const Value*> known_;
  std::unordered_set<const Value*> scaled_;      // made by weights
  std::unordered_set<const Value*> normalised_;  // divided by a standard deviation
};

}  // namespace

std::map<std::string, Tensor> classify(Graph& graph) { return Classifier(graph).run(); }

}  // namespace graft
