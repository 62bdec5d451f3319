// Streams and memory of the current CUDA device. Included by CUDA kernels and by runtime/device/cuda only.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "runtime/device/device.h"

namespace graft {

// DeviceError that names `what` unless `status` is success.
void check_cuda(cudaError_t status, const char* what);

class CudaStream : public Stream {
 public:
  CudaStream();
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  // Waits for all that was enqueued; DeviceError when a kernel failed.
  void synchronize() override;
  cudaStream_t handle() const { return handle_; }

 private:
  cudaStream_t handle_ = nullptr;
};

inline cudaStream_t cuda_stream(Stream& stream) { return static_cast<CudaStream&>(stream).handle(); }

// Device memory, given back by the destructor. Aligned to 256 bytes; uninitialised.
class CudaMemory {
 public:
  explicit CudaMemory(int64_t bytes);
  int64_t bytes() const { return bytes_; }
  void* address() const { return address_.get(); }
  // Copies the whole block from or to the host, in the order of the stream; host memory must outlive the copy.
  void copy_from_host(const void* host, Stream& stream);
  void copy_to_host(void* host, Stream& stream) const;

 private:
  struct Free {
    void operator()(void* address) const { cudaFree(address); }
  };
  int64_t bytes_ = 0;
  std::unique_ptr<void, Free> address_;
};

// Enqueues kernel(arguments...) with `grid` blocks of `block` threads.
template <class... Parameters, class... Arguments>
void launch(Stream& stream, void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = cuda_stream(stream);
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "kernel launch");
}

}  // namespace graft
