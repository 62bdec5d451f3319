// Stands in for CUDA's header of this name, so that a .cu file compiles as C++ and its kernels run on the CPU: one
// thread block at a time, its threads as fibres that switch at barriers and warp shuffles. Tests only: slow and strict.
// What the hardware leaves undefined is an error here: a barrier that not all threads of the block reach at the same
// place, a shuffle that not all lanes of its mask reach at the same place, a read from a lane outside the mask.
// Shared memory is static storage, where AddressSanitizer sees its bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>

// NOLINTBEGIN(readability-identifier-naming,bugprone-reserved-identifier,performance-enum-size): CUDA's names and types
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
  constexpr size_t count() const { return size_t{x} * y * z; }
};

// Of the running thread.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace cuda_on_cpu {

using Location = std::source_location;

// The order in which the threads of a block and the blocks of a grid run between two barriers. Results that depend on
// it show a race.
enum class Order : uint8_t { forward, backward };
inline Order order = Order::forward;

void run_grid(dim3 grid, dim3 block, const std::function<void()>& kernel);
void block_barrier(const Location& where);
// Waits for all lanes of `mask`; each leaves `size` bytes and sees those of lane `from`.
void exchange(unsigned mask, int from, const void* value, void* result, size_t size, const Location& where);
int lane();

template <class T>
T exchange(unsigned mask, int from, T value, const Location& where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  T result;
  exchange(mask, from, &value, &result, sizeof(T), where);
  return result;
}

}  // namespace cuda_on_cpu

inline void __syncthreads(cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  cuda_on_cpu::block_barrier(where);
}

inline void __syncwarp(unsigned mask = ~0U, cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  cuda_on_cpu::exchange(mask, cuda_on_cpu::lane(), 0, where);
}

// Lanes are grouped by `width`, a power of two; reading beyond the group gives the lane's own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = warpSize,
              cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  int lane = cuda_on_cpu::lane();
  return cuda_on_cpu::exchange(mask, lane / width * width + (from & (width - 1)), value, where);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  int lane = cuda_on_cpu::lane();
  bool inside = lane % width + static_cast<int>(delta) < width;
  return cuda_on_cpu::exchange(mask, inside ? lane + static_cast<int>(delta) : lane, value, where);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  int lane = cuda_on_cpu::lane();
  bool inside = lane % width >= static_cast<int>(delta);
  return cuda_on_cpu::exchange(mask, inside ? lane - static_cast<int>(delta) : lane, value, where);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize,
                  cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  int lane = cuda_on_cpu::lane();
  bool inside = ((lane ^ lanes) & ~(width - 1)) <= (lane & ~(width - 1));
  return cuda_on_cpu::exchange(mask, inside ? lane ^ lanes : lane, value, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  unsigned votes = predicate ? 1U << cuda_on_cpu::lane() : 0;
  unsigned all = 0;
  for (int from = 0; from < warpSize; ++from) {
    if (mask >> from & 1U) all |= cuda_on_cpu::exchange(mask, from, votes, where);
  }
  return all;
}

inline int __any_sync(unsigned mask, int predicate, cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}

inline int __all_sync(unsigned mask, int predicate, cuda_on_cpu::Location where = cuda_on_cpu::Location::current()) {
  return __ballot_sync(mask, predicate, where) == mask;
}

// Threads run one at a time, so that plain code is atomic.
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  T old = *address;
  *address = old + value;
  return old;
}

template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  T old = *address;
  if (value > old) *address = value;
  return old;
}

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  T old = *address;
  if (old == expected) *address = value;
  return old;
}

// --- The part of the runtime library that runtime/device/cuda uses. Device memory is host memory. ---

enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
using cudaStream_t = struct CudaStreamOnCpu*;
inline constexpr unsigned cudaStreamNonBlocking = 1;

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
  }
  return "unknown error";
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

inline cudaError_t cudaMalloc(void** address, size_t bytes) {
  *address = std::malloc(bytes);
  return *address ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* address) {
  std::free(address);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  constexpr size_t largest_block = 1024;
  constexpr unsigned largest_grid = 0x7fffffff, largest_grid_y = 0xffff;
  const dim3 &grid = config->gridDim, &block = config->blockDim;
  if (grid.count() == 0 || block.count() == 0 || block.count() > largest_block || grid.x > largest_grid ||
      grid.y > largest_grid_y || grid.z > largest_grid_y || config->dynamicSmemBytes > 0) {
    return cudaErrorInvalidConfiguration;
  }
  cuda_on_cpu::run_grid(grid, block, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}
// NOLINTEND(readability-identifier-naming,bugprone-reserved-identifier,performance-enum-size)
