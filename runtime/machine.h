// What this machine can do at most: the yardstick of every benchmark.
#pragma once

#include "graph/dtype.h"

namespace graft {

struct MachineLimits {
  int threads = 1;
  double flops_f32 = 0;  // a second; a multiply-add is two
  double flops_f64 = 0;
  double flops_bf16 = 0;        // of products of bfloat16; flops_f32 where the CPU has no instructions for them
  double flops_tiles = 0;       // of products of float32 on matrix tiles, six of bfloat16 each; 0 without
  double memory_bandwidth = 0;  // bytes a second, read and written, from and to main memory
  double cache_bandwidth = 0;   // the same while everything lies in the last-level cache
  int64_t cache_bytes = 0;      // of the last-level cache

  // The rate of arithmetic on a dtype: integers count as float32.
  double flops(DType dtype) const {
    return dtype == DType::f64 ? flops_f64 : dtype == DType::bf16 ? flops_bf16 : flops_f32;
  }
};

// Measures with the threads in use (see thread_count): multiply-adds in registers (of bfloat16 in matrix tiles; without
// tiles, a product of matrices in the cache), and the triad a = b + s * c over four times and over half of the
// last-level cache. Each figure is the best of several short rounds; all take about a third of a second. Anything else
// that runs meanwhile lowers them: see load_average.
MachineLimits measure_machine();

}  // namespace graft
