// What attention does between its matrix products, row by row in float32, for every instruction set.
#pragma once

#include <cstdint>

#include "graph/dtype.h"

namespace graft {

// scale s + mask, rows that follow each other without gaps. The mask's strides are 0 where it is broadcast; nullptr:
// there is none.
struct ScoreRows {
  const float* s = nullptr;
  int64_t rows = 0, columns = 0;
  float scale = 1;
  const float* mask = nullptr;
  int64_t mask_row = 0, mask_column = 0;
};

struct AttentionLoops {
  // p = exp(score - largest of the row), with largest and 1 / sum of each row; p may be s
  void (*exponentials)(const ScoreRows& scores, float* p, float* largest, float* inverse);
  void (*low_exponentials)(const ScoreRows& scores, BFloat16* p, float* largest, float* inverse);
  // p = exp(score - largest) inverse; p may be s
  void (*probabilities)(const ScoreRows& scores, float* p, const float* largest, const float* inverse);
  // ds = p (dp - sum of p dp), in the place of dp
  void (*gradients)(const float* p, float* dp, int64_t rows, int64_t columns);
  // y = factor x; `factors` are `step` apart from row to row
  void (*round)(const float* x, int64_t rows, int64_t columns, const float* factors, int64_t step, BFloat16* y,
                int64_t y_row);
  // gaps[c] = max over rows of min(mask[r][c] - mask[r][best], 0), and of what is there; 0 where that is no number
  void (*raise)(const float* mask, int64_t rows, int64_t mask_row, int64_t best, int64_t begin, int64_t end,
                float* gaps);
  // sqrt(sum over columns of the largest x^2), which no row's norm exceeds; infinite where something is not finite
  float (*norm)(const float* x, int64_t rows, int64_t columns, int64_t x_row);
  float (*low_norm)(const BFloat16* x, int64_t rows, int64_t columns, int64_t x_row);
};

const AttentionLoops& attention_loops();

}  // namespace graft
