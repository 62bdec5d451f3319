// BatchNormalization, with running statistics or live ones. Own kernels: they work on x as it lies, and the statistics
// need two passes over memory anyway.
#include <cmath>

#include "ops/channel_view.h"
#include "ops/gradient.h"

namespace graft {
namespace {

bool is_live(const Node& node) { return node.integer("training_mode", 0) != 0; }
double epsilon_of(const Node& node) { return node.real("epsilon", 1e-5); }

void check_operands(const Node& node) {
  const Value& x = *node.inputs[0];
  if (x.dims.size() < 2) throw ModelError(node.where(), " wants an input of rank 2 or more, got ", x.dims);
  bool backward = node.type == "BatchNormalizationGrad";
  for (size_t i = 1; i < node.inputs.size(); ++i) {
    const Value* value = node.inputs[i];
    if (!value || value->opaque) continue;
    if (value->dtype != x.dtype)
      throw UnsupportedError(node.where(), " mixes element types ", x.dtype, " and ", value->dtype);
    Dims wanted = backward && i == 2 ? x.dims : Dims{x.dims[1]};
    if (value->dims != wanted)
      throw ModelError(node.where(), " input ", i, " must have shape ", wanted, ", got ", value->dims);
  }
}

// Index of the opaque result that keeps mean and 1/sigma for backward; none when nothing is differentiated.
std::optional<size_t> saved_index(const Node& node) {
  for (size_t i = 1; i < node.outputs.size(); ++i) {
    if (node.outputs[i] && node.outputs[i]->opaque) return i;
  }
  return std::nullopt;
}

// Vectors of one entry a channel, padding channels included, in the scratch after the partial sums.
template <class T>
struct ChannelVectors {
  T* base;
  int64_t channels;
  T* operator[](int64_t i) const { return base + i * channels; }
};

constexpr int64_t vector_count = 4;

Settlement settle_normalization(const Node& node, const Settlement*) {
  check_operands(node);
  ChannelView view = channel_view(node, *node.inputs[0]);
  int64_t slices = thread_count();
  auto element = static_cast<int64_t>(size_of(kernel_dtype(node)));
  Settlement settlement;
  settlement.scratch_bytes =
      checked_add(ChannelSums::scratch_bytes(view, slices), vector_count * element * view.padded_channels());
  settlement.opaque_bytes.assign(node.outputs.size(), 2 * element * view.padded_channels());
  bool backward = node.type == "BatchNormalizationGrad";
  if (node.output(0)) settlement.in_place = {{0, backward ? 2 : 0}};
  settlement.descriptor = slices;
  return settlement;
}

template <class T>
ChannelVectors<T> vectors_of(const ChannelView& view, const Binding& binding) {
  int64_t slices = std::any_cast<int64_t>(binding.settlement->descriptor);
  auto* after_sums = static_cast<std::byte*>(binding.scratch) + ChannelSums::scratch_bytes(view, slices);
  return {reinterpret_cast<T*>(after_sums), view.padded_channels()};
}

ChannelSums sums_of(const ChannelView& view, const Binding& binding) {
  return {view, binding.scratch, std::any_cast<int64_t>(binding.settlement->descriptor)};
}

// y[n,c,s] = (x[n,c,s] - mean[c]) factor[c] + bias[c]; all zero in padding channels.
template <class T>
void normalize(const ChannelView& view, const T* x, const T* mean, const T* factor, const T* bias, T* y) {
  for_each_channel_element(view, [=](int64_t i, int64_t c) { y[i] = (x[i] - mean[c]) * factor[c] + bias[c]; });
}

// factor = scale / sqrt(var + epsilon)
template <class T>
Kernel prepare_frozen(const Node& node, const Binding& binding) {
  ChannelView view = channel_view(node, *node.inputs[0]);
  auto vectors = vectors_of<T>(view, binding);
  const T *x = binding.in<T>(0), *scale = binding.in<T>(1), *bias = binding.in<T>(2), *mean = binding.in<T>(3),
          *var = binding.in<T>(4);
  T* y = binding.out<T>(0);
  auto epsilon = static_cast<T>(epsilon_of(node));
  return [=](Stream&) {
    for (int64_t c = 0; c < view.padded_channels(); ++c) {
      bool real = c < view.channels;
      vectors[0][c] = real ? mean[c] : T{0};
      vectors[1][c] = real ? scale[c] / std::sqrt(var[c] + epsilon) : T{0};
      vectors[2][c] = real ? bias[c] : T{0};
    }
    normalize<T>(view, x, vectors[0], vectors[1], vectors[2], y);
  };
}

// Statistics of the batch, population variance; running' = running momentum + batch (1 - momentum).
template <class T>
struct LiveNormalization {
  ChannelView view;
  ChannelSums sums;
  ChannelVectors<T> vectors;
  const T *x, *scale, *bias, *mean, *var;
  T *y, *new_mean, *new_var, *saved;
  double epsilon, momentum;

