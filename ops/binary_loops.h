// float32 loops over tiles of two operands, compiled for several instruction sets and chosen at run time.
#pragma once

#include <cstdint>
#include <string_view>

namespace graft {

// An operand of a tile: its corner, and its strides, the column's 0 (one value a row) or 1.
struct TileOperand {
  const float* data;
  int64_t row;
  int64_t column;
};

// y(i, j) = f(a(i, j), b(i, j)), `rows` by `columns`; rows of y are contiguous and `y_row` apart; y may be a or b.
using BinaryTile = void (*)(int64_t rows, int64_t columns, TileOperand a, TileOperand b, float* y, int64_t y_row);

// By the ONNX operator's type; nullptr where there is none.
BinaryTile binary_tile(std::string_view type);

}  // namespace graft
