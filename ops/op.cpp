#include "ops/op.h"

#include <unordered_map>

#include "graph/schema.h"
#include "ops/gradient.h"

namespace graft {

#define GRAFT_STEM(stem) std::vector<Op> stem##_ops();
#include "ops/op_list.h"
#undef GRAFT_STEM

namespace {

using Registry = std::unordered_map<std::string, Op>;

std::string key_of(const std::string& domain, const std::string& type) { return domain + "." + type; }

Registry make_registry() {
  std::vector<std::vector<Op>> stems = {
#define GRAFT_STEM(stem) stem##_ops(),
#include "ops/op_list.h"
#undef GRAFT_STEM
  };
  Registry registry;
  for (auto& stem : stems) {
    for (auto& op : stem) {
      if (op.differentiate) op.gradient = GradientStatus::rule;
      std::string key = key_of(op.domain, op.type);
      if (!registry.emplace(key, std::move(op)).second) throw UsageError("operator ", key, " is listed twice");
    }
  }
  return registry;
}

const Registry& registry() {
  static const Registry ops = make_registry();
  return ops;
}

}  // namespace

const Op* find_op(const std::string& domain, const std::string& type) {
  auto found = registry().find(key_of(domain, type));
  return found == registry().end() ? nullptr : &found->second;
}

std::vector<const Op*> all_ops() {
  std::vector<const Op*> ops;
  for (const auto& entry : registry()) ops.push_back(&entry.second);
  return ops;
}

DType kernel_dtype(const Node& node) {
  DType found = DType::undefined;
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (const Value* value : *operands) {
      if (!value || !is_float(value->dtype)) continue;
      if (value->dtype == DType::bf16) return DType::bf16;
      if (found == DType::undefined) found = value->dtype;
    }
  }
  if (found != DType::undefined) return found;
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (const Value* value : *operands) {
      if (value) return value->dtype;
    }
  }
  return DType::undefined;
}

namespace {

bool is_mixed_as_wanted(const Node& node, const Op& op) {
  auto mixed = op.mixed_precision(node);
  if (!mixed) return false;
  if (mixed->follows) return true;
  auto fits = [](const Value* value, bool low, bool either) {
    if (!value || value->opaque || !is_float(value->dtype)) return true;
    if (either && value->dtype == DType::f32) return true;
    return value->dtype == (low ? DType::bf16 : DType::f32);
  };
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (!fits(node.inputs[i], mixed->takes_low(i), false)) return false;
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (!fits(node.outputs[i], mixed->gives_low(i), mixed->gives_either(i))) return false;
  }
  return true;
}

}  // namespace

const KernelFunctions* find_kernel(const Node& node) {
  const Op* op = find_op(node);
  if (!op) return nullptr;
  DType dtype = kernel_dtype(node);
  if (dtype == DType::bf16 && op->mixed_precision && !is_mixed_as_wanted(node, *op)) return nullptr;
  for (const auto& entry : node.device == Device::cpu ? op->cpu : op->cuda) {
    if (contains(entry.dtypes, dtype)) return &entry.functions;
  }
  return nullptr;
}

std::optional<MixedPrecision> moves_elements(const Node&) { return MixedPrecision{.follows = true}; }

void infer(Node& node) {
  const Op* op = find_op(node);
  if (op && op->infer) return op->infer(node);
  if (!schema::known(node.domain, node.type)) {
    throw UnsupportedError(node.where(), " is not an operator of ONNX opset ", internal_opset,
                           " and has no function body");
  }
  schema::infer(node);
}

void check_workspace(const Node& node, size_t input, int64_t bytes) {
  const Value* value = node.input(input);
  if (!value || (value->opaque && value->opaque_bytes == bytes)) return;
  throw ModelError(node.where(), " wants ", bytes, " bytes that another node left for input ", input, ", got ",
                   value->opaque ? cat(value->opaque_bytes) : cat(value->dtype, value->dims));
}

