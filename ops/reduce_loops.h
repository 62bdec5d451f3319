// Reductions of contiguous runs and of columns; float32 is compiled for several instruction sets.
#pragma once

#include <cstdint>
#include <string_view>

namespace graft {

// One way to reduce. Elements are mapped (square, absolute value) as they enter; merge joins what is already reduced.
template <class T>
struct ReduceLoops {
  T identity;
  T (*row)(const T* x, int64_t n);  // of n contiguous elements
  // acc[j] joins x[i * stride + j] for i < rows, j < n
  void (*columns)(const T* x, int64_t rows, int64_t stride, int64_t n, T* acc);
  T (*merge)(T a, T b);
};

// "sum", "square", "absolute", "max", "min"; nullptr for others.
const ReduceLoops<float>* vector_reduce_loops(std::string_view kind);

}  // namespace graft
