// Walks over storage as it lies: the axes of a layout, broadcast operands in step with it, and its padding.
#pragma once

#include <utility>

#include "graph/graph.h"
#include "ops/op.h"

namespace graft {

// Padding of a layout as runs {offset, length} of elements: what kernels with f(0) != 0 must set back to zero.
std::vector<std::pair<int64_t, int64_t>> padding_runs(const Dims& dims, const Layout& layout);
void zero_padding(const std::vector<std::pair<int64_t, int64_t>>& runs, size_t element_size, void* storage);

// An axis of storage, outer (counting blocks) or inner (within a block), with every operand's stride along it; 0 where
// the operand is broadcast. Operand 0 is the result.
struct StorageAxis {
  int64_t extent;
  std::vector<int64_t> strides;
};

// The axes of `values[0]`'s storage, outermost first, neighbours merged where all operands allow it; at least one. The
// other values must be of the same shape and layout, or broadcast as ONNX does and laid out by broadcast_layout.
std::vector<StorageAxis> storage_axes(const std::vector<const Value*>& values);

// The layout of an operand that is broadcast to `dims`, which lie as `layout`: blocked and ordered in step with it.
Layout broadcast_layout(const Layout& layout, const Dims& dims, const Dims& operand);

// For operators that broadcast all inputs into output 0 element by element: the layout of the first full-size operand
// that is not plain, then the plain one.
std::vector<Candidate> propose_broadcast(const Node& node);
// Output 0 may overwrite any input of its size and layout.
Settlement settle_broadcast(const Node& node, const Settlement* forward);

// Calls f(rows, columns, offsets) over elements [begin, end) of the axes' flat order, in as large tiles as the two
// innermost axes give. `offsets` holds each operand's element offset of the tile's corner.
template <class F>
void for_each_tile(const std::vector<StorageAxis>& axes, int64_t begin, int64_t end, F&& f) {
  const size_t last = axes.size() - 1;
  const size_t operands = axes[0].strides.size();
  const int64_t columns = axes[last].extent;
  const int64_t rows = last > 0 ? axes[last - 1].extent : 1;
  std::vector<int64_t> offsets(operands);
  for (int64_t at = begin; at < end;) {
    std::fill(offsets.begin(), offsets.end(), 0);
    int64_t rest = at;
    for (size_t a = axes.size(); a-- > 0;) {
      int64_t index = rest % axes[a].extent;
      rest /= axes[a].extent;
      for (size_t k = 0; k < operands; ++k) offsets[k] += index * axes[a].strides[k];
    }
    int64_t column = at % columns;
    int64_t row = (at / columns) % rows;
    if (column == 0 && end - at >= columns) {
      int64_t whole = std::min(rows - row, (end - at) / columns);
      f(whole, columns, offsets.data());
      at += whole * columns;
    } else {
      int64_t part = std::min(columns - column, end - at);
      f(1, part, offsets.data());
      at += part;
    }
  }
}

}  // namespace graft
