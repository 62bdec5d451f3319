// How element-wise float32 nodes work on tiles: what the regions of ops/elementwise.cpp are made of.
#pragma once

#include "ops/binary_loops.h"
#include "ops/op.h"
#include "ops/vector_loops.h"

namespace graft {

// One of the three loops is there, or it is a sum. What a node reads beside its tiles are parameters, known constants.
struct ElementwiseStep {
  UnaryLoop unary = nullptr;              // of one tile
  ActivationGradLoop gradient = nullptr;  // of two: dy and s
  BinaryTile binary = nullptr;            // folded over all inputs, which may be broadcast
  bool sum = false;                       // of one tile, over some axes of all tiles
  float a = 0, b = 0;                     // parameters of the first two
  bool keeps_zero = false;                // f(0) = 0

  size_t tiles(const Node& node) const { return binary ? node.inputs.size() : gradient ? 2 : 1; }
};

}  // namespace graft
