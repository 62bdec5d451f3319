// The float32 matrix product of one thread on the CPU's matrix tiles (AMX).
#pragma once

#include <utility>

#include "ops/bfloat16_gemm.h"
#include "ops/gemm_loops.h"

namespace graft {

// A matrix that may lie further apart than a MatrixView. In activations in blocks of 16 channels a row is a pixel: 16
// channels are neighbours, the next 16 are `panel` elements behind them; `line_rows` pixels are a line, `sample_rows` a
// sample, and the next ones are `line` and `sample` elements behind.
struct TilesView {
  const float* data = nullptr;
  int64_t row = 0, column = 0;          // strides
  int64_t panel = tile_side;            // where `column` is 1
  int64_t sample_rows = 0, sample = 0;  // 0: all
  int64_t line_rows = 0, line = 0;
  int64_t first_row = 0;
  bool turned = false;  // stands for the transpose of all that

  TilesView() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): any matrix is one
  TilesView(const MatrixView& dense) : data(dense.data), row(dense.row), column(dense.column) {
    turned = row == 1 && column != 1;
    if (turned) std::swap(row, column);
  }

  TilesView transposed() const {
    TilesView view = *this;
    view.turned = !turned;
    return view;
  }
  // Whether neighbours in a row, or in a column, are neighbours in memory, 16 at a time.
  bool near_rows() const { return column == 1 && !turned; }
  bool near_columns() const { return column == 1 && turned; }

  const float* at(int64_t i, int64_t j) const {
    if (turned) std::swap(i, j);
    return row_at(i) + across(j);
  }
  // What begins there; in panels, at a multiple of 16.
  TilesView from(int64_t i, int64_t j) const {
    if (turned) std::swap(i, j);
    TilesView view = *this;
    view.first_row += i;
    if (data) view.data += across(j);
    return view;
  }

 private:
  const float* row_at(int64_t i) const {
    i += first_row;
    const float* at = data;
    if (sample_rows > 0) at += i / sample_rows * sample, i %= sample_rows;
    if (line_rows > 0) at += i / line_rows * line, i %= line_rows;
    return at + i * row;
  }
  int64_t across(int64_t j) const { return column == 1 ? j / tile_side * panel + j % tile_side : j * column; }
};

// As GemmBlock.
struct TilesBlock {
  TilesBlock() = default;
  explicit TilesBlock(const GemmBlock& g);

  int64_t m = 0, n = 0, k = 0;
  TilesView a, b;
  MatrixView start;
  TilesView y;  // is written
  float alpha = 1;
  int64_t whole_n = 0;
  GemmBehind behind = GemmBehind::nothing;
  TilesView beside;
  float* sums = nullptr;
  int64_t sums_row = 0;
};

// Whether the CPU has tiles, and they pay for a product of that size: its operands have to be brought into them.
bool gemm_fits_tiles(int64_t m, int64_t n, int64_t k);

// Rows and columns that tiles are worked on together, which a part of a product should have a multiple of.
constexpr int64_t gemm_tiles_step = 32;
// A float32 is worked on in so many bfloat16 parts, of so many columns of b at a time at most.
constexpr int64_t float_parts = 3, most_float_lines = 1024;

// Floats of scratch that it wants, for products of up to that size.
int64_t gemm_tiles_scratch(int64_t m, int64_t n, int64_t k);
// At least as exact as one multiply-add after the other. There are tiles only where has_matrix_tiles().
void gemm_on_tiles(const TilesBlock& block, float* scratch);

}  // namespace graft
