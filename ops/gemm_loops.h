// The float32 matrix product of one thread, compiled for several instruction sets and chosen at run time.
#pragma once

#include <cstdint>

namespace graft {

// Element (i, j) is at data[i * row + j * column].
struct MatrixView {
  const float* data = nullptr;
  int64_t row = 0, column = 0;

  MatrixView transposed() const { return {data, column, row}; }
  MatrixView from(int64_t i, int64_t j) const { return {data ? data + i * row + j * column : nullptr, row, column}; }
};

// What is done to y behind its sums: y = max(y, 0), where NaN stays; y + x; y where x > 0, else 0.
enum class GemmBehind : uint8_t { nothing, relu, add, relu_grad };

// y = alpha a b + start, with a (m,k), b (k,n), y (m,n). `start` is broadcast by strides of 0; without data: zeros.
struct GemmBlock {
  int64_t m = 0, n = 0, k = 0;
  MatrixView a, b, start;
  float* y = nullptr;
  int64_t y_row = 0, y_column = 1;
  float alpha = 1;
  // Sizes of the product that this is a part of: they decide how sums go, so that all parts round alike. 0: it is
  // whole.
  int64_t whole_m = 0, whole_n = 0;
  GemmBehind behind = GemmBehind::nothing;
  MatrixView beside;  // x
  // Behind that: sums[i * sums_row + j] of column j over the i-th gemm_steps().rows rows; nullptr: none.
  float* sums = nullptr;
  int64_t sums_row = 0;
};

// Floats of scratch that a thread wants for products of up to that size.
int64_t gemm_scratch(int64_t m, int64_t n, int64_t k);
// On matrix tiles where they pay (ops/gemm_tiles.h), else in vector registers. A part of y has the same bits as in the
// whole.
void gemm(const GemmBlock& block, float* scratch);
// What rows and columns should be split by among threads.
struct GemmSteps {
  int64_t rows, columns;
};
GemmSteps gemm_steps(const GemmBlock& whole);

// In vector registers, whatever the size.
int64_t gemm_registers_scratch(int64_t m, int64_t n, int64_t k);
void gemm_in_registers(const GemmBlock& block, float* scratch);
// Which of the two: what is packed should not be packed by every thread. In registers b always is, a where its k are
// not neighbours; on tiles both are.
bool gemm_splits_columns(const GemmBlock& whole, int64_t threads);
// What one of the threads has of a product, whole steps of rows or columns; m or n is 0 where there are fewer than
// threads.
struct GemmRange {
  int64_t row, column, m, n;
};
GemmRange gemm_range(int64_t m, int64_t n, const GemmSteps& steps, bool splits_columns, int64_t thread,
                     int64_t threads);
// The columns or rows of y of one of the threads; none where there are fewer than threads.
GemmBlock gemm_part(const GemmBlock& whole, bool splits_columns, int64_t thread, int64_t threads);

}  // namespace graft
