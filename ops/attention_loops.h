// What attention does between its matrix products, row by row in float32, for every instruction set.
#pragma once

#include <cstdint>

namespace graft {

// Rows follow each other without gaps.
struct AttentionLoops {
  // s = exp(s - largest of the row), with largest and 1 / sum of each row
  void (*exponentials)(float* s, int64_t rows, int64_t columns, float* largest, float* inverse);
  // p = exp(s - largest) inverse, in the place of s
  void (*probabilities)(float* s, int64_t rows, int64_t columns, const float* largest, const float* inverse);
  // ds = p (dp - sum of p dp), in the place of dp
  void (*gradients)(const float* p, float* dp, int64_t rows, int64_t columns);
};

const AttentionLoops& attention_loops();

}  // namespace graft
