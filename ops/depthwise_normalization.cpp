// Two live BatchNormalizations with a depthwise convolution between them, as in MobileNets:
//   u = f1(normalize(x)),  z = u * w,  y = f2(normalize(z))
// All of it works channel by channel. A block of channels goes through all passes before the next one begins, so that
// only x and y move through memory: neither u nor z is kept, and backward computes them again.
#include <algorithm>
#include <array>

#include "ops/channel_statistics.h"
#include "ops/channel_view.h"
#include "ops/depthwise_passes.h"
#include "ops/gradient.h"
#include "ops/window.h"

namespace graft {
namespace {

using namespace depthwise;

// With sums of x that the node before left, and what a first run left -> y, running mean and var of both, and bytes for
// backward
enum Operand : uint8_t {
  in_x,
  in_scale1,
  in_bias1,
  in_mean1,
  in_var1,
  in_w,
  in_scale2,
  in_bias2,
  in_mean2,
  in_var2,
  in_statistics,
  in_saved,
  operands
};
enum Result : uint8_t { to_y, to_mean1, to_var1, to_mean2, to_var2, to_saved };
enum GradOperand : uint8_t { of_dy, of_x, of_scale1, of_bias1, of_w, of_scale2, of_bias2, of_saved };
enum GradResult : uint8_t { to_dx, to_dscale1, to_dbias1, to_dw, to_dscale2, to_dbias2 };

Geometry geometry_of(const Node& node, const Dims& x, const Dims& w, int64_t width) {
  if (x.size() != 4 || w.size() != 4 || w[0] != x[1] || w[1] != 1 || node.integer("group", 1) != x[1])
    throw ModelError(node.where(), " wants an input of rank 4 and a filter for each channel, got ", x, " and ", w);
  Window window = window_of(node, spatial_dims(x), spatial_dims(w));
  Dims y = window.output(spatial_dims(x));
  Geometry g;
  g.samples = x[0];
  g.channels = x[1];
  g.width = width;
  g.blocks = (x[1] + width - 1) / width;
  g.in = {x[2], x[3]};
  g.out = {y[0], y[1]};
  g.kernel = {w[2], w[3]};
  g.stride = {window.strides[0], window.strides[1]};
  g.dilation = {window.dilations[0], window.dilations[1]};
  g.top = window.begin[0];
  g.left = window.begin[1];
  if (g.taps() > most_depthwise_taps || element_count(x) == 0 || element_count(y) == 0)
    throw UnsupportedError(node.where(), " has no kernel for an input ", x, " and weights ", w);
  return g;
}

// Pieces of scratch, aligned; without a base only their sizes count.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    constexpr int64_t alignment = 64;
    auto* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    int64_t bytes = checked_mul(count, int64_t{sizeof(T)});
    used_ = checked_add(used_, checked_add(bytes, alignment - 1) / alignment * alignment);
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

// --- The three meetings ---

constexpr int64_t saved_vectors = 6;  // mean, inverse and rest of both

// Where forward and backward keep their operands.
struct Slots {
  size_t x, w, scale1, bias1, scale2, bias2;
};
constexpr Slots forward_slots{in_x, in_w, in_scale1, in_bias1, in_scale2, in_bias2};
constexpr Slots grad_slots{of_x, of_w, of_scale1, of_bias1, of_scale2, of_bias2};

template <class T>
Geometry geometry_of(const Node& node, const Slots& slots) {
  return geometry_of(node, node.inputs[slots.x]->dims, node.inputs[slots.w]->dims, depthwise_loops<T>().width);
}

void check_vectors(const Node& node, std::initializer_list<size_t> vectors, const Geometry& g, DType dtype) {
  for (size_t i : vectors) {
    const Value* value = node.input(i);
    if (!value || value->dtype != dtype || value->dims != Dims{g.channels})
      throw ModelError(node.where(), " wants ", dtype, " of shape ", Dims{g.channels}, " for input ", i);
  }
}

// The scratch of both directions.
template <class T, class S>
void carve(Context<T, S>& c, Carver& carver) {
  const Geometry& g = c.g;
  const int64_t records = checked_mul(c.schedule.slots(), g.samples), threads = c.schedule.threads();
  c.sums = carver.take<double>(checked_mul(records, 3 * g.width));
  c.rows = carver.take<T>(checked_mul(threads, g.rows()));
  for (Half<T>* half : {&c.first, &c.second}) {
    for (T** vector : {&half->mean, &half->factor, &half->shift, &half->slope, &half->slope_x, &half->offset})
      *vector = carver.take<T>(g.padded_channels());
  }
}

template <class T, class S>
void carve(Forward<T, S>& f, Carver& carver) {
  carve(static_cast<Context<T, S>&>(f), carver);
  f.unsaved = carver.take<T>(checked_mul(saved_vectors, f.g.channels));
}

template <class T, class S>
void carve(Backward<T, S>& b, Carver& carver) {
  const Geometry& g = b.g;
  carve(static_cast<Context<T, S>&>(b), carver);
  const int64_t records = checked_mul(b.schedule.slots(), g.samples), threads = b.schedule.threads();
  b.products = carver.take<T>(checked_mul(records, checked_mul(g.taps(), g.width)));
  b.gradient_rows = carver.take<T>(checked_mul(threads, g.gradient_rows()));
  b.single_row = carver.take<S>(checked_mul(threads, checked_mul(g.in.columns, g.width)));
}

// Bytes of a block of x and of y that pass through the cache so many times.
template <class S>
int64_t block_bytes(const Geometry& g, int64_t maps_of_x, int64_t maps_of_y) {
  int64_t pixels = checked_add(checked_mul(maps_of_x, g.in.pixels()), checked_mul(maps_of_y, g.out.pixels()));
  return checked_mul(checked_mul(g.samples, pixels), g.width * int64_t{sizeof(S)});
}

template <class S, class Work>
Settlement settle_with(const Geometry& g, int64_t maps_of_x, int64_t maps_of_y) {
  Work work{};
  work.g = g;
  work.schedule = Schedule(g, block_bytes<S>(g, maps_of_x, maps_of_y));
  Carver carver(nullptr);
  carve(work, carver);
  Settlement settlement;
  settlement.scratch_bytes = carver.used();
  settlement.descriptor = work.schedule;
  return settlement;
}

// All that both directions take from a node.
template <class T, class S, class Work>
Work bind(const Node& node, const Binding& binding, const Slots& slots) {
  Work work{};
  work.g = geometry_of<T>(node, slots);
  work.schedule = std::any_cast<Schedule>(binding.settlement->descriptor);
  Carver carver(binding.scratch);
  carve(work, carver);
  work.depthwise = depthwise_loops<T, S>();
  work.x = binding.in<S>(slots.x);
  work.w = binding.in<T>(slots.w);
  work.first.scale = binding.in<T>(slots.scale1);
  work.first.bias = binding.in<T>(slots.bias1);
  work.second.scale = binding.in<T>(slots.scale2);
  work.second.bias = binding.in<T>(slots.bias2);
  for (auto [half, prefix] : {std::pair{&work.first, "first_"}, {&work.second, "second_"}}) {
    half->activation = activation_of(node, prefix);
    half->epsilon = node.real(cat(prefix, "epsilon"), 1e-5);
    half->momentum = node.real(cat(prefix, "momentum"), 0.9);
  }
  return work;
}

// What forward leaves.
template <class T, class S>
void bind_saved(Context<T, S>& c, T* saved) {
  for (Half<T>* half : {&c.first, &c.second}) {
    for (T** kept : {&half->saved_mean, &half->inverse, &half->rest}) {
      *kept = saved;
      saved += c.g.channels;
    }
  }
}

template <class T, class S>
Settlement settle_forward(const Node& node, const Settlement*) {
  Geometry g = geometry_of<T>(node, forward_slots);
  const DType dtype = dtype_of<T>();  // of vectors
  check_vectors(node, {in_scale1, in_bias1, in_scale2, in_bias2}, g, dtype);
  // Old statistics are wanted for new ones only.
  for (auto [result, operand] :
       {std::pair{to_mean1, in_mean1}, {to_var1, in_var1}, {to_mean2, in_mean2}, {to_var2, in_var2}}) {
    if (node.output(result)) check_vectors(node, {operand}, g, dtype);
  }
  int64_t saved = checked_mul(saved_vectors * int64_t{sizeof(T)}, g.channels);
  check_workspace(node, in_statistics, ChannelStatistics::bytes(g.padded_channels()));
  check_workspace(node, in_saved, saved);
  Settlement settlement = settle_with<S, Forward<T, S>>(g, 1, 1);
  settlement.opaque_bytes.assign(node.outputs.size(), saved);
  return settlement;
}

template <class T, class S>
Kernel prepare_forward(const Node& node, const Binding& binding) {
  auto work = bind<T, S, Forward<T, S>>(node, binding, forward_slots);
  const T* left = binding.in<T>(in_saved);
  bind_saved(work, left ? const_cast<T*>(left) : binding.out<T>(to_saved) ? binding.out<T>(to_saved) : work.unsaved);
  work.first.running_mean = binding.in<T>(in_mean1);
  work.first.running_var = binding.in<T>(in_var1);
  work.second.running_mean = binding.in<T>(in_mean2);
  work.second.running_var = binding.in<T>(in_var2);
  work.first.new_mean = binding.out<T>(to_mean1);
  work.first.new_var = binding.out<T>(to_var1);
  work.second.new_mean = binding.out<T>(to_mean2);
  work.second.new_var = binding.out<T>(to_var2);
  work.y = binding.out<S>(to_y);
  auto* known = const_cast<double*>(binding.in<double>(in_statistics));
  work.begin = left ? Forward<T, S>::result : known ? Forward<T, S>::inner_statistics : Forward<T, S>::statistics;
  return [work, left, known](Stream&) {
    if (left) work.give_saved();
    else if (known) work.give_known(ChannelStatistics(known, work.g.padded_channels()));
    work.schedule.run(work);
  };
}

template <class T, class S>
Settlement settle_backward(const Node& node, const Settlement*) {
  Geometry g = geometry_of<T>(node, grad_slots);
  check_vectors(node, {of_scale1, of_bias1, of_scale2, of_bias2}, g, dtype_of<T>());
  return settle_with<S, Backward<T, S>>(g, node.output(to_dx) ? 2 : 1, 1);
}

template <class T, class S>
Kernel prepare_backward(const Node& node, const Binding& binding) {
  auto work = bind<T, S, Backward<T, S>>(node, binding, grad_slots);
  bind_saved(work, const_cast<T*>(binding.in<T>(of_saved)));
  work.dy = binding.in<S>(of_dy);
  work.dx = binding.out<S>(to_dx);
  work.dw = binding.out<T>(to_dw);
  work.columns = column_taps(work.g);
  work.first.dscale = binding.out<T>(to_dscale1);
  work.first.dbias = binding.out<T>(to_dbias1);
  work.second.dscale = binding.out<T>(to_dscale2);
  work.second.dbias = binding.out<T>(to_dbias2);
  return [work](Stream&) {
    work.give_saved();
    work.schedule.run(work);
  };
}

// Maps in blocks of as many channels as a vector has elements, weights to match.
template <class T>
Candidate propose(const Node& node, std::initializer_list<size_t> maps, size_t w) {
  const int64_t width = depthwise_loops<T>().width;
  Candidate candidate = propose_plain(node)[0];
  for (size_t i : maps) candidate.inputs[i] = blocked_channels(node.inputs[i]->dims, width);
  candidate.inputs[w] = blocked_axis(node.inputs[w]->dims, 0, width);  // [C/width][1][rows][columns][width]
  return candidate;
}

template <class T>
std::vector<Candidate> propose_forward(const Node& node) {
  Candidate candidate = propose<T>(node, {in_x}, in_w);
  candidate.outputs[to_y] = blocked_channels(node.outputs[to_y]->dims, depthwise_loops<T>().width);
  return {candidate};
}

template <class T>
std::vector<Candidate> propose_backward(const Node& node) {
  Candidate candidate = propose<T>(node, {of_dy, of_x}, of_w);
  candidate.outputs[to_dx] = candidate.inputs[of_x];
  candidate.outputs[to_dw] = candidate.inputs[of_w];
  return {candidate};
}

// Operands that lie otherwise, as those of a node that is evaluated on its own, go through copies.
class Copies {
 public:
  Copies(const Node& node, const Candidate& wanted) {
    for (size_t i = 0; i < node.inputs.size(); ++i) add(node.inputs[i], wanted.inputs[i], i, false);
    for (size_t i = 0; i < node.outputs.size(); ++i) add(node.outputs[i], wanted.outputs[i], i, true);
  }

