// Transpose: y[i_perm[0], i_perm[1], ...] = x[i_0, i_1, ...]
#include "ops/axes.h"
#include "ops/gradient.h"
#include "ops/layout_copy.h"

namespace graft {
namespace {

void infer_transpose(Node& node) {
  const Value* x = node.input(0);
  if (node.inputs.size() != 1 || !x) throw ModelError(node.where(), " wants one operand");
  std::vector<int64_t> perm = transpose_perm(node);
  const size_t rank = x->dims.size();
  if (perm.size() != rank) throw ModelError(node.where(), " perm ", perm, " does not fit shape ", x->dims);
  for (int64_t axis : perm) {
    if (axis < 0) throw ModelError(node.where(), " perm ", perm, ": allowed are 0 to ", rank - 1);
  }
  checked_axes(node, perm, rank);
  Value* y = node.outputs.at(0);
  y->dtype = x->dtype;
  y->ranked = true;
  y->dims.clear();
  for (int64_t axis : perm) y->dims.push_back(x->dims[static_cast<size_t>(axis)]);
}

// The elements stay where they are and only the names of the axes change. First as y is plain, which is chosen where x
// may lie in any way at no cost: a weight whose master is not laid out yet, a constant. Then as x lies: whoever wants y
// otherwise copies it then, at the price that a copy would have here.
std::vector<Candidate> propose_transpose(const Node& node) {
  const Value& x = *node.inputs[0];
  const std::vector<int64_t> perm = transpose_perm(node);
  const Layout plain = Layout::plain(node.outputs[0]->dims);
  return {{.inputs = {plain.transposed(inverse_perm(perm))}, .outputs = {plain}},
          {.inputs = {x.layout}, .outputs = {x.layout.transposed(perm)}}};
}

// The copy of x under y's names.
LayoutCopy copy_of(const Node& node) {
  const Value& y = *node.outputs[0];
  return {y.dtype, y.dims, node.inputs[0]->layout.transposed(transpose_perm(node)), y.layout};
}

Settlement settle_transpose(const Node& node, const Settlement*) {
  LayoutCopy copy = copy_of(node);
  Settlement settlement;
  if (copy.from == copy.to) settlement.views = {{0, 0}};
  return settlement;
}

Kernel prepare_transpose(const Node& node, const Binding& binding) {
  if (!binding.settlement->views.empty()) return {};
  return prepare_layout_copy(node, copy_of(node), binding.inputs[0], binding.outputs[0]);
}

Vals transpose_rule(Gradient& g) { return {transpose(g.dy(0), inverse_perm(transpose_perm(g.node())))}; }

}  // namespace

std::vector<Op> transpose_ops() {
  return {{.type = "Transpose",
           .infer = infer_transpose,
           .cpu = {{DTypes::any, {propose_transpose, settle_transpose, prepare_transpose}}},
           .differentiate = transpose_rule,
           .mixed_precision = moves_elements}};
}

}  // namespace graft
