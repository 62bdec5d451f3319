#include "runtime/device/cuda/cuda.h"

namespace graft {

void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw DeviceError("CUDA ", what, ": ", cudaGetErrorString(status));
}

CudaStream::CudaStream() { check_cuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "stream creation"); }
CudaStream::~CudaStream() { cudaStreamDestroy(handle_); }
void CudaStream::synchronize() { check_cuda(cudaStreamSynchronize(handle_), "stream"); }

std::unique_ptr<Stream> make_cuda_stream() { return std::make_unique<CudaStream>(); }

CudaMemory::CudaMemory(int64_t bytes) : bytes_(bytes) {
  if (bytes < 0) throw DeviceError("CUDA memory of ", bytes, " bytes was asked for");
  if (bytes == 0) return;
  void* address = nullptr;
  check_cuda(cudaMalloc(&address, static_cast<size_t>(bytes)), "memory");
  address_.reset(address);
}

void CudaMemory::copy_from_host(const void* host, Stream& stream) {
  if (bytes_ == 0) return;
  check_cuda(cudaMemcpyAsync(address(), host, static_cast<size_t>(bytes_), cudaMemcpyHostToDevice, cuda_stream(stream)),
             "copy to the device");
}

void CudaMemory::copy_to_host(void* host, Stream& stream) const {
  if (bytes_ == 0) return;
  check_cuda(cudaMemcpyAsync(host, address(), static_cast<size_t>(bytes_), cudaMemcpyDeviceToHost, cuda_stream(stream)),
             "copy from the device");
}

}  // namespace graft
