// Products in mixed precision on oneDNN: bfloat16 operands, float32 sums.
#include "ops/product.h"
#include "runtime/device/cpu/dnnl.h"

namespace graft {
namespace {

using dnnl::memory;

memory::desc matrix_desc(DType dtype, const Dims& dims, const Dims& strides) {
  // Strides of axes of size 1 say nothing, but oneDNN reads them.
  Dims own = strides;
  for (size_t d = dims.size(); d-- > 0;) {
    if (dims[d] == 1) own[d] = d + 1 < dims.size() ? own[d + 1] * dims[d + 1] : 1;
  }
  return {dims, dnnl_dtype(dtype), own};
}

struct Settled {
  dnnl::matmul::primitive_desc descriptor;
  memory::desc a, b, c, y;
};

Settled settle(const Node& node, const Product& p) {
  return with_dnnl_errors(node, [&] {
    Settled s;
    s.a = matrix_desc(DType::bf16, p.a, p.a_strides);
    s.b = matrix_desc(DType::bf16, p.b, p.b_strides);
    s.y = matrix_desc(node.outputs[0]->dtype, p.y, p.y_strides);
    dnnl::primitive_attr attributes = scratch_attributes();
    if (p.alpha != 1) {
      dnnl::post_ops scaling;
      scaling.append_eltwise(dnnl::algorithm::eltwise_linear, static_cast<float>(p.alpha), 0);
      attributes.set_post_ops(scaling);
    }
    if (!p.adds) {
      s.descriptor = {cpu_engine(), s.a, s.b, s.y, attributes};
      return s;
    }
    s.c = matrix_desc(DType::f32, p.c, Layout::plain(p.c).strides);
    s.descriptor = {cpu_engine(), s.a, s.b, s.c, s.y, attributes};
    return s;
  });
}

}  // namespace

std::optional<MixedPrecision> mix_product(const Node& node, const Product& p) {
  const bool vector = p.adds && p.c.back() == p.n() && element_count(p.c) == p.n() && !p.swapped;
  if (!has_bfloat16() || element_count(p.y) == 0 || p.k() == 0 || p.y.size() > DNNL_MAX_NDIMS) return std::nullopt;
  if (p.adds && (!vector || p.alpha != 1 || p.beta != 1)) return std::nullopt;
  for (const Value* value : node.inputs) {
    if (value && value->dtype != DType::f32 && value->dtype != DType::bf16) return std::nullopt;
  }
  return MixedPrecision{.inputs = 3, .outputs = 1, .optional = 1};
}

Settlement settle_mixed_product(const Node& node, const Product& product) {
  Settled settled = settle(node, product);
  Settlement settlement;
  settlement.scratch_bytes = static_cast<int64_t>(settled.descriptor.scratchpad_desc().get_size());
  settlement.descriptor = settled;
  return settlement;
}

Kernel prepare_mixed_product(const Node& node, const Product& product, const Binding& binding) {
  const auto& s = std::any_cast<const Settled&>(binding.settlement->descriptor);
  const void *a = binding.inputs[0], *b = binding.inputs[1];
  if (product.swapped) std::swap(a, b);
  BoundPrimitive::Operands operands = {
      {DNNL_ARG_SRC, dnnl_memory(s.a, a)},
      {DNNL_ARG_WEIGHTS, dnnl_memory(s.b, b)},
      {DNNL_ARG_DST, dnnl_memory(s.y, binding.outputs[0])},
      {DNNL_ARG_SCRATCHPAD, dnnl_memory(s.descriptor.scratchpad_desc(), binding.scratch)}};
  if (product.adds) operands.emplace_back(DNNL_ARG_BIAS, dnnl_memory(s.c, binding.inputs[2]));
  return with_dnnl_errors(node, [&] { return BoundPrimitive(s.descriptor, operands); });
}

}  // namespace graft
