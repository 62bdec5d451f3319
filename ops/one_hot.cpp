// OneHot: y[.., i, ..] = i == indices[..] ? on : off, along a new axis. Inputs: indices, depth, values (off, on)
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "ops/axes.h"
#include "ops/element_size.h"
#include "ops/gradient.h"

namespace graft {
namespace {

size_t new_axis(const Node& node) {
  return checked_axis(node, node.integer("axis", -1), node.inputs[0]->dims.size() + 1);
}

// Where the depth is not known yet, only the rank of the result is.
void infer_one_hot(Node& node) {
  const Value *indices = node.input(0), *depth = node.input(1), *values = node.input(2);
  if (node.inputs.size() != 3 || !indices || !depth || !values)
    throw ModelError(node.where(), " wants indices, depth and values");
  if ((depth->shaped() && depth->count() != 1) || (values->shaped() && values->dims != Dims{2})) {
    throw ModelError(node.where(), " has a depth of shape ", depth->dims, " and values of shape ", values->dims,
                     ": allowed are one depth and two values");
  }
  Value* y = node.outputs.at(0);
  y->dtype = values->dtype;
  y->ranked = indices->ranked;
  if (!y->ranked) return;
  int64_t extent = depth->is_constant() ? depth->data.cast(DType::i64).data<int64_t>()[0] : -1;
  if (depth->is_constant() && extent < 0)
    throw ModelError(node.where(), " has depth ", extent, ": allowed is 0 and more");
  y->dims = indices->dims;
  y->dims.insert(y->dims.begin() + static_cast<std::ptrdiff_t>(new_axis(node)), extent);
}

// The index at k counted from the front; -1 where it is out of range or no whole number.
template <class Index>
int64_t place(const Index* indices, int64_t k, int64_t depth) {
  if constexpr (std::is_floating_point_v<Index>) {
    if (!(indices[k] >= static_cast<Index>(-depth) && indices[k] < static_cast<Index>(depth))) return -1;
    if (std::floor(indices[k]) != indices[k]) return -1;
  }
  auto index = static_cast<int64_t>(indices[k]);
  if (index < -depth || index >= depth) return -1;
  return index < 0 ? index + depth : index;
}

// y (outer, depth, inner)
template <class T, class Index>
Kernel prepare_one_hot_of(const Node& node, const Binding& binding) {
  const Dims& dims = node.outputs[0]->dims;
  const size_t axis = new_axis(node);
  const int64_t depth = dims[axis];
  int64_t inner = 1;
  for (size_t d = axis + 1; d < dims.size(); ++d) inner *= dims[d];
  return [=, size = node.outputs[0]->count(), count = node.inputs[0]->count(), indices = binding.in<Index>(0),
          values = binding.in<T>(2), y = binding.out<T>(0)](Stream&) {
    const T off = values[0], on = values[1];
    parallel_for(size, 1, [=](int64_t begin, int64_t end) { std::fill(y + begin, y + end, off); });
    parallel_for(count, 4, [=](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t at = place(indices, k, depth);
        if (at >= 0) y[(k / inner * depth + at) * inner + k % inner] = on;
      }
    });
  };
}

Kernel prepare_one_hot(const Node& node, const Binding& binding) {
  return with_element_size(node, node.outputs[0]->dtype, [&]<class T>(T) {
    Kernel kernel;
    bool known = visit_dtype(node.inputs[0]->dtype,
                             [&]<class Index>(Index) { kernel = prepare_one_hot_of<T, Index>(node, binding); });
    if (!known) throw UnsupportedError(node.where(), " has no kernel for indices of ", node.inputs[0]->dtype);
    return kernel;
  });
}

// Off and on receive what the elements that hold them do.
Vals one_hot_rule(Gradient& g) {
  Vals gradients(3);
  if (!g.needs(2)) return gradients;
  Val flags = constant(g.graph(), Tensor::of<double>({2}, {0, 1}).cast(g.dy(0).dtype()));
  Val hot = call("OneHot", {g.x(0), g.x(1), flags}, g.node().attributes);
  auto total = [&](const Val& x) { return sum(reshape(x, {g.y(0).value()->count()}), {0}, true); };
  gradients[2] = call("Concat", {total(g.dy(0) * (1.0 - hot)), total(g.dy(0) * hot)}, {{"axis", int64_t{0}}});
  return gradients;
}

}  // namespace

std::vector<Op> one_hot_ops() {
  return {{.type = "OneHot",
           .infer = infer_one_hot,
           .cpu = {{DTypes::any, plain_kernel(prepare_one_hot)}},
           .differentiate = one_hot_rule}};
}

}  // namespace graft
