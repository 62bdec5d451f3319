// graft.Reorder: the same tensor in another layout, perhaps as bfloat16. lay_out puts it where a kernel wants what
// another did not leave.
#include "ops/gradient.h"
#include "ops/layout_copy.h"

namespace graft {
namespace {

void infer_reorder(Node& node) {
  const Value* x = node.input(0);
  if (node.inputs.size() != 1 || !x || node.outputs.size() != 1 || !node.outputs[0])
    throw ModelError(node.where(), " wants one operand and one result");
  Value* y = node.outputs[0];
  y->dtype = x->dtype;
  y->ranked = x->ranked;
  y->dims = x->dims;
}

// Its layouts are its purpose.
std::vector<Candidate> propose_reorder(const Node& node) {
  return {{.inputs = {node.inputs[0]->layout}, .outputs = {node.outputs[0]->layout}}};
}

LayoutCopy copy_of(const Node& node) {
  const Value& x = *node.inputs[0];
  return {x.dtype, x.dims, x.layout, node.outputs[0]->layout, node.outputs[0]->dtype};
}

Settlement settle_reorder(const Node& node, const Settlement*) {
  LayoutCopy copy = copy_of(node);
  Settlement settlement;
  if (copy.dtype == copy.to_dtype && copy.from.lies_as(copy.to, copy.dims)) settlement.views = {{0, 0}};
  return settlement;
}

Kernel prepare_reorder(const Node& node, const Binding& binding) {
  if (!binding.settlement->views.empty()) return {};
  return prepare_layout_copy(node, copy_of(node), binding.inputs[0], binding.outputs[0]);
}

Vals reorder_rule(Gradient& g) { return {g.dy(0)}; }

}  // namespace

std::vector<Op> reorder_ops() {
  return {{.type = "Reorder",
           .domain = "graft",
           .infer = infer_reorder,
           .cpu = {{DTypes::any, {propose_reorder, settle_reorder, prepare_reorder}}},
           .differentiate = reorder_rule}};
}

}  // namespace graft
