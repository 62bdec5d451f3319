#include "graph/logits.h"

#include <algorithm>

namespace graft {
namespace {

bool is(const Node* node, std::string_view type) { return node && node->domain.empty() && node->type == type; }

Value* past_identity(Value* value) {
  while (is(value->producer, "Identity")) value = value->producer->inputs[0];
  return value;
}

// Whether `value` is the reduction `type` of `of`, brought back to its shape. Sets the axis reduced.
bool is_reduction(const Value* value, std::string_view type, const Value* of, std::optional<int64_t>& axis) {
  constexpr int longest = 8;
  for (int steps = 0; steps < longest && value && value->producer; ++steps) {
    const Node* node = value->producer;
    if (is(node, type)) {
      const Value* axes = node->input(1);
      if (node->inputs[0] != of || !axes || !axes->is_constant() || axes->data.count() != 1) return false;
      axis = axes->data.to_int64()[0];
      return true;
    }
    bool passes = is(node, "Reshape") || is(node, "Expand") || is(node, "Unsqueeze") || is(node, "Identity");
    if (is(node, "Max") && node->inputs.size() == 2) {  // max(x) is kept from being -inf
      value = node->inputs[0]->is_constant() ? node->inputs[1] : node->inputs[0];
    } else if (passes) {
      value = node->inputs[0];
    } else {
      return false;
    }
  }
  return false;
}

std::optional<Logits> spelled_softmax(Value* value) {
  const Node* quotient = value->producer;
  if (!is(quotient, "Div")) return std::nullopt;
  Value* exponential = quotient->inputs[0];
  if (!is(exponential->producer, "Exp")) return std::nullopt;
  const Node* difference = exponential->producer->inputs[0]->producer;
  if (!is(difference, "Sub")) return std::nullopt;
  std::optional<int64_t> summed, greatest;
  Value* x = difference->inputs[0];
  bool fits = is_reduction(quotient->inputs[1], "ReduceSum", exponential, summed) &&
              is_reduction(difference->inputs[1], "ReduceMax", x, greatest) && summed == greatest;
  if (!fits) return std::nullopt;
  return Logits{x, LastActivation::softmax, *summed};
}

}  // namespace

Logits logits_of(Value* output) {
  Value* value = past_identity(output);
  const Node* node = value->producer;
  if (is(node, "Softmax")) return {node->inputs[0], LastActivation::softmax, node->integer("axis", -1)};
  if (is(node, "LogSoftmax")) return {node->inputs[0], LastActivation::log_softmax, node->integer("axis", -1)};
  if (is(node, "Sigmoid")) return {node->inputs[0], LastActivation::sigmoid, -1};
  if (auto spelled = spelled_softmax(value)) return *spelled;
  return {output, LastActivation::none, -1};
}

}  // namespace graft
