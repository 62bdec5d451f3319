// Trilu: the upper (j - i >= k) or lower (j - i <= k) triangle of the last two axes, zeros elsewhere.
#include <algorithm>

#include "ops/element_size.h"
#include "ops/gradient.h"

namespace graft {
namespace {

Kernel prepare_trilu(const Node& node, const Binding& binding) {
  const Dims& dims = node.inputs[0]->dims;
  if (dims.size() < 2) throw ModelError(node.where(), " wants matrices, got ", dims);
  const int64_t rows = dims[dims.size() - 2], columns = dims.back();
  const Value* diagonal = node.input(1);
  if (diagonal && (diagonal->count() != 1 || diagonal->dtype != DType::i64))
    throw ModelError(node.where(), " has k ", diagonal->dtype, diagonal->dims, ": allowed is one int64");
  const auto* k = binding.in<int64_t>(1);
  const bool upper = node.integer("upper", 1) != 0;
  const int64_t count = node.inputs[0]->count();
  if (count == 0) return {};
  return with_element_size(node, node.inputs[0]->dtype, [&]<class T>(T) -> Kernel {
    return [=, x = binding.in<T>(0), y = binding.out<T>(0)](Stream&) {
      const int64_t shift = k ? std::clamp(*k, -rows, columns) : 0;
      parallel_for(count / columns, columns, [=](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          // The row keeps [first, last).
          const int64_t edge = std::clamp<int64_t>(r % rows + shift + (upper ? 0 : 1), 0, columns);
          const int64_t first = upper ? edge : 0, last = upper ? columns : edge;
          const T* from = x + r * columns;
          T* to = y + r * columns;
          std::fill(to, to + first, T{0});
          if (to != from) std::copy(from + first, from + last, to + first);
          std::fill(to + last, to + columns, T{0});
        }
      });
    };
  });
}

Vals trilu_rule(Gradient& g) {
  Vals gradients(g.input_count());
  Attributes upper = {{"upper", g.node().integer("upper", 1)}};
  gradients[0] = g.input_count() > 1 ? call("Trilu", {g.dy(0), g.x(1)}, upper) : call("Trilu", {g.dy(0)}, upper);
  return gradients;
}

}  // namespace

std::vector<Op> trilu_ops() {
  return {{.type = "Trilu", .cpu = {{DTypes::any, plain_in_place_kernel(prepare_trilu)}}, .differentiate = trilu_rule}};
}

}  // namespace graft
