// Expand: y is x broadcast. Tile: y repeats x along every axis.
#include "ops/axes.h"
#include "ops/broadcast.h"
#include "ops/element_size.h"
#include "ops/gradient.h"

namespace graft {
namespace {

template <class T>
Kernel prepare_expand_of(const Node& node, const Binding& binding) {
  auto axes = storage_axes({node.outputs[0], node.inputs[0]});
  int64_t n = walked_count(axes);
  const T* x = binding.in<T>(0);
  T* y = binding.out<T>(0);
  return [=, axes = std::move(axes)](Stream&) {
    parallel_for(n, 1, [&](int64_t begin, int64_t end) {
      const auto& row = axes[axes.size() > 1 ? axes.size() - 2 : 0].strides;
      const int64_t column = axes.back().strides[1];
      for_each_tile(axes, begin, end, [&](int64_t rows, int64_t columns, const int64_t* at) {
        for (int64_t r = 0; r < rows; ++r) {
          const T* from = x + at[1] + r * row[1];
          T* to = y + at[0] + r * row[0];
          if (column == 0) std::fill(to, to + columns, *from);
          else std::copy(from, from + columns, to);
        }
      });
    });
  };
}

Kernel prepare_expand(const Node& node, const Binding& binding) {
  return with_element_size(node, node.outputs[0]->dtype,
                           [&]<class T>(T) { return prepare_expand_of<T>(node, binding); });
}

Vals expand_rule(Gradient& g) { return {unbroadcast(g.dy(0), g.x(0).dims()), Val{}}; }

// Copies the block of x below `axis` into y, then repeats it: what was written once is the source of the rest.
struct TileCopy {
  Dims x, y;
  size_t size;

  std::byte* run(size_t axis, const std::byte*& from, std::byte* to) const {
    std::byte* end = to;
    if (axis == x.size()) {
      std::memcpy(to, from, size);
      from += size;
      end += size;
    } else if (axis + 1 == x.size()) {
      auto bytes = static_cast<size_t>(x[axis]) * size;
      std::memcpy(to, from, bytes);
      from += bytes;
      end += bytes;
    } else {
      for (int64_t i = 0; i < x[axis]; ++i) end = run(axis + 1, from, end);
    }
    if (axis == x.size() || x[axis] == 0) return end;
    const auto once = static_cast<size_t>(end - to);
    for (int64_t repeat = 1; repeat < y[axis] / x[axis]; ++repeat, end += once) std::memcpy(end, to, once);
    return end;
  }
};

Kernel prepare_tile(const Node& node, const Binding& binding) {
  TileCopy copy{node.inputs[0]->dims, node.outputs[0]->dims, size_of(node.outputs[0]->dtype)};
  const auto* x = binding.in<std::byte>(0);
  auto* y = binding.out<std::byte>(0);
  if (node.outputs[0]->count() == 0) return {};
  return [=](Stream&) {
    const std::byte* from = x;
    copy.run(0, from, y);
  };
}

// dy as (r0, d0, r1, d1, ...), summed over the repeats
Vals tile_rule(Gradient& g) {
  Dims split;
  std::vector<int64_t> repeats;
  for (int64_t d = 0; d < g.x(0).rank(); ++d) {
    int64_t extent = g.x(0).dim(d);
    repeats.push_back(static_cast<int64_t>(split.size()));
    split.push_back(extent ? g.y(0).dim(d) / extent : 1);
    split.push_back(extent);
  }
  if (split.empty() || g.y(0).value()->count() == 0)
    return {unbroadcast(expand(constant_like(g.dy(0), 0), g.x(0).dims()), g.x(0).dims()), Val{}};
  return {reshape(sum(reshape(g.dy(0), split), repeats, false), g.x(0).dims()), Val{}};
}

}  // namespace

std::vector<Op> expand_ops() {
  return {{.type = "Expand",
           .cpu = {{DTypes::any, plain_kernel(prepare_expand)}},
           .differentiate = expand_rule,
           .mixed_precision = moves_elements},
          {.type = "Tile",
           .cpu = {{DTypes::any, plain_kernel(prepare_tile)}},
           .differentiate = tile_rule,
           .mixed_precision = moves_elements}};
}

}  // namespace graft
