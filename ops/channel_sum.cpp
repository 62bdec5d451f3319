// graft.ChannelSum: y[c] = sum over batch and space of x[n,c,...]; what a bias of channels gets as its gradient.
#include "ops/bfloat16.h"
#include "ops/channel_view.h"
#include "ops/gradient.h"

namespace graft {
namespace {

void infer_channel_sum(Node& node) {
  const Dims& dims = node.inputs[0]->dims;
  if (dims.size() < 2) throw ModelError(node.where(), " wants an input of rank 2 or more, got ", dims);
  Value* y = node.outputs[0];
  y->dtype = node.inputs[0]->dtype;
  y->ranked = true;
  y->dims = {dims[1]};
}

Settlement settle_channel_sum(const Node& node, const Settlement*) {
  ChannelView view = channel_view(node, *node.inputs[0]);
  Settlement settlement;
  settlement.scratch_bytes = ChannelSums::scratch_bytes(view, ChannelSums::slices(view));
  return settlement;
}

template <class S>
Kernel prepare_channel_sum(const Node& node, const Binding& binding) {
  using T = Widened<S>;
  ChannelView view = channel_view(node, *node.inputs[0]);
  const S* x = binding.in<S>(0);
  T* y = binding.out<T>(0);
  ChannelSums sums(view, binding.scratch, ChannelSums::slices(view));
  return [=](Stream&) mutable {
    sums.run<T>([=](int64_t i, int64_t) { return std::pair<T, T>(widened(x[i]), T{0}); });
    for (int64_t c = 0; c < view.channels; ++c) y[c] = static_cast<T>(sums.first(c));
  };
}

std::optional<MixedPrecision> mix_channel_sum(const Node&) { return MixedPrecision{.inputs = 1}; }

Vals differentiate_channel_sum(Gradient& g) {
  Dims column(g.x(0).dims().size(), 1);
  column[1] = g.x(0).dim(1);
  return {expand(reshape(g.dy(0), column), g.x(0).dims())};
}

}  // namespace

std::vector<Op> channel_sum_ops() {
  return {{.type = "ChannelSum",
           .domain = "graft",
           .infer = infer_channel_sum,
           .cpu = {{DTypes::f32, {propose_channelwise, settle_channel_sum, prepare_channel_sum<float>}},
                   {DTypes::f64, {propose_channelwise, settle_channel_sum, prepare_channel_sum<double>}},
                   {DTypes::bf16, {propose_channelwise, settle_channel_sum, prepare_channel_sum<BFloat16>}}},
           .differentiate = differentiate_channel_sum,
           .mixed_precision = mix_channel_sum}};
}

}  // namespace graft
