// Reductions over the threads of a one-dimensional block whose size is a multiple of the warp.
#pragma once

#include <cuda_runtime.h>

namespace graft {

constexpr int warp_size = 32;
constexpr unsigned whole_warp = 0xffffffffU;

template <class T>
__device__ T shuffle_xor(T value, int lanes) {
  return __shfl_xor_sync(whole_warp, value, lanes);
}

// merge(value of every thread...), in every thread. `merge` is associative and commutative, `identity` its neutral
// element. Types of several fields overload shuffle_xor. All threads of the block must call this together.
template <class T, class Merge>
__device__ T block_reduce(T value, T identity, Merge merge) {
  __shared__ T partial[warp_size];
  int warp = static_cast<int>(threadIdx.x) / warp_size;
  int lane = static_cast<int>(threadIdx.x) % warp_size;
  int warps = static_cast<int>(blockDim.x) / warp_size;
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) value = merge(value, shuffle_xor(value, lanes));
  if (warps == 1) return value;
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = lane < warps ? partial[lane] : identity;
  for (int lanes = warp_size / 2; lanes > 0; lanes /= 2) value = merge(value, shuffle_xor(value, lanes));
  __syncthreads();  // `partial` is free for the next reduction
  return value;
}

}  // namespace graft
