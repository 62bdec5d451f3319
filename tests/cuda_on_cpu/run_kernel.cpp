#include "tests/cuda_on_cpu/run_kernel.h"

#include "runtime/device/cuda/cuda.h"

namespace graft::test {
namespace {

std::vector<Tensor> run_once(const KernelFunctions& functions, const Node& node, const std::vector<Tensor>& inputs,
                             bool in_place) {
  CudaStream stream;
  Settlement settlement = functions.settle(node, nullptr);
  std::vector<std::unique_ptr<CudaMemory>> memory;
  Binding binding;
  for (const Tensor& input : inputs) {
    memory.push_back(std::make_unique<CudaMemory>(input.bytes()));
    memory.back()->copy_from_host(input.raw(), stream);
    binding.inputs.push_back(memory.back()->address());
  }
  std::vector<size_t> place;  // of each output in `memory`
  for (const Value* output : node.outputs) {
    place.push_back(memory.size());
    memory.push_back(std::make_unique<CudaMemory>(byte_count(output->dtype, output->dims)));
  }
  for (auto [out, in] : settlement.in_place) {
    if (in_place) place[static_cast<size_t>(out)] = static_cast<size_t>(in);
  }
  for (size_t at : place) binding.outputs.push_back(memory[at]->address());
  CudaMemory scratch(settlement.scratch_bytes);
  binding.scratch = scratch.address();
  binding.settlement = &settlement;

  Kernel kernel = functions.prepare(node, binding);
  if (kernel) kernel(stream);
  std::vector<Tensor> results;
  for (size_t i = 0; i < place.size(); ++i) {
    results.emplace_back(node.outputs[i]->dtype, node.outputs[i]->dims);
    memory[place[i]]->copy_to_host(results.back().raw(), stream);
  }
  stream.synchronize();
  return results;
}

}  // namespace

std::vector<Tensor> run_kernel(const std::vector<KernelEntry>& kernels, const Node& node,
                               const std::vector<Tensor>& inputs, bool in_place) {
  auto entry = kernels.begin();
  while (entry != kernels.end() && !contains(entry->dtypes, kernel_dtype(node))) ++entry;
  if (entry == kernels.end()) throw UnsupportedError(node.where(), " has no CUDA kernel for ", kernel_dtype(node));
  std::vector<Tensor> results = run_once(entry->functions, node, inputs, in_place);
#ifndef GRAFT_CUDA
  cuda_on_cpu::order = cuda_on_cpu::Order::backward;
  std::vector<Tensor> again = run_once(entry->functions, node, inputs, in_place);
  cuda_on_cpu::order = cuda_on_cpu::Order::forward;
  for (size_t i = 0; i < results.size(); ++i) {
    if (std::memcmp(results[i].raw(), again[i].raw(), static_cast<size_t>(results[i].bytes())) != 0) {
      throw DeviceError(node.where(), " result ", i, " depends on the order of the threads");
    }
  }
#endif
  return results;
}

}  // namespace graft::test
