// GroupNormalization, and InstanceNormalization as the case of one channel a group. Statistics are those of one
// sample's group of channels. Samples lie one after the other, so that (n, c) is one long axis of channels.
#include <cmath>

#include "graph/schema.h"
#include "ops/bfloat16.h"
#include "ops/channel_view.h"
#include "ops/gradient.h"

namespace graft {
namespace {

struct Groups {
  ChannelView view;              // of x
  ChannelView channels;          // the same storage, with batch and channels as one axis
  int64_t groups = 1, size = 1;  // groups of a sample, channels of a group
  double epsilon = 1e-5;

  int64_t at(int64_t n, int64_t c) const { return n * view.padded_channels() + c; }
  double count() const { return static_cast<double>(size * view.spatial); }
};

void check_vector(const Node& node, const Value* value, size_t i) {
  const Value& x = *node.inputs[0];
  // What may be mixed with bfloat16 was checked when the kernel was looked up.
  if (value->dtype != x.dtype && x.dtype != DType::bf16)
    throw UnsupportedError(node.where(), " mixes element types ", x.dtype, " and ", value->dtype);
  if (value->dims != Dims{x.dims[1]})
    throw ModelError(node.where(), " input ", i, " must have shape ", Dims{x.dims[1]}, ", got ", value->dims);
}

Groups groups_of(const Node& node) {
  const Value& x = *node.inputs[0];
  if (x.dims.size() < 2) throw ModelError(node.where(), " wants an input of rank 2 or more, got ", x.dims);
  check_vector(node, node.inputs[1], 1);
  Groups g;
  g.view = channel_view(node, x);
  g.groups = node.type == "InstanceNormalization" ? x.dims[1] : node.integer("num_groups", x.dims[1]);
  if (x.dims[1] != 0 && (g.groups < 1 || x.dims[1] % g.groups != 0)) {
    throw ModelError(node.where(), " attribute 'num_groups' is ", g.groups, ": it must divide the ", x.dims[1],
                     " channels");
  }
  g.size = x.dims[1] == 0 ? 0 : x.dims[1] / g.groups;
  g.epsilon = node.real("epsilon", 1e-5);
  g.channels = g.view;
  g.channels.batch = 1;
  g.channels.blocks = checked_mul(g.view.batch, g.view.blocks);
  g.channels.channels = g.channels.padded_channels();
  return g;
}

std::optional<size_t> saved_index(const Node& node) {
  if (node.outputs.size() > 1 && node.outputs.back() && node.outputs.back()->opaque) return node.outputs.size() - 1;
  return std::nullopt;
}

constexpr int64_t vector_count = 4;

Settlement settle_groups(const Node& node, const Settlement*) {
  Groups g = groups_of(node);
  int64_t bytes = checked_mul(g.channels.padded_channels(), static_cast<int64_t>(size_of(node.inputs[1]->dtype)));
  Settlement settlement;
  settlement.scratch_bytes = checked_add(ChannelSums::scratch_bytes(g.channels, ChannelSums::slices(g.channels)),
                                         checked_mul(vector_count, bytes));
  settlement.opaque_bytes.assign(node.outputs.size(), checked_mul(2, bytes));
  if (node.output(0)) settlement.in_place = {{0, node.type == "GroupNormalizationGrad" ? 2 : 0}};
  return settlement;
}

template <class T>
struct Workplace {
  ChannelSums sums;
  T* base;
  int64_t channels;
  T* vector(int64_t i) const { return base + i * channels; }
};

template <class T>
Workplace<T> workplace_of(const Groups& g, const Binding& binding) {
  int64_t slices = ChannelSums::slices(g.channels);
  auto* after_sums = static_cast<std::byte*>(binding.scratch) + ChannelSums::scratch_bytes(g.channels, slices);
  return {{g.channels, binding.scratch, slices}, reinterpret_cast<T*>(after_sums), g.channels.padded_channels()};
}

// y = (x - mean) / sigma * scale[c] + bias[c]
template <class S>
struct GroupNormalization {
  using T = Widened<S>;
  Groups g;
  Workplace<T> work;
  const S* x;
  const T *scale, *bias;
  S* y;
  T* saved;

