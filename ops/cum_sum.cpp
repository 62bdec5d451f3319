// CumSum: y[.., k, ..] = sum of x[.., j, ..] over j <= k; j < k where exclusive; from the end where reverse.
#include "ops/axes.h"
#include "ops/gradient.h"

namespace graft {
namespace {

bool is_set(const Node& node, const char* attribute) { return node.integer(attribute, 0) != 0; }

size_t summed_axis(const Node& node) {
  std::vector<int64_t> axis = constant_integers(node, 1);
  if (axis.size() != 1) throw ModelError(node.where(), " has ", axis.size(), " axes: allowed is one");
  return checked_axis(node, axis[0], node.inputs[0]->dims.size());
}

// x (outer, extent, inner); columns share cache lines, so that several are summed at once.
template <class T>
Kernel prepare_cum_sum_of(const Node& node, const Binding& binding) {
  const Dims& dims = node.inputs[0]->dims;
  const size_t axis = summed_axis(node);
  const int64_t extent = dims[axis];
  int64_t outer = 1, inner = 1;
  for (size_t d = 0; d < dims.size(); ++d) (d < axis ? outer : inner) *= d == axis ? 1 : dims[d];
  const int64_t step = is_set(node, "reverse") ? -inner : inner;
  return [=, exclusive = is_set(node, "exclusive"), x = binding.in<T>(0), y = binding.out<T>(0)](Stream&) {
    if (extent == 0) return;
    parallel_for(outer * inner, extent, [=](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t first = begin % inner, width = std::min(end - begin, inner - first);
        const int64_t corner = begin / inner * extent * inner + first + (step < 0 ? (extent - 1) * inner : 0);
        const T* from = x + corner;
        T* to = y + corner;
        for (int64_t i = 0; i < width; ++i) to[i] = exclusive ? T{0} : from[i];
        for (int64_t k = 1; k < extent; ++k, from += step, to += step) {
          const T* next = exclusive ? from : from + step;
          for (int64_t i = 0; i < width; ++i) to[step + i] = static_cast<T>(to[i] + next[i]);
        }
        begin += width;
      }
    });
  };
}

Kernel prepare_cum_sum(const Node& node, const Binding& binding) {
  switch (node.inputs[0]->dtype) {
    case DType::f32: return prepare_cum_sum_of<float>(node, binding);
    case DType::f64: return prepare_cum_sum_of<double>(node, binding);
    // Unsigned arithmetic wraps around, and gives the same bits.
    case DType::i32:
    case DType::u32: return prepare_cum_sum_of<uint32_t>(node, binding);
    case DType::i64:
    case DType::u64: return prepare_cum_sum_of<uint64_t>(node, binding);
    default: throw UnsupportedError(node.where(), " has no kernel for ", node.inputs[0]->dtype);
  }
}

Vals cum_sum_rule(Gradient& g) {
  Attributes attributes = {{"exclusive", int64_t{is_set(g.node(), "exclusive")}},
                           {"reverse", int64_t{!is_set(g.node(), "reverse")}}};
  return {call("CumSum", {g.dy(0), g.x(1)}, attributes), Val{}};
}

}  // namespace

std::vector<Op> cum_sum_ops() {
  return {{.type = "CumSum", .cpu = {{DTypes::any, plain_kernel(prepare_cum_sum)}}, .differentiate = cum_sum_rule}};
}

}  // namespace graft
