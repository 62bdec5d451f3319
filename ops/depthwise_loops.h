// A depthwise convolution between two normalisations with their activations, u = f1(n1(x)), z = u * w, y = f2(n2(z)),
// on one block of channels of one sample, for every instruction set. A pixel is the vector of `width` neighbouring
// channels that the block has; what is computed from a row is used while it is in the nearest cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ops/normalization_loops.h"

namespace graft {

constexpr int64_t most_depthwise_taps = 128;

struct MapExtent {
  int64_t rows = 0, columns = 0;
  int64_t pixels() const { return rows * columns; }
};

struct DepthwiseGeometry {
  MapExtent in, out, kernel, stride, dilation;
  int64_t top = 0, left = 0;  // padding

  int64_t taps() const { return kernel.pixels(); }
  int64_t covered_rows() const { return (kernel.rows - 1) * dilation.rows + 1; }
  int64_t covered_columns() const { return (kernel.columns - 1) * dilation.columns + 1; }
  // Pixels that windows reach behind a row of x, and that gradients reach before and behind a row of z.
  int64_t right() const {
    return std::max<int64_t>((out.columns - 1) * stride.columns + covered_columns() - left - in.columns, 0);
  }
  int64_t out_left() const {
    return std::max<int64_t>((covered_columns() - 1 - left + stride.columns - 1) / stride.columns, 0);
  }
  int64_t out_right() const { return std::max<int64_t>((in.columns - 1 + left) / stride.columns - out.columns + 1, 0); }
  // Pixels of scratch: rows of u and of dz between margins of zeros, as many as a window covers.
  int64_t padded_row() const { return left + in.columns + right(); }
  int64_t padded_out_row() const { return out_left() + out.columns + out_right(); }
};

// t = (x - mean) factor + bias, y = f(t). Backward: dx = dt slope + (x - mean) slope_x + offset.
template <class T>
struct BlockNormalization {
  const T *mean, *factor, *bias;
  const T *slope, *slope_x, *offset;
  T low, high;
  Epilogue epilogue;
};

// S is the type of the elements of maps in memory, T that of the arithmetic and of all that is scratch.
//
// Maps are short, and the next one lies far away: what the machine would not guess in time is fetched ahead, while this
// one is worked on. Pixel by pixel, between the arithmetic: many at a time would hold it up.
template <class S>
struct AheadMap {
  const S *map, *next;     // nullptr: there is none
  int64_t rows, elements;  // of a row
  int64_t distance;        // in rows

  AheadMap() = default;
  AheadMap(const S* first, const S* second, int64_t row_count, int64_t row_elements)
      : map(first), next(second), rows(row_count), elements(row_elements) {
    constexpr int64_t enough = 4096 / sizeof(S);
    distance = std::min(rows, (enough + elements - 1) / elements);
  }
  // Of a tensor that lies like this one.
  AheadMap like(const S* other) const { return {other, next ? other + (next - map) : nullptr, rows, elements}; }

  const S* row(int64_t at) const { return map + at * elements; }
  // What to fetch while a row is read.
  const S* ahead(int64_t at) const {
    const int64_t then = at + distance;
    if (then < rows) return row(then);
    return next ? next + (then - rows) * elements : row(at);
  }
};

// Columns of x with one remainder by the stride meet the same taps, from `offset` pixels on in a row of dz.
struct ColumnTap {
  int64_t kx, offset;
};
std::vector<std::vector<ColumnTap>> column_taps(const DepthwiseGeometry& g);

template <class T, class S = T>
struct DepthwiseMap {
  const DepthwiseGeometry* geometry;
  BlockNormalization<T> first, second;
  AheadMap<S> x;
  const T* w;    // [taps][width]
  T* rows;       // scratch: covered_rows() * padded_row() pixels
  double* sums;  // [3][width] forward, [2][width] backward
  S* y;          // forward
  bool streams;  // y is too large for the caches, see stream()
  // backward
  AheadMap<S> dy;
  const std::vector<std::vector<ColumnTap>>* columns;
  T* gradient_rows;  // scratch: covered_rows() * padded_out_row() pixels
  S* dt;             // a map, or nullptr where only sums are wanted
  S* single_row;     // scratch for a row of x
  T* products;       // [taps][width], nullptr where not wanted
};

// z is nowhere kept: to compute it again takes less time than to write a map and to read it, but where it stays in a
// near cache, and there as much.
template <class T, class S = T>
struct DepthwiseLoops {
  int64_t width;
  // sums = the first pixel of x, sum of x - that, sum of its square
  void (*statistics)(const AheadMap<S>& x, double* sums);
  // The same of z.
  void (*inner_statistics)(const DepthwiseMap<T, S>&);
  // y
  void (*convolve)(const DepthwiseMap<T, S>&);
  // Of dt = dy f2': sums = sum dt, sum dt (z - mean)
  void (*gradient_sums)(const DepthwiseMap<T, S>&);
  // products = sum u dz for each tap, dt = f1' times the gradient of u; sums = sum dt, sum dt (x - mean)
  void (*convolve_back)(const DepthwiseMap<T, S>&);
  // dx from x and dt, in the place of dt
  void (*input_gradient)(const BlockNormalization<T>&, const AheadMap<S>& x, S* dt);
};

template <class T, class S = T>
const DepthwiseLoops<T, S>& depthwise_loops();
template <>
const DepthwiseLoops<float>& depthwise_loops<float>();
template <>
const DepthwiseLoops<double>& depthwise_loops<double>();
template <>
const DepthwiseLoops<float, BFloat16>& depthwise_loops<float, BFloat16>();

}  // namespace graft