  void operator()(Stream&) {
    if (g.channels.storage_count() == 0) return;
    T *center = work.vector(0), *factor = work.vector(1), *offset = work.vector(2);
    // Sums about one sample of each channel: no cancellation where the mean is large.
    for (int64_t c = 0; c < work.channels; ++c)
      center[c] = widened(x[g.channels.offset(0, c / g.view.width) + c % g.view.width]);
    std::fill(factor, factor + work.channels, T{0});
    std::fill(offset, offset + work.channels, T{0});
    work.sums.template run<T>([x = x, center](int64_t i, int64_t c) {
      T d = widened(x[i]) - center[c];
      return std::pair<T, T>(d, d * d);
    });
    for (int64_t n = 0; n < g.view.batch; ++n) {
      for (int64_t group = 0; group < g.groups; ++group) give_group(n, group * g.size);
    }
    for_each_channel_element(g.channels, [=, x = x, y = y](int64_t i, int64_t c) {
      y[i] = narrowed<S>((widened(x[i]) - center[c]) * factor[c] + offset[c]);
    });
    if (saved) std::copy(center, center + work.channels, saved);
  }

  // Means and squares of the channels joined: M2 = sum M2_c + spatial (mean_c - mean)^2
  void give_group(int64_t n, int64_t first) {
    auto spatial = static_cast<double>(g.view.spatial);
    double mean = 0, squares = 0;
    auto channel_mean = [&](int64_t at) {
      return static_cast<double>(work.vector(0)[at]) + work.sums.first(at) / spatial;
    };
    for (int64_t c = first; c < first + g.size; ++c) mean += channel_mean(g.at(n, c));
    mean /= static_cast<double>(g.size);
    for (int64_t c = first; c < first + g.size; ++c) {
      int64_t at = g.at(n, c);
      double off = channel_mean(at) - mean;
      squares += std::max(work.sums.second(at) - work.sums.first(at) * work.sums.first(at) / spatial, 0.0) +
                 spatial * off * off;
    }
    double inverse = 1 / std::sqrt(squares / g.count() + g.epsilon);
    for (int64_t c = first; c < first + g.size; ++c) {
      int64_t at = g.at(n, c);
      work.vector(0)[at] = static_cast<T>(mean);
      work.vector(1)[at] = static_cast<T>(inverse * static_cast<double>(scale[c]));
      work.vector(2)[at] = bias[c];
      if (saved) saved[work.channels + at] = static_cast<T>(inverse);
    }
  }
};

template <class S>
Kernel prepare_forward(const Node& node, const Binding& binding) {
  using T = Widened<S>;
  check_vector(node, node.inputs[2], 2);
  Groups g = groups_of(node);
  auto saved = saved_index(node);
  return GroupNormalization<S>{g,
                               workplace_of<T>(g, binding),
                               binding.in<S>(0),
                               binding.in<T>(1),
                               binding.in<T>(2),
                               binding.out<S>(0),
                               saved ? binding.out<T>(*saved) : nullptr};
}

// (x, scale, dy, saved) -> dx, dscale, dbias; h = (x - mean)/sigma, g = dy scale[c]
//   dx = (g - mean(g) - h mean(g h)) / sigma over each group,  dscale = sum dy h,  dbias = sum dy
template <class S>
struct GroupNormalizationGrad {
  using T = Widened<S>;
  Groups g;
  Workplace<T> work;
  const S *x, *dy;
  const T *scale, *saved;
  S* dx;
  T *dscale, *dbias;

  void operator()(Stream&) {
    if (dscale) std::fill(dscale, dscale + g.view.channels, T{0});
    if (dbias) std::fill(dbias, dbias + g.view.channels, T{0});
    if (g.channels.storage_count() == 0) return;
    const T* center = saved;
    work.sums.template run<T>([x = x, dy = dy, center](int64_t i, int64_t c) {
      T gradient = widened(dy[i]);
      return std::pair<T, T>(gradient, gradient * (widened(x[i]) - center[c]));
    });
    T *slope = work.vector(0), *slope_x = work.vector(1), *offset = work.vector(2);
    std::fill(slope, slope + 3 * work.channels, T{0});
    for (int64_t n = 0; n < g.view.batch; ++n) {
      for (int64_t group = 0; group < g.groups; ++group) give_group(n, group * g.size);
    }
    if (!dx) return;
    for_each_channel_element(g.channels, [=, x = x, dy = dy, dx = dx](int64_t i, int64_t c) {
      dx[i] = narrowed<S>(widened(dy[i]) * slope[c] + (widened(x[i]) - center[c]) * slope_x[c] + offset[c]);
    });
  }

