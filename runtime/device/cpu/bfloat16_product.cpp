#include "runtime/device/cpu/dnnl.h"
#include "runtime/device/cpu/peak_loops.h"

namespace graft {

std::function<double()> bfloat16_product() {
  using dnnl::memory;
  constexpr int64_t size = 1024;
  const memory::desc plain({size, size}, memory::data_type::bf16, memory::format_tag::ab);
  const memory::desc any({size, size}, memory::data_type::bf16, memory::format_tag::any);
  const dnnl::matmul::primitive_desc descriptor(cpu_engine(), plain, any, plain);
  dnnl::stream stream(cpu_engine());
  auto zeros = [](const memory::desc& desc) {
    memory filled(desc, cpu_engine());
    std::memset(filled.get_data_handle(), 0, desc.get_size());
    return filled;
  };
  const memory a = zeros(plain), b = zeros(descriptor.weights_desc()), y = zeros(plain);
  return [=, multiply = dnnl::matmul(descriptor)]() mutable {
    multiply.execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, y}});
    stream.wait();
    return 2.0 * size * size * size;
  };
}

}  // namespace graft
