// Regular parts of tensors, in plain layouts and others: what Slice, Split, Concat and Pad move.
#pragma once

#include "ops/op.h"

namespace graft {

// Elements starts[d] + i * steps[d], 0 <= i < counts[d], of every axis d of a tensor.
struct Part {
  Dims starts, steps, counts;

  // All of a tensor of `dims`.
  static Part whole(const Dims& dims);
  // The range [start, start + count) of one axis.
  static Part range(const Dims& dims, size_t axis, int64_t start, int64_t count);
};

// The dense layout of `dims` with the order of axes and the blocks of another layout of that rank.
Layout layout_like(const Layout& layout, const Dims& dims);
// Whether the part of a tensor of `dims` consists of whole blocks of a layout, so that it can be moved as it lies.
bool has_whole_blocks(const Part& part, const Dims& dims, const Layout& layout);

// Moves between a tensor and a part of it that lies as layout_like says.
using Move = std::function<void(const void* from, void* to)>;
Move take_part(const Node& node, const Part& part, const Value& whole, const Value& taken);
Move put_part(const Node& node, const Part& part, const Value& put, const Value& whole);

// Bytes of a tensor's storage, and zeroing so many.
int64_t storage_bytes(const Value& value);
void fill_zero(void* storage, int64_t bytes);

}  // namespace graft
