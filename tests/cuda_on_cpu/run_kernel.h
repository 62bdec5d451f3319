// Runs a node by a CUDA kernel: on the GPU in a build with CUDA, on the CPU under the emulation.
#pragma once

#include "graph/graph.h"
#include "ops/op.h"

namespace graft::test {

// Results of `node` by the first of `kernels` that has its dtype; the dims of its results must be set. With `in_place`,
// outputs lie in the memory of the inputs that the kernel says it may overwrite. Under the emulation, DeviceError when
// results depend on the order in which threads run.
std::vector<Tensor> run_kernel(const std::vector<KernelEntry>& kernels, const Node& node,
                               const std::vector<Tensor>& inputs, bool in_place = false);

}  // namespace graft::test