  void operator()(Stream&) {
    auto count = static_cast<double>(view.batch * view.spatial);
    T* shift = vectors[0];
    // Sums about one sample of each channel: no cancellation where the mean is large.
    for (int64_t c = 0; c < view.padded_channels(); ++c) {
      shift[c] = count > 0 ? x[view.offset(0, c / view.width) + c % view.width] : T{0};
    }
    sums.run<T>([x = x, shift](int64_t i, int64_t c) {
      T d = x[i] - shift[c];
      return std::pair<T, T>(d, d * d);
    });
    for (int64_t c = 0; c < view.padded_channels(); ++c) give_channel(c, count, shift);
    normalize<T>(view, x, vectors[0], vectors[1], vectors[2], y);
  }

  void give_channel(int64_t c, double count, const T* shift) {
    bool real = c < view.channels;
    double offset = sums.first(c) / count;
    double batch_mean = real ? static_cast<double>(shift[c]) + offset : 0;
    double batch_var = std::max(sums.second(c) / count - offset * offset, 0.0);
    double inverse = 1 / std::sqrt(batch_var + epsilon);
    if (real && new_mean)
      new_mean[c] = static_cast<T>(static_cast<double>(mean[c]) * momentum + batch_mean * (1 - momentum));
    if (real && new_var)
      new_var[c] = static_cast<T>(static_cast<double>(var[c]) * momentum + batch_var * (1 - momentum));
    vectors[0][c] = static_cast<T>(batch_mean);
    vectors[1][c] = real ? static_cast<T>(static_cast<double>(scale[c]) * inverse) : T{0};
    vectors[2][c] = real ? bias[c] : T{0};
    if (!saved) return;
    saved[c] = static_cast<T>(batch_mean);
    saved[view.padded_channels() + c] = real ? static_cast<T>(inverse) : T{0};
  }
};

template <class T>
Kernel prepare_normalization(const Node& node, const Binding& binding) {
  if (!is_live(node)) return prepare_frozen<T>(node, binding);
  ChannelView view = channel_view(node, *node.inputs[0]);
  auto saved = saved_index(node);
  auto statistic = [&](size_t i) { return node.output(i) && !node.outputs[i]->opaque ? binding.out<T>(i) : nullptr; };
  return LiveNormalization<T>{view,
                              sums_of(view, binding),
                              vectors_of<T>(view, binding),
                              binding.in<T>(0),
                              binding.in<T>(1),
                              binding.in<T>(2),
                              binding.in<T>(3),
                              binding.in<T>(4),
                              binding.out<T>(0),
                              statistic(1),
                              statistic(2),
                              saved ? binding.out<T>(*saved) : nullptr,
                              epsilon_of(node),
                              node.real("momentum", 0.9)};
}

// h = (x - mean)/sigma:  dbias = sum dy,  dscale = sum dy h
//   frozen: dx = scale/sigma dy       live: dx = scale/sigma (dy - dbias/count - h dscale/count)
template <class T>
struct NormalizationGrad {
  ChannelView view;
  ChannelSums sums;
  ChannelVectors<T> vectors;
  const T *x, *scale, *dy, *mean, *var, *saved;  // mean and var where frozen, saved where live
  T *dx, *dscale, *dbias;
  double epsilon;

  void operator()(Stream&) {
    int64_t padded = view.padded_channels();
    T* center = vectors[0];
    for (int64_t c = 0; c < padded; ++c) center[c] = saved ? saved[c] : c < view.channels ? mean[c] : T{0};
    if (saved || dscale || dbias) {
      sums.run<T>([x = x, dy = dy, center](int64_t i, int64_t c) {
        return std::pair<T, T>(dy[i], dy[i] * (x[i] - center[c]));
      });
    }
    for (int64_t c = 0; c < view.channels; ++c) give_channel(c);
    for (int64_t c = view.channels; c < padded; ++c) vectors[1][c] = vectors[2][c] = vectors[3][c] = 0;
    if (!dx) return;
    const T *slope = vectors[1], *slope_x = vectors[2], *offset = vectors[3];
    if (saved) {
      for_each_channel_element(view, [=, x = x, dx = dx, dy = dy](int64_t i, int64_t c) {
        dx[i] = dy[i] * slope[c] + (x[i] - center[c]) * slope_x[c] + offset[c];
      });
    } else {
      for_each_channel_element(view, [=, dx = dx, dy = dy](int64_t i, int64_t c) { dx[i] = dy[i] * slope[c]; });
    }
  }

