// The loops of a normalisation with what follows it, for every instruction set: t = (x - mean) factor + bias
// [+ residual], y = f(t). They run over rows of `width` channels; vectors of channels are held in registers.
#pragma once

#include <cstdint>

#include "graph/dtype.h"

namespace graft {

//   none        y = t
//   clamp       y = min(max(t, low), high), slope 1 strictly between; a `high` that is NaN does not limit
//   hard_swish  y = t min(max(t/6 + 1/2, 0), 1)
enum class Epilogue : uint8_t { none, clamp, hard_swish };

// What a kernel does to a result t before it writes it: f(t + bias + beside). What is absent is nullptr.
template <class S>
struct Finish {
  const float* bias = nullptr;  // by channel
  const S* beside = nullptr;    // lies as the result, which may lie over it
  Epilogue epilogue = Epilogue::none;
  float low = 0, high = 0;
};

// How backward comes to the slope of y at t: there is no need to (none), from x again, or from bits that forward left.
enum class Slope : uint8_t { one, clamp, hard_swish, bits };

// T is the type of the arithmetic, of vectors and sums; S that of the elements. Operands point to the first element,
// vectors to the first channel; what is absent is nullptr.
template <class T, class S = T>
struct NormalizedRows {
  int64_t rows = 0, width = 0;
  const T *mean = nullptr, *factor = nullptr, *bias = nullptr;
  T low = 0, high = 0;
  const S *x = nullptr, *residual = nullptr;
  S* y = nullptr;
  uint8_t* bits = nullptr;  // whether the slope is 1, in the order of the loop; NormalizationLoops::bit_bytes
};

template <class T, class S = T>
struct NormalizedRowsGrad {
  int64_t rows = 0, width = 0;
  const T *mean = nullptr, *factor = nullptr, *bias = nullptr;
  T low = 0, high = 0;
  const S* x = nullptr;                       // absent where nothing needs it
  const S *dy = nullptr, *more_dy = nullptr;  // dy + more_dy is the gradient of y
  const uint8_t* bits = nullptr;
  S* dt = nullptr;
  const T *slope = nullptr, *slope_x = nullptr, *offset = nullptr;  // slope_x and offset come together
  S* dx = nullptr;
};

template <class T, class S = T>
struct NormalizationLoops {
  // sums[0..width) = sum x - mean, sums[width..) = sum (x - mean)^2
  void (*statistics)(const NormalizedRows<T, S>&, T* sums);
  void (*normalize)(const NormalizedRows<T, S>&, Epilogue);
  // dt = dy * slope of y, written where that is wanted; sums[0..width) = sum dt, sums[width..) = sum dt (x - mean)
  void (*grad_sums)(const NormalizedRowsGrad<T, S>&, Slope, T* sums);
  // dx = dt slope + (x - mean) slope_x + offset
  void (*grad)(const NormalizedRowsGrad<T, S>&, Slope);
  // totals[0..count) += sums[0..count)
  void (*add)(const T* sums, int64_t count, double* totals);
  // Bytes that the bits of so many rows take.
  int64_t (*bit_bytes)(int64_t rows, int64_t width);
};

template <class T, class S = T>
const NormalizationLoops<T, S>& normalization_loops();
template <>
const NormalizationLoops<float>& normalization_loops<float>();
template <>
const NormalizationLoops<double>& normalization_loops<double>();
template <>
const NormalizationLoops<float, BFloat16>& normalization_loops<float, BFloat16>();

}  // namespace graft
