// Tiles of a copy, rows times columns of elements, that vectors move. Strides are in elements.
#pragma once

#include "ops/bfloat16.h"

namespace graft {

// to[r * to_row + c] = from[r + c * from_column]
void transpose_tile(const uint16_t* from, int64_t from_column, uint16_t* to, int64_t to_row, int64_t rows,
                    int64_t columns);
void transpose_tile(const uint32_t* from, int64_t from_column, uint32_t* to, int64_t to_row, int64_t rows,
                    int64_t columns);
void transpose_tile(const uint64_t* from, int64_t from_column, uint64_t* to, int64_t to_row, int64_t rows,
                    int64_t columns);

// Two numbers of bfloat16 from two of float32 are one element.
struct FloatPair {
  float first, second;
};
struct BFloat16Pair {
  BFloat16 first, second;
};
void transpose_tile(const FloatPair* from, int64_t from_column, BFloat16Pair* to, int64_t to_row, int64_t rows,
                    int64_t columns);
void transpose_tile(const float* from, int64_t from_column, BFloat16* to, int64_t to_row, int64_t rows,
                    int64_t columns);

// to[r * to_row + 2 c + i] = from[r * from_row + c + i * odd], i = 0, 1
void interleave_tile(const float* from, int64_t from_row, int64_t odd, BFloat16* to, int64_t to_row, int64_t rows,
                     int64_t columns);

}  // namespace graft
