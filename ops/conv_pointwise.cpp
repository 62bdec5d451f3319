// Gradients of the weights of 1x1 convolutions in bfloat16: on channels-last tensors they are one product,
// dw = dy^T x over all pixels, and oneDNN's product is faster than its convolution.
#include "ops/conv.h"
#include "runtime/device/cpu/dnnl.h"

namespace graft {
namespace {

using dnnl::memory;

Layout channels_last(const Dims& dims) {
  std::vector<int> order{0};
  for (size_t d = 2; d < dims.size(); ++d) order.push_back(static_cast<int>(d));
  order.push_back(1);
  return Layout::permuted(dims, order);
}

struct Settled {
  dnnl::matmul::primitive_desc descriptor;
  memory::desc dy, x, dw;
};

Settled settle(const Node& node, const ConvProblem& p) {
  return with_dnnl_errors(node, [&] {
    const int64_t pixels = element_count(p.x) / p.x[1], from = p.x[1], to = p.y[1];
    using type = memory::data_type;
    Settled s;
    s.dy = {dnnl_dims({to, pixels}), type::bf16, memory::dims{1, to}};
    s.x = {dnnl_dims({pixels, from}), type::bf16, memory::dims{from, 1}};
    s.dw = {dnnl_dims({to, from}), type::f32, memory::dims{from, 1}};
    s.descriptor = {cpu_engine(), s.dy, s.x, s.dw, scratch_attributes()};
    return s;
  });
}

}  // namespace

bool pointwise_fits(const ConvProblem& p) {
  return p.slots.way == ConvWay::weights && p.dtype == DType::bf16 && p.group == 1 && p.is_pointwise() &&
         has_bfloat16();
}

void propose_pointwise(const ConvProblem& p, Candidate& candidate) {
  set_layout(candidate, p.slots.x, channels_last(p.x));
  set_layout(candidate, p.slots.y, channels_last(p.y));
  set_layout(candidate, p.slots.w, pointwise_weights_layout(p));
}

bool takes_pointwise(const Node& node, const ConvProblem& p) {
  return pointwise_fits(p) && conv_value(node, p.slots.x)->layout == channels_last(p.x) &&
         conv_value(node, p.slots.y)->layout == channels_last(p.y);
}

Layout pointwise_weights_layout(const ConvProblem& p) { return Layout::plain(p.w); }

Settlement settle_pointwise(const Node& node, const ConvProblem& p) {
  Settled settled = settle(node, p);
  Settlement settlement;
  settlement.scratch_bytes =
      checked_add(aligned(settled.descriptor.scratchpad_desc().get_size()), bias_gradient_scratch(node, p));
  settlement.descriptor = settled;
  return settlement;
}

Kernel prepare_pointwise(const Node& node, const ConvProblem& p, const Binding& binding) {
  const auto& s = std::any_cast<const Settled&>(binding.settlement->descriptor);
  const memory::desc scratch = s.descriptor.scratchpad_desc();
  auto* after = static_cast<std::byte*>(binding.scratch) + aligned(scratch.get_size());
  Kernel multiply = with_dnnl_errors(node, [&] {
    return BoundPrimitive(s.descriptor, {{DNNL_ARG_SRC, dnnl_memory(s.dy, conv_address(binding, p.slots.y))},
                                         {DNNL_ARG_WEIGHTS, dnnl_memory(s.x, conv_address(binding, p.slots.x))},
                                         {DNNL_ARG_DST, dnnl_memory(s.dw, conv_address(binding, p.slots.w))},
                                         {DNNL_ARG_SCRATCHPAD, dnnl_memory(scratch, binding.scratch)}});
  });
  return then_sum_bias(node, p, binding, after, multiply);
}

}  // namespace graft
