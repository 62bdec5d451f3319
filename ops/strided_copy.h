// Copies a box of elements between two strided places: what transposing, slicing, joining and padding come down to.
#pragma once

#include <vector>

#include "graph/layout.h"

namespace graft {

struct CopyAxis {
  int64_t extent;
  int64_t from, to;  // strides in elements; negative ones walk backwards
};

class StridedCopy {
 public:
  // Elements of 1, 2, 4 or 8 bytes. The places must not overlap, and no two elements go to one place.
  StridedCopy(std::vector<CopyAxis> axes, size_t element_size);

  // From and to the addresses of the box's first element, split over threads.
  void operator()(const void* from, void* to) const;

 private:
  template <class T>
  void copy(const T* from, T* to) const;
  template <class T>
  void copy_tile(const T* from, T* to, int64_t rows, int64_t columns) const;

  size_t element_size_;
  std::vector<CopyAxis> outer_;
  // The innermost two: columns lie closest at the destination, rows at the source where those are others.
  CopyAxis row_{1, 0, 0}, column_{1, 1, 1};
  int64_t row_tile_ = 1, column_tile_ = 1;
  bool transposes_ = false;
};

// The axes of a copy of `dims` elements between layouts without blocks.
std::vector<CopyAxis> copy_axes(const Dims& dims, const Dims& from_strides, const Dims& to_strides);

}  // namespace graft
