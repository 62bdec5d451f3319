// Reductions of contiguous runs and of columns; float32 is compiled for several instruction sets.
#pragma once

#include <cstdint>
#include <string_view>

#include "graph/dtype.h"

namespace graft {

// One way to reduce. Elements are mapped (square, absolute value) as they enter; merge joins what is already reduced.
// X: the type of elements that are not reduced yet.
template <class T, class X = T>
struct ReduceLoops {
  T identity;
  T (*row)(const X* x, int64_t n);  // of n contiguous elements
  // acc[j] joins x[i * stride + j] for i < rows, j < n
  void (*columns)(const X* x, int64_t rows, int64_t stride, int64_t n, T* acc);
  T (*merge)(T a, T b);
};

// "sum", "square", "absolute", "max", "min"; nullptr for others.
const ReduceLoops<float>* vector_reduce_loops(std::string_view kind);
const ReduceLoops<float, BFloat16>* vector_reduce_loops_bf16(std::string_view kind);

}  // namespace graft
