// Copies a tensor from one layout to another, perhaps from float32 to bfloat16. Padding of the destination becomes
// zero; that of the source is, as it always is.
#pragma once

#include "ops/op.h"

namespace graft {

struct LayoutCopy {
  DType dtype;
  Dims dims;
  Layout from, to;
  DType to_dtype = dtype;
};

Kernel prepare_layout_copy(const Node& node, const LayoutCopy& copy, const void* from, void* to);

}  // namespace graft
