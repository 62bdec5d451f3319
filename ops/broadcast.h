// Plain loops over broadcast operands, for element types that need no speed, and the padding of such results.
#pragma once

#include "ops/storage.h"

namespace graft {

// y = f(a, b), element by element. Not in parallel: f may throw.
template <class A, class B, class R, class F>
void broadcast_apply(const std::vector<StorageAxis>& axes, int64_t begin, int64_t end, const A* a, const B* b, R* y,
                     F f) {
  const auto& row = axes.size() > 1 ? axes[axes.size() - 2].strides : axes.back().strides;
  const auto& column = axes.back().strides;
  for_each_tile(axes, begin, end, [&](int64_t rows, int64_t columns, const int64_t* at) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        R& to = y[at[0] + r * row[0] + c * column[0]];
        to = static_cast<R>(f(a[at[1] + r * row[1] + c * column[1]], b[at[2] + r * row[2] + c * column[2]]));
      }
    }
  });
}

// Storage elements that the axes walk over, padding included.
inline int64_t walked_count(const std::vector<StorageAxis>& axes) {
  int64_t count = 1;
  for (const auto& axis : axes) count *= axis.extent;
  return count;
}

// Adds to a kernel the zeroing of the padding of its result, where it has any.
Kernel clean_padding(const Node& node, const Binding& binding, Kernel kernel);
// The same for elementwise kernels, where it is needed. `keeps_zero`: f of zeros is zero, so
// that padding stays clean unless an operand is broadcast along a padded dim.
Kernel with_clean_padding(const Node& node, const Binding& binding, bool keeps_zero, Kernel kernel);

}  // namespace graft
