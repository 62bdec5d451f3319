// y = condition ? a : b, all three broadcast.
#include "ops/broadcast.h"
#include "ops/element_size.h"
#include "ops/gradient.h"

namespace graft {
namespace {

template <class T>
Kernel prepare_where_of(const Node& node, const Binding& binding) {
  auto axes = storage_axes({node.outputs[0], node.inputs[0], node.inputs[1], node.inputs[2]});
  const bool* condition = binding.in<bool>(0);
  const T* a = binding.in<T>(1);
  const T* b = binding.in<T>(2);
  T* y = binding.out<T>(0);
  int64_t n = walked_count(axes);
  return [=, axes = std::move(axes)](Stream&) {
    parallel_for(n, 2, [&](int64_t begin, int64_t end) {
      const auto& row = axes[axes.size() > 1 ? axes.size() - 2 : 0].strides;
      const auto& column = axes.back().strides;
      for_each_tile(axes, begin, end, [&](int64_t rows, int64_t columns, const int64_t* at) {
        for (int64_t r = 0; r < rows; ++r) {
          const bool* c_row = condition + at[1] + r * row[1];
          const T* a_row = a + at[2] + r * row[2];
          const T* b_row = b + at[3] + r * row[3];
          T* y_row = y + at[0] + r * row[0];
          for (int64_t i = 0; i < columns; ++i)
            y_row[i] = c_row[i * column[1]] ? a_row[i * column[2]] : b_row[i * column[3]];
        }
      });
    });
  };
}

Kernel prepare_where(const Node& node, const Binding& binding) {
  return with_element_size(node, node.outputs[0]->dtype,
                           [&]<class T>(T) { return prepare_where_of<T>(node, binding); });
}

Vals where_rule(Gradient& g) {
  Val zero = constant_like(g.dy(0), 0);
  return {Val{}, g.needs(1) ? where(g.x(0), g.dy(0), zero) : Val{}, g.needs(2) ? where(g.x(0), zero, g.dy(0)) : Val{}};
}

}  // namespace

std::vector<Op> where_ops() {
  return {{.type = "Where",
           .cpu = {{DTypes::any, plain_kernel(prepare_where)}},
           .differentiate = where_rule,
           .broadcasts = true}};
}

}  // namespace graft
