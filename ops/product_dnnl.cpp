// Products on oneDNN: in mixed precision, bfloat16 operands and float32 sums; in float32 where that is chosen.
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
  dnnl::primitive_desc descriptor;
  memory::desc a, b, c, y;
  int a_argument = DNNL_ARG_SRC, b_argument = DNNL_ARG_WEIGHTS, y_argument = DNNL_ARG_DST;
};

Settled operands(const Node& node, const Product& p) {
  Settled s;
  s.a = matrix_desc(node.inputs[0]->dtype, p.a, p.a_strides);
  s.b = matrix_desc(node.inputs[1]->dtype, p.b, p.b_strides);
  s.y = matrix_desc(node.outputs[0]->dtype, p.y, p.y_strides);
  if (p.adds) s.c = matrix_desc(DType::f32, p.c, Layout::plain(p.c).strides);
  return s;
}

dnnl::primitive_attr scaled(const Product& p) {
  dnnl::primitive_attr attributes = scratch_attributes();
  if (p.alpha == 1) return attributes;
  dnnl::post_ops scaling;
  scaling.append_eltwise(dnnl::algorithm::eltwise_linear, static_cast<float>(p.alpha), 0);
  attributes.set_post_ops(scaling);
  return attributes;
}

Settled settle_matmul(const Node& node, const Product& p) {
  Settled s = operands(node, p);
  using matmul = dnnl::matmul::primitive_desc;
  if (p.adds) s.descriptor = matmul(cpu_engine(), s.a, s.b, s.c, s.y, scaled(p));
  else s.descriptor = matmul(cpu_engine(), s.a, s.b, s.y, scaled(p));
  return s;
}

memory::desc turned(DType dtype, const Dims& dims, const Dims& strides) {
  return matrix_desc(dtype, {dims[1], dims[0]}, {strides[1], strides[0]});
}

// y = a b as the layer of weights b^T; where a lies transposed, as the gradient of its weights for the input b and the
// gradient a^T.
Settled settle_inner_product(const Node& node, const Product& p) {
  Settled s = operands(node, p);
  using dnnl::prop_kind;
  using forward = dnnl::inner_product_forward::primitive_desc;
  if (p.a_strides[1] == 1 || p.adds) {
    memory::desc weights = turned(node.inputs[1]->dtype, p.b, p.b_strides);
    if (p.adds) {
      memory::desc bias({p.n()}, memory::data_type::f32, memory::format_tag::a);
      s.c = bias;
      s.descriptor = forward(cpu_engine(), prop_kind::forward_training, s.a, weights, bias, s.y, scaled(p));
    } else {
      s.descriptor = forward(cpu_engine(), prop_kind::forward_training, s.a, weights, s.y, scaled(p));
    }
    s.b = weights;
    return s;
  }
  const DType dtype = node.inputs[0]->dtype;
  s.a = turned(dtype, p.a, p.a_strides);
  forward hint(cpu_engine(), prop_kind::forward_training, s.b, dnnl_any(dtype, p.y), s.a, scratch_attributes());
  s.descriptor =
      dnnl::inner_product_backward_weights::primitive_desc(cpu_engine(), s.b, s.y, s.a, hint, scratch_attributes());
  s.a_argument = DNNL_ARG_DIFF_DST;
  s.b_argument = DNNL_ARG_SRC;
  s.y_argument = DNNL_ARG_DIFF_WEIGHTS;
  return s;
}

constexpr const char* inner_product = "inner_product";

Settled settle(const Node& node, const Product& p) {
  return with_dnnl_errors(
      node, [&] { return p.kernel == inner_product ? settle_inner_product(node, p) : settle_matmul(node, p); });
}

// Sums are alpha times the product and then a vector: oneDNN would scale both. Its 32 bits have to count every side.
bool takes_operands(const Product& p) {
  if (element_count(p.y) == 0 || p.k() == 0 || p.y.size() > DNNL_MAX_NDIMS) return false;
  if (!dnnl_counts(p.a) || !dnnl_counts(p.b)) return false;
  const bool vector = p.c.size() == p.y.size() && p.c.back() == p.n() && element_count(p.c) == p.n() && !p.swapped;
  return !p.adds || (vector && p.alpha == 1 && p.beta == 1);
}

// Whether oneDNN has more than plain loops for it.
bool is_made(const Node& node, const Product& p) {
  try {
    return !std::string_view(settle(node, p).descriptor.impl_info_str()).starts_with("ref");
  } catch (const UnsupportedError&) {
    return false;
  }
}

}  // namespace

bool dnnl_fits(const Node& node, const Product& p) { return takes_operands(p) && is_made(node, p); }

std::vector<std::string> mixed_product_choices(const Node& node, const Product& product) {
  Product other = product;
  other.kernel = inner_product;
  const bool transposed = product.a_strides.back() != 1;
  if (product.y.size() != 2 || (transposed && product.alpha != 1) || !dnnl_fits(node, other)) return {};
  return {"matmul", inner_product};
}

std::optional<MixedPrecision> mix_product(const Node& node, const Product& p) {
  if (!has_bfloat16() || !takes_operands(p)) return std::nullopt;
  for (const Value* value : node.inputs) {
    if (value && value->dtype != DType::f32 && value->dtype != DType::bf16) return std::nullopt;
  }
  return MixedPrecision{.inputs = 3, .outputs = 1, .optional = 1};
}

Settlement settle_dnnl_product(const Node& node, const Product& product) {
  Settled settled = settle(node, product);
  Settlement settlement;
  settlement.scratch_bytes = static_cast<int64_t>(settled.descriptor.scratchpad_desc().get_size());
  settlement.descriptor = settled;
  return settlement;
}

Kernel prepare_dnnl_product(const Node& node, const Product& product, const Binding& binding) {
  const auto& s = std::any_cast<const Settled&>(binding.settlement->descriptor);
  const void *a = binding.inputs[0], *b = binding.inputs[1];
  if (product.swapped) std::swap(a, b);
  BoundPrimitive::Operands operands = {
      {s.a_argument, dnnl_memory(s.a, a)},
      {s.b_argument, dnnl_memory(s.b, b)},
      {s.y_argument, dnnl_memory(s.y, binding.outputs[0])},
      {DNNL_ARG_SCRATCHPAD, dnnl_memory(s.descriptor.scratchpad_desc(), binding.scratch)}};
  if (product.adds) operands.emplace_back(DNNL_ARG_BIAS, dnnl_memory(s.c, binding.inputs[2]));
  return with_dnnl_errors(node, [&] { return BoundPrimitive(s.descriptor, operands); });
}

}  // namespace graft
