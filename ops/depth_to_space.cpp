// DepthToSpace: channels become pixels of b by b blocks. SpaceToDepth: the reverse. Both split, transpose and join
// axes.
#include "ops/axes.h"
#include "ops/gradient.h"
#include "ops/layout_copy.h"

namespace graft {
namespace {

struct Rearrangement {
  Dims split;                 // x seen in six axes
  std::vector<int64_t> perm;  // of those
  Dims permuted, joined;      // y seen in six axes, and in four
};

// mode DCR: channels are (b, b, C); CRD: (C, b, b)
Rearrangement rearrangement(const Node& node) {
  const Dims& x = node.inputs[0]->dims;
  const int64_t b = node.integer("blocksize", 0);
  const std::string mode = node.text("mode", "DCR");
  if (mode != "DCR" && mode != "CRD")
    throw ModelError(node.where(), " has mode \"", mode, "\": allowed are DCR and CRD");
  const bool to_space = node.type == "DepthToSpace";
  bool fits = x.size() == 4 && b > 0;
  if (fits && to_space) fits = x[1] % b == 0 && x[1] / b % b == 0;
  if (fits && !to_space) fits = x[2] % b == 0 && x[3] % b == 0;
  if (!fits) throw ModelError(node.where(), " cannot rearrange ", x, " by blocks of ", b);
  Rearrangement r;
  if (to_space) {
    const int64_t c = x[1] / b / b;
    r.split = mode == "DCR" ? Dims{x[0], b, b, c, x[2], x[3]} : Dims{x[0], c, b, b, x[2], x[3]};
    r.perm = mode == "DCR" ? std::vector<int64_t>{0, 3, 4, 1, 5, 2} : std::vector<int64_t>{0, 1, 4, 2, 5, 3};
    r.joined = {x[0], c, checked_mul(x[2], b), checked_mul(x[3], b)};
  } else {
    r.split = {x[0], x[1], x[2] / b, b, x[3] / b, b};
    r.perm = mode == "DCR" ? std::vector<int64_t>{0, 3, 5, 1, 2, 4} : std::vector<int64_t>{0, 1, 3, 5, 2, 4};
    r.joined = {x[0], checked_mul(x[1], checked_mul(b, b)), x[2] / b, x[3] / b};
  }
  for (int64_t axis : r.perm) r.permuted.push_back(r.split[static_cast<size_t>(axis)]);
  return r;
}

void infer_rearranged(Node& node) {
  const Value* x = node.input(0);
  if (node.inputs.size() != 1 || !x) throw ModelError(node.where(), " wants one operand");
  Value* y = node.outputs.at(0);
  y->dtype = x->dtype;
  y->ranked = x->ranked;
  y->dims = x->shaped() ? rearrangement(node).joined : Dims(x->dims.size(), -1);
}

LayoutCopy copy_of(const Node& node) {
  Rearrangement r = rearrangement(node);
  return {node.outputs[0]->dtype, r.permuted, Layout::plain(r.split).transposed(r.perm), Layout::plain(r.permuted)};
}

Kernel prepare_rearranged(const Node& node, const Binding& binding) {
  return prepare_layout_copy(node, copy_of(node), binding.inputs[0], binding.outputs[0]);
}

Vals rearranged_rule(Gradient& g) {
  Rearrangement r = rearrangement(g.node());
  return {reshape(transpose(reshape(g.dy(0), r.permuted), inverse_perm(r.perm)), g.x(0).dims())};
}

}  // namespace

std::vector<Op> depth_to_space_ops() {
  std::vector<Op> ops;
  for (const char* type : {"DepthToSpace", "SpaceToDepth"}) {
    ops.push_back({.type = type,
                   .infer = infer_rearranged,
                   .cpu = {{DTypes::any, {propose_plain, settle_nothing, prepare_rearranged}}},
                   .differentiate = rearranged_rule,
                   .mixed_precision = moves_elements});
  }
  return ops;
}

}  // namespace graft
