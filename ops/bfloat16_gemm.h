// The matrix product of bfloat16 matrices with float32 sums, of one thread: on tiles (AMX) where the CPU has them, else
// by way of float32.
#pragma once

#include <cstdint>

#include "graph/dtype.h"

namespace graft {

constexpr int64_t tile_side = 16;                  // rows of a tile, and columns of a result in it
constexpr int64_t tile_k = 2 * tile_side;          // of the operands
constexpr int64_t tile_size = tile_side * tile_k;  // elements of an operand

// Floats in a line of a cache; the first of `scratch` that one begins with, which is less than a line further.
constexpr int64_t line_floats = 16;
inline float* at_line(float* scratch) {
  constexpr uintptr_t line = line_floats * sizeof(float);
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + line - 1) / line * line);
}

constexpr int64_t tiles_over(int64_t extent, int64_t tile) { return (extent + tile - 1) / tile; }

// Element (i, j) is at data[i * row + j * column]; one of the two is 1. What has its k not for neighbours may lie in
// panels of 16 neighbours, as a's rows and b's columns do in blocks of channels: then the next 16 are `panel` elements
// behind them.
struct LowMatrix {
  const BFloat16* data = nullptr;
  int64_t row = 0, column = 0;
  int64_t panel = tile_side;

  LowMatrix transposed() const { return {data, column, row, panel}; }
};

// y = a b, or y += a b, with a (m,k), b (k,n), y (m,n), whose columns are neighbours.
struct LowGemmBlock {
  int64_t m = 0, n = 0, k = 0;
  LowMatrix a, b;
  float* y = nullptr;
  int64_t y_row = 0;
  bool adds = false;
};

// Floats of scratch for a product of that size.
int64_t low_gemm_scratch(int64_t m, int64_t n, int64_t k);
void low_gemm(const LowGemmBlock& block, float* scratch);

// The two ways. There are tiles only where has_matrix_tiles().
void low_gemm_on_tiles(const LowGemmBlock& block, float* scratch);
void low_gemm_in_floats(const LowGemmBlock& block, float* scratch);

}  // namespace graft