  void give_channel(int64_t c) {
    double inverse = saved ? static_cast<double>(saved[view.padded_channels() + c])
                           : 1 / std::sqrt(static_cast<double>(var[c]) + epsilon);
    if (dscale) dscale[c] = static_cast<T>(sums.second(c) * inverse);
    if (dbias) dbias[c] = static_cast<T>(sums.first(c));
    double slope = static_cast<double>(scale[c]) * inverse;
    vectors[1][c] = static_cast<T>(slope);
    if (!saved) return;
    auto count = static_cast<double>(view.batch * view.spatial);
    vectors[2][c] = static_cast<T>(-slope * sums.second(c) * inverse * inverse / count);
    vectors[3][c] = static_cast<T>(-slope * sums.first(c) / count);
  }
};

template <class T>
Kernel prepare_grad(const Node& node, const Binding& binding) {
  ChannelView view = channel_view(node, *node.inputs[0]);
  bool live = is_live(node);
  return NormalizationGrad<T>{view,
                              sums_of(view, binding),
                              vectors_of<T>(view, binding),
                              binding.in<T>(0),
                              binding.in<T>(1),
                              binding.in<T>(2),
                              live ? nullptr : binding.in<T>(3),
                              live ? nullptr : binding.in<T>(4),
                              live ? binding.in<T>(3) : nullptr,
                              binding.out<T>(0),
                              binding.out<T>(1),
                              binding.out<T>(2),
                              epsilon_of(node)};
}

// (x, scale, dy, mean, var | saved) -> dx, dscale, dbias
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

Vals differentiate_normalization(Gradient& g) {
  Node& node = g.node();
  if (g.dy(1) || g.dy(2)) throw UnsupportedError(node.where(), " has no gradient through its running statistics");
  Attributes attributes = {{"epsilon", epsilon_of(node)}, {"training_mode", int64_t{is_live(node)}}};
  Vals result(5);
  if (is_live(node)) {
    auto grads = g.grad_node("BatchNormalizationGrad", {g.x(0), g.x(1), g.dy(0), g.workspace()},
                             {g.needs(0), g.needs(1), g.needs(2)}, attributes);
    return {grads[0], grads[1], grads[2], {}, {}};
  }
  bool dmean = g.needs(3), dvar = g.needs(4);
  auto grads = g.grad_node("BatchNormalizationGrad", {g.x(0), g.x(1), g.dy(0), g.x(3), g.x(4)},
                           {g.needs(0), g.needs(1) || dvar, g.needs(2) || dmean}, attributes);
  // y depends on mean as it does on bias, times -scale/sigma, and on var through 1/sigma.
  Val variance = dmean || dvar ? g.x(4) + epsilon_of(node) : Val{};
  result[0] = grads[0];
  if (g.needs(1)) result[1] = grads[1];
  if (g.needs(2)) result[2] = grads[2];
  if (dmean) result[3] = -(grads[2] * g.x(1) / sqrt(variance));
  if (dvar) result[4] = grads[1] * g.x(1) / variance * -0.5;
  return result;
}

template <class T>
KernelFunctions forward_kernel() {
  return {propose_channelwise, settle_normalization, prepare_normalization<T>};
}
template <class T>
KernelFunctions grad_kernel() {
  return {propose_channelwise, settle_normalization, prepare_grad<T>};
}

}  // namespace

std::vector<Op> batch_normalization_ops() {
  return {{.type = "BatchNormalization",
           .cpu = {{DTypes::f32, forward_kernel<float>()}, {DTypes::f64, forward_kernel<double>()}},
           .differentiate = differentiate_normalization,
           .parameter_slots = {1, 2},
           .statistic_slots = {3, 4}},
          {.type = "BatchNormalizationGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = {{DTypes::f32, grad_kernel<float>()}, {DTypes::f64, grad_kernel<double>()}}}};
}

}  // namespace graft
