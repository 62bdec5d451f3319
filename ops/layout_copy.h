// Copies a tensor from one layout to another, perhaps from float32 to bfloat16; padding of the destination becomes
// zero.
#pragma once

#include "ops/op.h"

namespace graft {

struct LayoutCopy {
  DType dtype;
  Dims dims;
  Layout from, to;
  DType to_dtype = dtype;
};

// Scratch and descriptor for prepare_layout_copy, which wants them in its binding.
Settlement settle_layout_copy(const LayoutCopy& copy);
// Copies input 0 to output 0.
Kernel prepare_layout_copy(const Node& node, const LayoutCopy& copy, const Binding& binding);

}  // namespace graft
