// Slice: a regular part of x. SliceGrad puts it back among zeros.
#include "ops/slice.h"

#include <algorithm>

#include "ops/axes.h"
#include "ops/gradient.h"
#include "ops/part.h"

namespace graft {
namespace {

// start and end as ONNX clamps them, for one axis of `extent`.
void take_range(const Node& node, int64_t start, int64_t end, int64_t step, int64_t extent, Part& part, size_t axis) {
  if (step == 0) throw ModelError(node.where(), " has step 0 along axis ", axis);
  if (start < 0) start += extent;
  if (end < 0) end += extent;
  const int64_t last = std::max<int64_t>(step > 0 ? extent : extent - 1, 0);
  start = std::clamp<int64_t>(start, 0, last);
  end = std::clamp<int64_t>(end, step > 0 ? 0 : -1, last);
  const int64_t span = step > 0 ? end - start : start - end;
  const int64_t stride = step > 0 ? step : -std::max(step, -INT64_MAX);
  part.starts[axis] = start;
  part.counts[axis] = span > 0 && extent > 0 ? 1 + (span - 1) / stride : 0;
  part.steps[axis] = part.counts[axis] > 1 ? step : 1;
}

// Inputs: data, starts, ends, axes, steps
Part sliced_part(const Node& node) {
  const Dims& dims = node.inputs[0]->dims;
  Part part = Part::whole(dims);
  std::vector<int64_t> starts = constant_integers(node, 1), ends = constant_integers(node, 2);
  std::vector<int64_t> axes, steps(starts.size(), 1);
  for (size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<int64_t>(i));
  if (node.input(3)) axes = constant_integers(node, 3);
  if (node.input(4)) steps = constant_integers(node, 4);
  if (ends.size() != starts.size() || axes.size() != starts.size() || steps.size() != starts.size()) {
    throw ModelError(node.where(), " has ", starts.size(), " starts, ", ends.size(), " ends, ", axes.size(),
                     " axes and ", steps.size(), " steps: allowed is one number");
  }
  checked_axes(node, axes, dims.size());
  for (size_t i = 0; i < axes.size(); ++i) {
    size_t axis = checked_axis(node, axes[i], dims.size());
    take_range(node, starts[i], ends[i], steps[i], dims[axis], part, axis);
  }
  return part;
}

// Where starts or ends are not known yet, only the rank of the result is.
void infer_slice(Node& node) {
  const Value* x = node.input(0);
  if (node.inputs.size() < 3 || !x || !node.inputs[1] || !node.inputs[2])
    throw ModelError(node.where(), " wants data, starts and ends");
  Value* y = node.outputs.at(0);
  y->dtype = x->dtype;
  y->ranked = x->ranked;
  bool known = x->ranked && std::all_of(x->dims.begin(), x->dims.end(), [](int64_t d) { return d >= 0; });
  for (size_t i = 1; i < node.inputs.size(); ++i) known = known && (!node.inputs[i] || node.inputs[i]->is_constant());
  y->dims = known ? sliced_part(node).counts : Dims(x->dims.size(), -1);
}

// As x lies, where the part is made of whole blocks; `whole` of input and output 0 is the tensor that has the part.
std::vector<Candidate> propose_part(const Node& node, const Part& part, const Dims& whole) {
  auto candidates = propose_plain(node);
  const Value& x = *node.inputs[0];
  if (x.layout.is_plain(x.dims) || !has_whole_blocks(part, whole, x.layout)) return candidates;
  Candidate as_it_lies = candidates[0];
  as_it_lies.inputs[0] = x.layout;
  as_it_lies.outputs[0] = layout_like(x.layout, node.outputs[0]->dims);
  candidates.insert(candidates.begin(), as_it_lies);
  return candidates;
}

std::vector<Candidate> propose_slice(const Node& node) {
  return propose_part(node, sliced_part(node), node.inputs[0]->dims);
}

Kernel prepare_slice(const Node& node, const Binding& binding) {
  Move move = take_part(node, sliced_part(node), *node.inputs[0], *node.outputs[0]);
  return [=, x = binding.inputs[0], y = binding.outputs[0]](Stream&) { move(x, y); };
}

Vals slice_rule(Gradient& g) {
  Vals gradients(g.input_count());
  if (!g.needs(0)) return gradients;
  Part part = sliced_part(g.node());
  Attributes attributes = {{"dims", g.x(0).dims()}, {"starts", part.starts}, {"steps", part.steps}};
  gradients[0] = call("graft", "SliceGrad", {g.dy(0)}, 1, attributes)[0];
  return gradients;
}

// dy -> dx of attribute `dims`; dy lies at `starts` in `steps`
Part put_back(const Node& node) { return {node.integers("starts"), node.integers("steps"), node.inputs[0]->dims}; }

void infer_slice_grad(Node& node) {
  const Value* dy = node.input(0);
  if (node.inputs.size() != 1 || !dy) throw ModelError(node.where(), " wants one operand");
  Dims dims = node.integers("dims");
  element_count(dims);
  Part part = put_back(node);
  bool fits = dims.size() == dy->dims.size() && part.starts.size() == dims.size() && part.steps.size() == dims.size();
  for (size_t d = 0; fits && d < dims.size(); ++d) {
    if (part.counts[d] == 0) continue;
    const int64_t last = checked_add(part.starts[d], checked_mul(part.counts[d] - 1, part.steps[d]));
    fits = part.steps[d] != 0 && std::min(part.starts[d], last) >= 0 && std::max(part.starts[d], last) < dims[d];
  }
  if (!fits) {
    throw ModelError(node.where(), " cannot put ", dy->dims, " at ", part.starts, " in steps ", part.steps, " of ",
                     dims);
  }
  node.outputs.at(0)->dtype = dy->dtype;
  node.outputs[0]->ranked = true;
  node.outputs[0]->dims = dims;
}

std::vector<Candidate> propose_slice_grad(const Node& node) {
  return propose_part(node, put_back(node), node.outputs[0]->dims);
}

Kernel prepare_slice_grad(const Node& node, const Binding& binding) {
  Move move = put_part(node, put_back(node), *node.inputs[0], *node.outputs[0]);
  return [=, bytes = storage_bytes(*node.outputs[0]), from = binding.inputs[0], to = binding.outputs[0]](Stream&) {
    fill_zero(to, bytes);
    move(from, to);
  };
}

// Linear: what flows back to dy is the slice of where it was put.
Vals slice_grad_rule(Gradient& g) {
  Part part = put_back(g.node());
  std::vector<int64_t> ends, axes;
  for (size_t d = 0; d < part.counts.size(); ++d) {
    const int64_t end = part.starts[d] + part.counts[d] * part.steps[d];
    ends.push_back(end < 0 ? -INT64_MAX : end);  // before the first element, where steps are negative
    axes.push_back(static_cast<int64_t>(d));
  }
  Graph& graph = g.graph();
  return {call("Slice", {g.dy(0), indices(graph, part.starts), indices(graph, ends), indices(graph, axes),
                         indices(graph, part.steps)})};
}

}  // namespace

Val slice(const Val& x, int64_t axis, int64_t start, int64_t end) {
  Graph& graph = x.graph();
  return call("Slice", {x, indices(graph, {start}), indices(graph, {end}), indices(graph, {axis})});
}

std::vector<Op> slice_ops() {
  return {{.type = "Slice",
           .infer = infer_slice,
           .cpu = {{DTypes::any, {propose_slice, settle_nothing, prepare_slice}}},
           .differentiate = slice_rule,
           .mixed_precision = moves_elements},
          {.type = "SliceGrad",
           .domain = "graft",
           .infer = infer_slice_grad,
           .cpu = {{DTypes::any, {propose_slice_grad, settle_nothing, prepare_slice_grad}}},
           .differentiate = slice_grad_rule,
           .mixed_precision = moves_elements}};
}

}  // namespace graft
