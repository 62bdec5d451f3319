// How element-wise float32 nodes work on tiles: what the regions of ops/elementwise.cpp are made of. Tiles are float32
// throughout; what a region reads and leaves in memory may be bfloat16.
#pragma once

#include "ops/binary_loops.h"
#include "ops/op.h"
#include "ops/vector_loops.h"

namespace graft {

// One of the three loops is there, or it is a sum; else the tile is copied. What a node reads beside its tiles are
// parameters, known constants.
struct ElementwiseStep {
  UnaryLoop unary = nullptr;              // of one tile
  ActivationGradLoop gradient = nullptr;  // of two: dy and s
  BinaryTile binary = nullptr;            // folded over all inputs, which may be broadcast
  bool sum = false;                       // of one tile, over some axes of all tiles
  float a = 0, b = 0;                     // parameters of the first two
  bool keeps_zero = false;                // f(0) = 0

  size_t tiles(const Node& node) const { return binary ? node.inputs.size() : gradient ? 2 : 1; }
};

// The kernel of a single element-wise node with operands or results of bfloat16, and its Op::mixed_precision.
KernelEntry mixed_elementwise_kernel();
std::optional<MixedPrecision> mixed_elementwise(const Node& node);

}  // namespace graft