std::vector<Candidate> propose_plain(const Node& node) {
  Candidate candidate;
  for (const Value* v : node.inputs) candidate.inputs.push_back(v && !v->opaque ? Layout::plain(v->dims) : Layout{});
  for (const Value* v : node.outputs) candidate.outputs.push_back(v && !v->opaque ? Layout::plain(v->dims) : Layout{});
  return {candidate};
}

std::vector<Candidate> propose_elementwise(const Node& node) {
  auto candidates = propose_plain(node);
  const Value* first = node.input(0);
  if (!first || first->layout.is_plain(first->dims)) return candidates;
  Candidate as_it_lies = candidates[0];
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] && node.inputs[i]->dims == first->dims) as_it_lies.inputs[i] = first->layout;
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] && node.outputs[i]->dims == first->dims) as_it_lies.outputs[i] = first->layout;
  }
  candidates.insert(candidates.begin(), as_it_lies);
  return candidates;
}

Settlement settle_nothing(const Node&, const Settlement*) { return {}; }

Settlement settle_in_place(const Node&, const Settlement*) {
  Settlement settlement;
  settlement.in_place = {{0, 0}};
  return settlement;
}

namespace {

Settlement settle_view(const Node& node, const Settlement*) {
  const Value& x = *node.inputs[0];
  const Value& y = *node.outputs[0];
  // ONNX's inference believes a target shape: reading it as a view would leave the bytes of x.
  if (x.count() != y.count() || x.dtype != y.dtype)
    throw ModelError(node.where(), " cannot make ", y.dtype, y.dims, " of ", x.dtype, x.dims);
  Settlement settlement;
  settlement.views = {{0, 0}};
  return settlement;
}

Kernel prepare_view(const Node&, const Binding&) { return {}; }

}  // namespace

KernelFunctions plain_kernel(PrepareFunction prepare) { return {propose_plain, settle_nothing, prepare}; }
KernelFunctions plain_in_place_kernel(PrepareFunction prepare) { return {propose_plain, settle_in_place, prepare}; }
KernelFunctions elementwise_kernel(PrepareFunction prepare) { return {propose_elementwise, settle_in_place, prepare}; }
KernelFunctions view_kernel() { return {propose_plain, settle_view, prepare_view}; }

void check_kernel_choice(const Node& node) {
  if (node.kernel.empty()) return;
  const KernelFunctions* functions = find_kernel(node);
  std::vector<std::string> names;
  if (functions && functions->choices) names = functions->choices(node);
  if (std::find(names.begin(), names.end(), node.kernel) != names.end()) return;
  std::string allowed;
  for (const auto& name : names) allowed += (allowed.empty() ? "" : ", ") + name;
  throw UsageError(node.where(), " has no kernel \"", node.kernel,
                   "\" for these operands; it can take: ", allowed.empty() ? "its only one" : allowed);
}

Val Gradient::dy_or_zero(size_t i) {
  if (Val given = dy(i)) return given;
  return expand(constant_like(y(i), 0), y(i).dims());
}

std::vector<Val> Gradient::grad_node(const std::string& type, const std::vector<Val>& operands, size_t output_count,
                                     Attributes attributes) {
  auto results = call("graft", type, operands, output_count, std::move(attributes));
  results[0].value()->producer->forward = &node_;
  return results;
}

std::vector<Val> Gradient::grad_node(const std::string& type, const std::vector<Val>& operands,
                                     const std::vector<bool>& wanted, Attributes attributes) {
  auto results = grad_node(type, operands, wanted.size(), std::move(attributes));
  Node* node = results[0].value()->producer;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i]) continue;
    graph_.drop_output(node, i);
    results[i] = {};
  }
  return results;
}

Val Gradient::workspace() {
  Value* value = graph_.add_output(&node_);
  value->opaque = true;
  return {graph_, value};
}

}  // namespace graft
