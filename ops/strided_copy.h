// Copies a box of elements between two strided places: what transposing, slicing, joining, padding and another layout
// come down to.
#pragma once

#include <vector>

#include "graph/layout.h"

namespace graft {

struct CopyAxis {
  int64_t extent;
  int64_t from, to;  // strides in elements; negative ones walk backwards, 0 at the source repeats
};

class StridedCopy {
 public:
  // Elements of 1, 2, 4 or 8 bytes, or from float32 to bfloat16. The places must not overlap, and no two elements go to
  // one place.
  StridedCopy(std::vector<CopyAxis> axes, size_t element_size) : StridedCopy(std::move(axes), element_size, false) {}
  static StridedCopy narrowing(std::vector<CopyAxis> axes) { return {std::move(axes), sizeof(float), true}; }

  // From and to the addresses of the box's first element, split over threads.
  void operator()(const void* from, void* to) const;

 private:
  StridedCopy(std::vector<CopyAxis> axes, size_t element_size, bool narrows);
  void widen();
  CopyAxis take(std::vector<CopyAxis>::iterator axis);
  void take_tile();
  void cut();
  template <class From, class To>
  void copy(const void* from, void* to) const;
  template <class From, class To>
  void copy_tiles(const From* from, To* to, int64_t begin, int64_t end) const;
  template <class From, class To>
  void copy_tile(const From* from, To* to, int64_t rows, int64_t columns) const;

  size_t element_size_;  // of the source
  bool narrows_;
  std::vector<CopyAxis> outer_;
  // The innermost two: columns lie closest at the destination, rows closest at the source where those are others.
  CopyAxis row_{1, 0, 0}, column_{1, 1, 1};
  // elements  one by one
  // runs      of columns, side by side in both places
  // squares   columns are side by side at the destination, rows at the source
  // pairs     of the elements of two runs, `odd_` the distance of these at the source
  enum class Move : uint8_t { elements, runs, squares, pairs } move_ = Move::elements;
  int64_t odd_ = 0;
  // Tiles of rows and columns, and what leads from one to the next: outer axes, and steps of a tile along the two.
  int64_t row_tile_ = 1, column_tile_ = 1, tiles_ = 1;
  struct Step {
    int64_t extent;
    int64_t from, to, row, column;
  };
  std::vector<Step> steps_;
  class Walk;  // along the steps
};

// The axes of a copy of `dims` elements between layouts without blocks.
std::vector<CopyAxis> copy_axes(const Dims& dims, const Dims& from_strides, const Dims& to_strides);

}  // namespace graft
