// ArgMax and ArgMin: x (outer, extent, inner) -> y (outer, inner)
#include "ops/axes.h"
#include "ops/op.h"

namespace graft {
namespace {

template <class T>
Kernel prepare_arg_of(const Node& node, const Binding& binding) {
  const Dims& dims = node.inputs[0]->dims;
  size_t axis = checked_axis(node, node.integer("axis", 0), dims.size());
  bool largest = node.type == "ArgMax";
  bool last = node.integer("select_last_index", 0) != 0;
  int64_t extent = dims[axis];
  int64_t outer = element_count(Dims(dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(axis)));
  int64_t inner = element_count(Dims(dims.begin() + static_cast<std::ptrdiff_t>(axis) + 1, dims.end()));
  if (extent == 0 && outer * inner > 0) throw ModelError(node.where(), " has no element along axis ", axis);
  const T* x = binding.in<T>(0);
  auto* y = binding.out<int64_t>(0);
  return [=](Stream&) {
    parallel_for(outer * inner, extent, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* column = x + i / inner * extent * inner + i % inner;
        int64_t best = 0;
        for (int64_t k = 1; k < extent; ++k) {
          T candidate = column[k * inner];
          T leader = column[best * inner];
          bool better = largest ? candidate > leader : candidate < leader;
          if (better || (last && candidate == leader)) best = k;
        }
        y[i] = best;
      }
    });
  };
}

Kernel prepare_arg(const Node& node, const Binding& binding) {
  Kernel kernel;
  visit_dtype(node.inputs[0]->dtype, [&](auto zero) { kernel = prepare_arg_of<decltype(zero)>(node, binding); });
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", node.inputs[0]->dtype);
  return kernel;
}

}  // namespace

std::vector<Op> arg_max_ops() {
  std::vector<Op> ops;
  for (const char* type : {"ArgMax", "ArgMin"})
    ops.push_back({.type = type, .cpu = {{DTypes::any, plain_kernel(prepare_arg)}}, .gradient = GradientStatus::zero});
  return ops;
}

}  // namespace graft
