// The emulation itself: what it computes, and what it must refuse.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "graph/error.h"
#include "runtime/device/cuda/block_reduce.cuh"

namespace {

template <class... Parameters, class... Arguments>
cudaError_t run(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) {
  cudaLaunchConfig_t config;
  config.gridDim = grid;
  config.blockDim = block;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// y[i] = x[block - 1 - i] within each block, through shared memory.
__global__ void reverse(const int* x, int* y) {
  __shared__ int buffer[64];
  unsigned i = threadIdx.x, base = blockIdx.x * blockDim.x;
  buffer[i] = x[base + i];
  __syncthreads();
  y[base + i] = buffer[blockDim.x - 1 - i];
  __syncthreads();
}

__global__ void reverse_without_barrier(const int* x, int* y) {
  __shared__ int buffer[64];
  buffer[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = buffer[blockDim.x - 1 - threadIdx.x];
}

__global__ void shuffles(int* xor_, int* down, int* up, int* first, unsigned* ballot) {
  int i = static_cast<int>(threadIdx.x);
  xor_[i] = __shfl_xor_sync(~0U, i, 3);
  down[i] = __shfl_down_sync(~0U, i, 5, 16);
  up[i] = __shfl_up_sync(~0U, i, 2);
  first[i] = __shfl_sync(~0U, i, 0);
  ballot[i] = __ballot_sync(~0U, i % 3 == 0);
}

__global__ void half_of_a_warp(int* y) {
  int i = static_cast<int>(threadIdx.x);
  if (i < 16) y[i] = __shfl_xor_sync(0xffffU, i, 1);
  else y[i] = __shfl_xor_sync(0xffff0000U, i, 2);
}

__global__ void barrier_of_some() {
  if (threadIdx.x < 40) __syncthreads();
}

__global__ void two_barriers() {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
}

__global__ void shuffle_of_some(int* y) {
  if (threadIdx.x != 7) *y = __shfl_xor_sync(~0U, 1, 1);
}

__global__ void lane_outside_the_mask(int* y) {
  if (threadIdx.x < 16) *y = __shfl_sync(0xffffU, 1, 20);
}

__global__ void count(int* total) { atomicAdd(total, static_cast<int>(blockIdx.x + gridDim.x * blockIdx.y)); }

// y[i] = sums over the block of x and of x * x, one after the other.
__global__ void two_sums(const int* x, int* y) {
  auto plus = [](int a, int b) { return a + b; };
  int value = x[threadIdx.x];
  int sum = graft::block_reduce(value, 0, plus);
  y[threadIdx.x] = sum + graft::block_reduce(value * value, 0, plus);
}

std::vector<int> iota(int n) {
  std::vector<int> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

TEST(Emulation, BarriersOrderSharedMemory) {
  std::vector<int> x = iota(192), y(192);
  ASSERT_EQ(run(reverse, 3, 64, x.data(), y.data()), cudaSuccess);
  for (int i = 0; i < 192; ++i) EXPECT_EQ(y[i], i / 64 * 64 + 63 - i % 64);
}

TEST(Emulation, AMissingBarrierDependsOnTheOrder) {
  std::vector<int> x = iota(64), forward(64), backward(64);
  run(reverse, 1, 64, x.data(), forward.data());  // leaves its values in other storage
  run(reverse_without_barrier, 1, 64, x.data(), forward.data());
  for (int& value : x) value += 1000;
  cuda_on_cpu::order = cuda_on_cpu::Order::backward;
  run(reverse_without_barrier, 1, 64, x.data(), backward.data());
  cuda_on_cpu::order = cuda_on_cpu::Order::forward;
  for (int& value : backward) value -= 1000;
  EXPECT_NE(forward, backward);
}

TEST(Emulation, WarpOperations) {
  std::vector<int> xor_(64), down(64), up(64), first(64);
  std::vector<unsigned> ballot(64);
  run(shuffles, 1, 64, xor_.data(), down.data(), up.data(), first.data(), ballot.data());
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(xor_[i], i ^ 3);
    EXPECT_EQ(down[i], i % 16 + 5 < 16 ? i + 5 : i);
    EXPECT_EQ(up[i], i % 32 >= 2 ? i - 2 : i);
    EXPECT_EQ(first[i], i / 32 * 32);
  }
  EXPECT_EQ(ballot[0], 0x49249249U);   // lanes 0, 3, 6, ...
  EXPECT_EQ(ballot[32], 0x92492492U);  // 33, 36, ...
  std::vector<int> halves(32);
  run(half_of_a_warp, 1, 32, halves.data());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(halves[i], i < 16 ? i ^ 1 : i ^ 2);
}

TEST(Emulation, BlockReduce) {
  for (int n : {32, 64, 96, 1024}) {
    std::vector<int> x = iota(n), y(static_cast<size_t>(n));
    for (auto order : {cuda_on_cpu::Order::forward, cuda_on_cpu::Order::backward}) {
      cuda_on_cpu::order = order;
      run(two_sums, 1, static_cast<unsigned>(n), x.data(), y.data());
      for (int value : y) ASSERT_EQ(value, n * (n - 1) / 2 + (n - 1) * n * (2 * n - 1) / 6);
    }
    cuda_on_cpu::order = cuda_on_cpu::Order::forward;
  }
}

TEST(Emulation, RefusesDivergence) {
  int y = 0;
  EXPECT_THROW(run(barrier_of_some, 1, 64), graft::DeviceError);
  EXPECT_THROW(run(two_barriers, 1, 64), graft::DeviceError);
  EXPECT_THROW(run(shuffle_of_some, 1, 32, &y), graft::DeviceError);
  EXPECT_THROW(run(lane_outside_the_mask, 1, 32, &y), graft::DeviceError);
}

TEST(Emulation, Grids) {
  int total = 0;
  ASSERT_EQ(run(count, {3, 5}, {4, 2, 2}, &total), cudaSuccess);
  EXPECT_EQ(total, 16 * (14 * 15 / 2));
  EXPECT_EQ(run(count, 0, 32, &total), cudaErrorInvalidConfiguration);
  EXPECT_EQ(run(count, 1, 2048, &total), cudaErrorInvalidConfiguration);
}

#ifdef __SANITIZE_ADDRESS__
__global__ void write_beyond(float* y) {
  __shared__ float buffer[32];
  buffer[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = buffer[0];
}

TEST(EmulationDeathTest, SharedMemoryHasBounds) {
  std::vector<float> y(64);
  EXPECT_DEATH(run(write_beyond, 1, 64, y.data()), "out of bounds|global-buffer-overflow");
}
#endif

}  // namespace