  void give_group(int64_t n, int64_t first) {
    auto inverse = static_cast<double>(saved[work.channels + g.at(n, first)]);
    double sum = 0, product = 0;
    for (int64_t c = first; c < first + g.size; ++c) {
      int64_t at = g.at(n, c);
      sum += static_cast<double>(scale[c]) * work.sums.first(at);
      product += static_cast<double>(scale[c]) * work.sums.second(at);
      if (dscale) dscale[c] += static_cast<T>(work.sums.second(at) * inverse);
      if (dbias) dbias[c] += static_cast<T>(work.sums.first(at));
    }
    for (int64_t c = first; c < first + g.size; ++c) {
      int64_t at = g.at(n, c);
      work.vector(0)[at] = static_cast<T>(static_cast<double>(scale[c]) * inverse);
      work.vector(1)[at] = static_cast<T>(-product * inverse * inverse * inverse / g.count());
      work.vector(2)[at] = static_cast<T>(-sum * inverse / g.count());
    }
  }
};

template <class S>
Kernel prepare_grad(const Node& node, const Binding& binding) {
  using T = Widened<S>;
  Groups g = groups_of(node);
  return GroupNormalizationGrad<S>{g,
                                   workplace_of<T>(g, binding),
                                   binding.in<S>(0),
                                   binding.in<S>(2),
                                   binding.in<T>(1),
                                   binding.in<T>(3),
                                   binding.out<S>(0),
                                   binding.out<T>(1),
                                   binding.out<T>(2)};
}

void infer_grad(Node& node) {
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    Value* result = node.outputs[i];
    if (!result) continue;
    const Value* like = node.inputs[i == 0 ? 0 : 1];
    result->dtype = like->dtype;
    result->ranked = true;
    result->dims = like->dims;
  }
}

// ONNX's schema of GroupNormalization leaves its shape open.
void infer_forward(Node& node) {
  schema::infer(node);
  node.outputs[0]->ranked = node.inputs[0]->ranked;
  node.outputs[0]->dims = node.inputs[0]->dims;
}

Vals differentiate_groups(Gradient& g) {
  Node& node = g.node();
  int64_t channels = g.x(0).dim(1);
  int64_t groups = node.type == "InstanceNormalization" ? channels : node.integer("num_groups", channels);
  return g.grad_node("GroupNormalizationGrad", {g.x(0), g.x(1), g.dy(0), g.workspace()},
                     std::vector<bool>{g.needs(0), g.needs(1), g.needs(2)},
                     {{"num_groups", groups}, {"epsilon", node.real("epsilon", 1e-5)}});
}

// x of the backward kernel must lie as it did forward: the saved statistics are in that order.
std::vector<Candidate> propose_grad(const Node& node) {
  const Layout& layout = node.inputs[3]->producer->inputs[0]->layout;
  Candidate candidate = propose_plain(node)[0];
  candidate.inputs[0] = candidate.inputs[2] = layout;
  if (node.outputs[0]) candidate.outputs[0] = layout;
  return {candidate};
}

template <class S>
KernelFunctions forward_kernel() {
  return {propose_channelwise, settle_groups, prepare_forward<S>};
}
template <class S>
KernelFunctions grad_kernel() {
  return {propose_grad, settle_groups, prepare_grad<S>};
}

std::optional<MixedPrecision> mix_forward(const Node&) { return MixedPrecision{.inputs = 1, .outputs = 1}; }
std::optional<MixedPrecision> mix_grad(const Node&) {
  return MixedPrecision{.inputs = 5, .outputs = 1};  // x and dy, dx
}

}  // namespace

std::vector<Op> group_normalization_ops() {
  std::vector<KernelEntry> forward = {{DTypes::f32, forward_kernel<float>()},
                                      {DTypes::f64, forward_kernel<double>()},
                                      {DTypes::bf16, forward_kernel<BFloat16>()}};
  return {{.type = "GroupNormalization",
           .infer = infer_forward,
           .cpu = forward,
           .differentiate = differentiate_groups,
           .mixed_precision = mix_forward,
           .parameter_slots = {1, 2}},
          {.type = "InstanceNormalization",
           .cpu = forward,
           .differentiate = differentiate_groups,
           .mixed_precision = mix_forward,
           .parameter_slots = {1, 2}},
          {.type = "GroupNormalizationGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = {{DTypes::f32, grad_kernel<float>()},
                   {DTypes::f64, grad_kernel<double>()},
                   {DTypes::bf16, grad_kernel<BFloat16>()}},
           .mixed_precision = mix_grad}};
}

}  // namespace graft
