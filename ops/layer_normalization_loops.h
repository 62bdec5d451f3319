// The loops of layer normalisation, one row of `width` neighbouring elements at a time, for every instruction set.
#pragma once

#include <cstdint>

#include "graph/dtype.h"

namespace graft {

// T: type of the arithmetic and of all vectors; E: of the rows, T or BFloat16. What is absent is nullptr.
template <class T>
struct RowStatistics {
  T mean, inverse;  // 1 / sigma
};

template <class T, class E>
struct LayerRow {
  int64_t width = 0;
  double epsilon = 0;
  bool centred = true;  // false: the mean is taken to be 0
  const T *scale = nullptr, *bias = nullptr;
  const E* x = nullptr;
  E* y = nullptr;
};

template <class T, class E>
struct LayerRowGrad {
  int64_t width = 0;
  bool centred = true;
  RowStatistics<T> statistics{};
  const T* scale = nullptr;
  const E *x = nullptr, *dy = nullptr;
  T *scale_sums = nullptr, *bias_sums = nullptr;  // both or none
  E* dx = nullptr;
};

template <class T, class E>
struct LayerLoops {
  // y = (x - mean) / sigma * scale + bias
  RowStatistics<T> (*normalize)(const LayerRow<T, E>&);
  // h = (x - mean) / sigma, g = dy scale:  scale_sums += dy h,  bias_sums += dy,
  // dx = (g - mean(g) - h mean(g h)) / sigma
  void (*grad)(const LayerRowGrad<T, E>&);
};

template <class T, class E>
const LayerLoops<T, E>& layer_loops();
template <>
const LayerLoops<float, float>& layer_loops<float, float>();
template <>
const LayerLoops<float, BFloat16>& layer_loops<float, BFloat16>();
template <>
const LayerLoops<double, double>& layer_loops<double, double>();

}  // namespace graft
