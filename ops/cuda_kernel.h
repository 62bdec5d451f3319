// The CUDA row of an operator, for sources that see no CUDA header. CUDA_KERNEL(softmax) in namespace graft declares
//   std::vector<KernelEntry> softmax_cuda();
// which ops/softmax.cu defines; in a build without CUDA it is empty. Used as `.cuda = softmax_cuda()`.
#pragma once

#include "ops/op.h"

#ifdef GRAFT_CUDA
#define CUDA_KERNEL(name) std::vector<KernelEntry> name##_cuda()
#else
#define CUDA_KERNEL(name) \
  static inline std::vector<KernelEntry> name##_cuda() { return {}; }  // NOLINT(misc-definitions-in-headers)
#endif
