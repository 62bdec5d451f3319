// Kernels that only move elements need to know their size alone.
#pragma once

#include "graph/graph.h"

namespace graft {

// Calls f with an unsigned integer of the size of the dtype's elements. UnsupportedError for strings.
template <class F>
auto with_element_size(const Node& node, DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 1: return f(uint8_t{});
    case 2: return f(uint16_t{});
    case 4: return f(uint32_t{});
    case 8: return f(uint64_t{});
    default: throw UnsupportedError(node.where(), " has no kernel for ", dtype);
  }
}

}  // namespace graft