  int64_t bytes() const { return bytes_; }

  // The binding with the copies in the place of the operands, and the kernel that `prepare` makes of it between them.
  Kernel around(const Node& node, const Binding& binding, PrepareFunction prepare) const {
    if (copies_.empty()) return prepare(node, binding);
    Binding inner = binding;
    auto* base = static_cast<std::byte*>(binding.scratch) + binding.settlement->scratch_bytes - bytes_;
    for (const Copy& copy : copies_) {
      if (copy.is_result) inner.outputs[copy.slot] = base + copy.at;
      else inner.inputs[copy.slot] = base + copy.at;
    }
    return [copies = copies_, binding, inner, kernel = prepare(node, inner)](Stream& stream) {
      for (const Copy& c : copies) {
        if (!c.is_result)
          relayout(c.dims, c.size, c.from, binding.inputs[c.slot], c.to, const_cast<void*>(inner.inputs[c.slot]));
      }
      kernel(stream);
      for (const Copy& c : copies) {
        if (c.is_result) relayout(c.dims, c.size, c.to, inner.outputs[c.slot], c.from, binding.outputs[c.slot]);
      }
    };
  }

 private:
  struct Copy {
    size_t slot;
    bool is_result;
    Dims dims;
    size_t size;  // of an element
    Layout from, to;
    int64_t at;
  };

