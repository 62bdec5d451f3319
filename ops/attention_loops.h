// What attention does between its matrix products, row by row in float32, for every instruction set.
#pragma once

#include <cstdint>

#include "graph/dtype.h"

namespace graft {

// Rows follow each other without gaps.
struct AttentionLoops {
  // p = exp(s - largest of the row), with largest and 1 / sum of each row; p may be s
  void (*exponentials)(const float* s, int64_t rows, int64_t columns, float* p, float* largest, float* inverse);
  void (*low_exponentials)(const float* s, int64_t rows, int64_t columns, BFloat16* p, float* largest, float* inverse);
  // p = exp(s - largest) inverse, in the place of s
  void (*probabilities)(float* s, int64_t rows, int64_t columns, const float* largest, const float* inverse);
  // ds = p (dp - sum of p dp), in the place of dp
  void (*gradients)(const float* p, float* dp, int64_t rows, int64_t columns);
};

const AttentionLoops& attention_loops();

// s = scale s + mask; strides of 0 where the mask is broadcast, nullptr where there is none
void finish_scores(float* s, int64_t rows, int64_t columns, float scale, const float* mask, int64_t mask_row,
                   int64_t mask_column);
// y = factor x; the other has a factor for each row
void round_rows(const float* x, int64_t rows, int64_t columns, float factor, BFloat16* y, int64_t y_row);
void round_rows(const float* x, int64_t rows, int64_t columns, const float* factors, BFloat16* y, int64_t y_row);

}  // namespace graft