  void add(const Value* value, const Layout& wanted, size_t slot, bool is_result) {
    constexpr int64_t alignment = 64;
    if (!value || value->opaque || value->layout == wanted) return;
    size_t size = size_of(value->dtype);
    copies_.push_back({slot, is_result, value->dims, size, value->layout, wanted, bytes_});
    int64_t bytes = checked_mul(wanted.storage_count(), static_cast<int64_t>(size));
    bytes_ = checked_add(bytes_, checked_add(bytes, alignment - 1) / alignment * alignment);
  }

  std::vector<Copy> copies_;
  int64_t bytes_ = 0;
};

template <ProposeFunction propose, SettleFunction settle>
Settlement settle_anyhow(const Node& node, const Settlement* forward) {
  Settlement settlement = settle(node, forward);
  settlement.scratch_bytes = checked_add(settlement.scratch_bytes, Copies(node, propose(node)[0]).bytes());
  return settlement;
}
template <ProposeFunction propose, PrepareFunction prepare>
Kernel prepare_anyhow(const Node& node, const Binding& binding) {
  return Copies(node, propose(node)[0]).around(node, binding, prepare);
}

// --- Shapes and the gradient rule ---

void infer_forward(Node& node) {
  const Dims& x = node.inputs[in_x]->dims;
  infer_like(node.output(to_y), *node.inputs[in_x]);
  Dims out = window_of(node, spatial_dims(x), spatial_dims(node.inputs[in_w]->dims)).output(spatial_dims(x));
  node.outputs[to_y]->dims = {x.at(0), x.at(1), out.at(0), out.at(1)};
  for (auto [result, operand] :
       {std::pair{to_mean1, in_mean1}, {to_var1, in_var1}, {to_mean2, in_mean2}, {to_var2, in_var2}})
    infer_like(node.output(result), *node.inputs[operand]);
}

void infer_backward(Node& node) {
  for (auto [result, operand] : {std::pair{to_dx, of_x},
                                 {to_dscale1, of_scale1},
                                 {to_dbias1, of_bias1},
                                 {to_dw, of_w},
                                 {to_dscale2, of_scale2},
                                 {to_dbias2, of_bias2}})
    infer_like(node.output(result), *node.inputs[operand]);
}

Vals differentiate(Gradient& g) {
  Node& node = g.node();
  for (size_t i = to_mean1; i <= to_var2; ++i) {
    if (g.dy(i)) throw UnsupportedError(node.where(), " has no gradient through its running statistics");
  }
  constexpr std::array results{in_x, in_scale1, in_bias1, in_w, in_scale2, in_bias2};  // in the order of GradResult
  std::vector<bool> wanted;
  for (Operand operand : results) wanted.push_back(g.needs(operand));
  Vals result(operands);
  if (std::find(wanted.begin(), wanted.end(), true) == wanted.end()) return result;
  Attributes attributes = node.attributes;
  attributes.erase("first_momentum");
  attributes.erase("second_momentum");
  auto grads = g.grad_node(
      "DepthwiseNormalizationGrad",
      {g.dy(to_y), g.x(in_x), g.x(in_scale1), g.x(in_bias1), g.x(in_w), g.x(in_scale2), g.x(in_bias2), g.workspace()},
      wanted, attributes);
  for (size_t i = 0; i < results.size(); ++i) result[results[i]] = grads[i];
  return result;
}

template <ProposeFunction propose, SettleFunction settle, PrepareFunction prepare>
KernelFunctions kernel_of() {
  return {propose, settle_anyhow<propose, settle>, prepare_anyhow<propose, prepare>};
}
template <class T, class S = T>
KernelFunctions forward_kernel() {
  return kernel_of<propose_forward<T>, settle_forward<T, S>, prepare_forward<T, S>>();
}
template <class T, class S = T>
KernelFunctions backward_kernel() {
  return kernel_of<propose_backward<T>, settle_backward<T, S>, prepare_backward<T, S>>();
}

std::optional<Shortcut> shortcut(const Node& node) {
  return node.output(to_saved) ? std::optional(Shortcut{to_saved, in_saved}) : std::nullopt;
}

std::optional<MixedPrecision> mix_forward(const Node&) {
  return MixedPrecision{.inputs = 1 << in_x, .outputs = 1 << to_y};
}
std::optional<MixedPrecision> mix_backward(const Node&) {
  return MixedPrecision{.inputs = 1 << of_dy | 1 << of_x, .outputs = 1 << to_dx};
}

}  // namespace

std::vector<Op> depthwise_normalization_ops() {
  return {{.type = "DepthwiseNormalization",
           .domain = "graft",
           .infer = infer_forward,
           .cpu = {{DTypes::f32, forward_kernel<float>()},
                   {DTypes::f64, forward_kernel<double>()},
                   {DTypes::bf16, forward_kernel<float, BFloat16>()}},
           .differentiate = differentiate,
           .mixed_precision = mix_forward,
           .parameter_slots = {in_scale1, in_bias1, in_w, in_scale2, in_bias2},
           .statistic_slots = {in_mean1, in_var1, in_mean2, in_var2},
           .shortcut = shortcut,
           .statistics_slot = in_statistics},
          {.type = "DepthwiseNormalizationGrad",
           .domain = "graft",
           .infer = infer_backward,
           .cpu = {{DTypes::f32, backward_kernel<float>()},
                   {DTypes::f64, backward_kernel<double>()},
                   {DTypes::bf16, backward_kernel<float, BFloat16>()}},
           .mixed_precision = mix_backward}};
}

}  // namespace graft
