// Convolutions on oneDNN. What finishes a result goes into them where they stay the same kernels. Descriptors are
// costly to make (about half a millisecond), and propose, settle and the backward hints ask for the same ones: they are
// remembered by shape and layouts.
#include <bit>
#include <cfloat>
#include <cmath>
#include <mutex>

#include "ops/channel_view.h"
#include "ops/conv.h"
#include "ops/winograd_loops.h"
#include "runtime/device/cpu/dnnl.h"

namespace graft {
namespace {

using dnnl::memory;

// oneDNN has grouped weights as (G, M/G, C/G, ...).
Dims grouped_dims(const ConvProblem& p) {
  if (p.group == 1) return p.w;
  Dims dims = p.w;
  dims[0] /= p.group;
  dims.insert(dims.begin(), p.group);
  return dims;
}

// The layout over (M, C/G, ...) of weights that lie so over (G, M/G, C/G, ...); nullopt where M does not split evenly.
std::optional<Layout> join_groups(const ConvProblem& p, const Layout& grouped) {
  if (p.group == 1) return grouped;
  bool depthwise = p.w[0] == p.group;
  int merged = depthwise ? 0 : 1;
  Layout joined;
  int64_t block = 1;
  for (const auto& b : grouped.blocks) {
    if (b.dim == 1 - merged) return std::nullopt;
    if (b.dim == merged) block *= b.size;
    joined.blocks.push_back({std::max(b.dim - 1, 0), b.size});
  }
  int64_t features = p.w[0] / p.group;
  if (!depthwise && (features % block != 0 || grouped.strides[0] != grouped.strides[1] * (features / block)))
    return std::nullopt;
  joined.padded.assign(grouped.padded.begin() + 1, grouped.padded.end());
  joined.strides.assign(grouped.strides.begin() + 1, grouped.strides.end());
  joined.padded[0] = depthwise ? grouped.padded[0] : p.w[0];
  joined.strides[0] = grouped.strides[static_cast<size_t>(merged)];
  return joined;
}

// The inverse.
Layout split_groups(const ConvProblem& p, const Layout& joined) {
  if (p.group == 1) return joined;
  bool depthwise = p.w[0] == p.group;
  Layout grouped = joined;
  int64_t block = 1;
  for (auto& b : grouped.blocks) {
    if (b.dim == 0) block *= b.size;
    b.dim = depthwise && b.dim == 0 ? 0 : b.dim + 1;
  }
  int64_t features = p.w[0] / p.group;
  grouped.padded[0] = features;
  grouped.padded.insert(grouped.padded.begin(), depthwise ? joined.padded[0] : p.group);
  grouped.strides.insert(grouped.strides.begin(),
                         depthwise ? joined.strides[0] : joined.strides[0] * (features / block));
  return grouped;
}

// Of the activations; the weights are left to oneDNN.
struct Layouts {
  Layout x, y;
};

struct Plan {
  dnnl::primitive_desc descriptor;
  dnnl::convolution_forward::primitive_desc hint;  // of plans that go forward
  memory::desc x, w, y, bias;
  Layout x_layout, y_layout;
  std::optional<Layout> w_layout;  // none: w is reordered inside the kernel
  bool finishes = false;           // its result, as the problem has it
  double cost = 0;
};

// Where the operand that is added to y lies.
enum class Beside : uint8_t { apart, in_y };

// What finishes a result, for oneDNN; nullopt where it has no way.
std::optional<dnnl::post_ops> post_ops_of(const ConvProblem& p, const memory::desc& y, Beside beside) {
  dnnl::post_ops ops;
  if (p.adds && beside == Beside::in_y) ops.append_sum();
  if (p.adds && beside == Beside::apart) ops.append_binary(dnnl::algorithm::binary_add, y);
  const Activation& f = p.activation;
  switch (f.epilogue) {
    case Epilogue::none: return ops;
    case Epilogue::hard_swish: ops.append_eltwise(dnnl::algorithm::eltwise_hardswish, 1.0F / 6, 0.5F); return ops;
    case Epilogue::clamp: break;
  }
  // Limits other than 0 cannot be had so: its own make a NaN one of them, and high - Relu(high - x) loses small x.
  if (!f.is_relu()) return std::nullopt;
  // x * min(max(x * FLT_MAX, 0), 1): Relu of x, except that a NaN, which oneDNN's own Relu makes zero, stays. -inf
  // becomes NaN, and of x below 1e-38 a part is left.
  ops.append_eltwise(dnnl::algorithm::eltwise_hardswish, FLT_MAX, 0);
  return ops;
}

dnnl::convolution_forward::primitive_desc forward_descriptor(const ConvProblem& p, const Plan& plan,
                                                             const memory::dims& dilations,
                                                             const dnnl::primitive_attr& attributes) {
  const Window& win = p.window;
  auto prop = dnnl::prop_kind::forward_training;
  auto direct = dnnl::algorithm::convolution_direct;
  if (!p.bias || p.slots.way != ConvWay::forward) {
    return {cpu_engine(), prop, direct, plan.x, plan.w, plan.y, win.strides, dilations, win.begin, win.end, attributes};
  }
  return {cpu_engine(), prop,        direct,    plan.x,    plan.w,  plan.bias,
          plan.y,       win.strides, dilations, win.begin, win.end, attributes};
}

dnnl::primitive_desc backward_descriptor(const ConvProblem& p, const Plan& plan, const memory::dims& dilations,
                                         const dnnl::convolution_forward::primitive_desc& hint) {
  const Window& win = p.window;
  auto direct = dnnl::algorithm::convolution_direct;
  if (p.slots.way == ConvWay::data) {
    return dnnl::convolution_backward_data::primitive_desc(cpu_engine(), direct, plan.x, plan.w, plan.y, win.strides,
                                                           dilations, win.begin, win.end, hint, scratch_attributes());
  }
  return dnnl::convolution_backward_weights::primitive_desc(cpu_engine(), direct, plan.x, plan.w, plan.y, win.strides,
                                                            dilations, win.begin, win.end, hint, scratch_attributes());
}

// Rough bytes of memory traffic that the arithmetic is worth: 25 GB/s against 200 GFLOP/s, 80 for im2col, and 800 on
// matrix tiles.
double cost_of(const ConvProblem& p, std::string_view implementation) {
  double flops = 2.0 * static_cast<double>(p.multiplications());
  if (implementation.starts_with("ref")) return flops * 10;
  if (implementation.starts_with("gemm")) return flops * 0.3;
  if (p.dtype == DType::bf16 && implementation.ends_with("amx")) return flops * 0.03;
  return flops * 0.125;
}

std::shared_ptr<const Plan> plan_for(const Node& node, const ConvProblem& p, const Layouts* given,
                                     Beside beside = Beside::apart);

memory::dims dnnl_dilations(const ConvProblem& p) {
  memory::dims dilations = p.window.dilations;
  for (auto& d : dilations) --d;
  return dilations;
}

// UnsupportedError for samples that oneDNN does not count in its 32 bits.
void check_samples(const Node& node, const Dims& dims) {
  if (!dnnl_counts({element_count(dims) / dims[0]}))
    throw UnsupportedError(node.where(), " convolves samples of more than 2^31 - 1 elements: ", dims);
}

Plan make_plan(const Node& node, const ConvProblem& p, const Layouts* given) {
  check_samples(node, p.x);
  check_samples(node, p.y);
  Plan plan;
  plan.x = given ? dnnl_desc(p.x_dtype, p.x, given->x) : dnnl_any(p.x_dtype, p.x);
  plan.y = given ? dnnl_desc(p.y_dtype, p.y, given->y) : dnnl_any(p.y_dtype, p.y);
  Dims w = grouped_dims(p);
  plan.w = dnnl_any(p.w_dtype, w);
  if (p.bias) plan.bias = memory::desc({p.w[0]}, memory::data_type::f32, memory::format_tag::a);
  const memory::dims dilations = dnnl_dilations(p);
  using dnnl::query;
  if (p.slots.way == ConvWay::forward) {
    plan.hint = forward_descriptor(p, plan, dilations, scratch_attributes());
    plan.descriptor = plan.hint;
  } else {
    ConvProblem forward = p;
    forward.slots.way = ConvWay::forward;
    forward.bias = false;
    forward.x_dtype = forward.w_dtype = forward.y_dtype = p.dtype;
    plan.descriptor = backward_descriptor(p, plan, dilations, plan_for(node, forward, nullptr)->hint);
  }
  const auto& pd = plan.descriptor;
  plan.x = pd.query_md(p.slots.way == ConvWay::data ? query::diff_src_md : query::src_md);
  plan.w = pd.query_md(p.slots.way == ConvWay::weights ? query::diff_weights_md : query::weights_md);
  plan.y = pd.query_md(p.slots.way == ConvWay::forward ? query::dst_md : query::diff_dst_md);
  plan.x_layout = layout_of(plan.x);
  plan.y_layout = layout_of(plan.y);
  plan.w_layout = join_groups(p, layout_of(plan.w));
  plan.cost = cost_of(p, pd.impl_info_str());
  return plan;
}

// Windows of more than a pixel on matrix tiles: the kernel does an activation slowly, and another pass over a result
// that is still in the cache costs less.
bool is_better_apart(const ConvProblem& p, const Plan& bare) {
  constexpr size_t near_bytes = size_t{2} << 20;
  const std::string_view kernel = bare.descriptor.impl_info_str();
  return !p.adds && kernel.starts_with("brgconv:") && kernel.ends_with("amx") && bare.y.get_size() <= near_bytes;
}

// The plan that does not finish its result, finishing it where that takes no other kernel.
Plan finishing_plan(const ConvProblem& p, const Plan& bare, Beside beside) {
  auto ops = post_ops_of(p, bare.y, beside);
  if (!ops || is_better_apart(p, bare)) return bare;
  dnnl::primitive_attr attributes = scratch_attributes();
  attributes.set_post_ops(*ops);
  Plan plan = bare;
  try {
    plan.hint = forward_descriptor(p, bare, dnnl_dilations(p), attributes);
  } catch (const dnnl::error&) {
    return bare;
  }
  plan.descriptor = plan.hint;
  plan.finishes = std::string_view(plan.descriptor.impl_info_str()) == bare.descriptor.impl_info_str();
  return plan.finishes ? plan : bare;
}

std::string key_of(const ConvProblem& p, const Layouts* given, Beside beside) {
  const Window& win = p.window;
  std::string key =
      cat(p.x_dtype, p.w_dtype, p.y_dtype, static_cast<int>(p.slots.way), p.bias && p.slots.way == ConvWay::forward,
          ' ', thread_count(), p.x, p.w, p.y, p.group, win.strides, win.dilations, win.begin, win.end);
  if (p.finishes()) {
    auto bits = [](double value) { return std::bit_cast<int64_t>(value); };
    key += cat('|', static_cast<int>(p.activation.epilogue), ' ', bits(p.activation.low), ' ', bits(p.activation.high),
               p.adds, static_cast<int>(beside));
  }
  if (given) key += cat(given->x, given->x.padded, given->y, given->y.padded);
  return key;
}

// A memo of a pure function: sessions on several threads may share it.
class PlanMemo {
 public:
  std::shared_ptr<const Plan> find(const std::string& key) {
    std::lock_guard lock(mutex_);
    auto found = plans_.find(key);
    return found == plans_.end() ? nullptr : found->second;
  }
  void keep(const std::string& key, std::shared_ptr<const Plan> plan) {
    constexpr size_t most = 1024;
    std::lock_guard lock(mutex_);
    if (plans_.size() >= most) plans_.clear();
    plans_.emplace(key, std::move(plan));
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<const Plan>> plans_;
};

// The plan for given layouts, or for those that oneDNN likes best.
std::shared_ptr<const Plan> plan_for(const Node& node, const ConvProblem& p, const Layouts* given, Beside beside) {
  static PlanMemo memo;
  std::string key = key_of(p, given, beside);
  if (auto known = memo.find(key)) return known;
  auto plan = with_dnnl_errors(node, [&] {
    if (!p.finishes()) return std::make_shared<const Plan>(make_plan(node, p, given));
    ConvProblem bare = p;
    bare.activation = {};
    bare.adds = false;
    return std::make_shared<const Plan>(finishing_plan(p, *plan_for(node, bare, given), beside));
  });
  memo.keep(key, plan);
  return plan;
}

// Weights may lie otherwise: reordering them costs less than a convolution on layouts that oneDNN does not like.
std::shared_ptr<const Plan> plan_as_it_lies(const Node& node, const ConvProblem& p, Beside beside = Beside::apart) {
  Layouts given{conv_value(node, p.slots.x)->layout, conv_value(node, p.slots.y)->layout};
  auto plan = plan_for(node, p, nullptr, beside);
  const bool fits = plan->x_layout == given.x && plan->y_layout == given.y;
  return fits ? plan : plan_for(node, p, &given, beside);
}

// As they lie; UnsupportedError where oneDNN has no name for that.
memory::desc weights_desc(const Node& node, const ConvProblem& p) {
  const Layout& w = conv_value(node, p.slots.w)->layout;
  return with_dnnl_errors(node, [&] { return dnnl_desc(p.w_dtype, grouped_dims(p), split_groups(p, w)); });
}

bool is_reference(const Plan& plan) { return std::string_view(plan.descriptor.impl_info_str()).starts_with("ref"); }

struct Settled {
  std::shared_ptr<const Plan> plan;
  std::shared_ptr<const Plan> in_place;  // where y lies over what is added to it; may be nullptr
  bool reorders_w = false;
  memory::desc w;         // of the value
  int64_t pad_bytes = 0;  // scratch of either plan
};

// As `plan`, for what may lie over the operand that is added.
std::shared_ptr<const Plan> plan_in_place(const Node& node, const ConvProblem& p, const Plan& plan) {
  if (!p.adds) return nullptr;
  auto in_place = plan_as_it_lies(node, p, Beside::in_y);
  return in_place->finishes && in_place->w == plan.w ? in_place : nullptr;
}

// ConvTranspose: x[n,c,...] += bias[c] after the backward primitive, which takes no bias.
Kernel then_add_bias(const Node& node, const ConvProblem& p, const Binding& binding, Kernel convolve) {
  if (!p.bias || p.slots.way != ConvWay::data) return convolve;
  auto* x = static_cast<float*>(conv_address(binding, p.slots.x));
  const auto* bias = static_cast<const float*>(conv_address(binding, p.slots.bias));
  ChannelView view = channel_view(node, *conv_value(node, p.slots.x));
  return [=](Stream& stream) {
    convolve(stream);
    for_each_channel_element(view, [=](int64_t i, int64_t c) {
      if (c < view.channels) x[i] += bias[c];
    });
  };
}

// What the primitive leaves to do, if anything.
Kernel then_go_on(const Node& node, const ConvProblem& p, const Binding& binding, const Plan& plan, Kernel convolve) {
  if (!plan.finishes) convolve = then_finish(node, p, binding, convolve);
  return then_add_bias(node, p, binding, convolve);
}

void mix(ConvProblem& p) {
  p.dtype = p.x_dtype = p.w_dtype = p.y_dtype = DType::bf16;
  if (p.slots.way == ConvWay::weights) p.w_dtype = DType::f32;
}

}  // namespace

// x, w and y; the gradient of w stays float32, as do biases.
std::optional<MixedPrecision> mix_conv(const Node& node) {
  if (!has_bfloat16()) return std::nullopt;
  ConvProblem p = conv_problem(node);
  if (p.empty() || (p.bias && p.slots.way == ConvWay::data)) return std::nullopt;
  mix(p);
  if (is_reference(*plan_for(node, p, nullptr))) return std::nullopt;
  if (p.slots.way == ConvWay::weights) return MixedPrecision{.inputs = 3};
  if (p.adds) return MixedPrecision{.inputs = 3 | 1 << conv_beside, .outputs = 1};
  return MixedPrecision{.inputs = 3, .outputs = 1, .optional = 1};
}

bool takes_direct(const Node& node, const ConvProblem& p) {
  try {
    weights_desc(node, p);
    return !is_reference(*plan_as_it_lies(node, p));
  } catch (const UnsupportedError&) {
    return false;
  }
}

std::vector<Candidate> propose_conv(const Node& node) {
  ConvProblem p = conv_problem(node);
  std::vector<Candidate> candidates = propose_plain(node);
  if (p.empty()) return candidates;
  auto candidate_of = [&](const Plan& plan) {
    Candidate candidate = propose_plain(node)[0];
    candidate.cost = plan.cost;
    set_layout(candidate, p.slots.x, plan.x_layout);
    set_result_layout(candidate, p, plan.y_layout);
    if (plan.w_layout) set_layout(candidate, p.slots.w, *plan.w_layout);
    return candidate;
  };
  auto plan = plan_for(node, p, nullptr);
  Candidate best = candidate_of(*plan);
  if (best.inputs == candidates[0].inputs && best.outputs == candidates[0].outputs) return {best};
  candidates[0].cost = std::max(cost_of(p, p.group > 1 ? "ref" : "gemm"), plan->cost * 1.5);
  // What other operators leave in blocks is not worth a reorder.
  Layouts blocked{blocked_channels(p.x, channel_block()), blocked_channels(p.y, channel_block())};
  bool whole_blocks = p.x[1] % channel_block() == 0 && p.y[1] % channel_block() == 0;
  if (whole_blocks && (plan->x_layout != blocked.x || plan->y_layout != blocked.y))
    candidates.insert(candidates.begin(), candidate_of(*plan_for(node, p, &blocked)));
  candidates.insert(candidates.begin(), best);
  auto add = [&](void (*propose)(const ConvProblem&, Candidate&), double cost) {
    Candidate other = best;
    propose(p, other);
    other.cost = cost;
    candidates.insert(candidates.begin(), other);
  };
  if (pointwise_fits(p)) add(propose_pointwise, plan->cost * 0.8);
  if (narrow_fits(p)) add(propose_narrow, plan->cost * 0.5);
  if (float_tiles_fit(p)) add(propose_float_tiles, plan->cost * 0.6);
  if (tiles_fit(p)) add(propose_tiles, cost_of(p, "amx"));
  if (winograd_fits(node, p)) candidates.insert(candidates.begin(), propose_winograd(node, p));
  return candidates;
}

Settlement settle_conv(const Node& node, const Settlement*) {
  ConvProblem p = conv_problem(node);
  Settlement settlement;
  if (p.empty()) return settlement;
  if (auto other = settle_conv_way(node, p)) return *other;
  Settled settled;
  settled.plan = plan_as_it_lies(node, p);
  settled.w = weights_desc(node, p);
  settled.reorders_w = settled.w != settled.plan->w;
  settled.pad_bytes = aligned(settled.plan->descriptor.scratchpad_desc().get_size());
  settled.in_place = plan_in_place(node, p, *settled.plan);
  if (settled.in_place) {
    settled.pad_bytes = std::max(settled.pad_bytes, aligned(settled.in_place->descriptor.scratchpad_desc().get_size()));
    settlement.in_place = {{0, static_cast<int>(conv_beside)}};
  }
  settlement.scratch_bytes = settled.pad_bytes;
  if (settled.reorders_w) settlement.scratch_bytes += aligned(settled.plan->w.get_size());
  settlement.scratch_bytes += bias_gradient_scratch(node, p);
  settlement.descriptor = settled;
  return settlement;
}

Kernel prepare_conv(const Node& node, const Binding& binding) {
  ConvProblem p = conv_problem(node);
  if (p.empty()) return prepare_conv_reference(node, binding);
  if (Kernel other = prepare_conv_way(node, p, binding)) return other;
  const auto& settled = std::any_cast<const Settled&>(binding.settlement->descriptor);
  const void* beside = p.adds ? binding.inputs[conv_beside] : nullptr;
  const Plan& plan = beside && beside == binding.outputs[0] ? *settled.in_place : *settled.plan;
  ConvWay way = p.slots.way;
  auto* scratch = static_cast<std::byte*>(binding.scratch);
  const int64_t pad_bytes = settled.pad_bytes;
  memory outer_w = dnnl_memory(settled.w, conv_address(binding, p.slots.w));
  memory w = settled.reorders_w ? dnnl_memory(plan.w, scratch + pad_bytes) : outer_w;
  BoundPrimitive::Operands operands = {
      {way == ConvWay::data ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, dnnl_memory(plan.x, conv_address(binding, p.slots.x))},
      {way == ConvWay::weights ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, w},
      {way == ConvWay::forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST,
       dnnl_memory(plan.y, conv_address(binding, p.slots.y))},
      {DNNL_ARG_SCRATCHPAD, dnnl_memory(plan.descriptor.scratchpad_desc(), scratch)}};
  if (p.bias && way == ConvWay::forward)
    operands.emplace_back(DNNL_ARG_BIAS, dnnl_memory(plan.bias, conv_address(binding, p.slots.bias)));
  if (beside && beside != binding.outputs[0] && plan.finishes)
    operands.emplace_back(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, dnnl_memory(plan.y, beside));
  std::byte* after_weights = scratch + pad_bytes + (settled.reorders_w ? aligned(plan.w.get_size()) : 0);
  return with_dnnl_errors(node, [&]() -> Kernel {
    BoundPrimitive convolve(plan.descriptor, operands);
    if (settled.reorders_w) {
      const memory& from = way == ConvWay::weights ? w : outer_w;
      const memory& to = way == ConvWay::weights ? outer_w : w;
      BoundPrimitive reorder(dnnl::reorder::primitive_desc(from, to), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
      if (way == ConvWay::weights) {
        Kernel kernel = [=](Stream& stream) { convolve(stream), reorder(stream); };
        return then_sum_bias(node, p, binding, after_weights, kernel);
      }
      return then_go_on(node, p, binding, plan, [=](Stream& stream) { reorder(stream), convolve(stream); });
    }
    if (way == ConvWay::weights) return then_sum_bias(node, p, binding, after_weights, convolve);
    return then_go_on(node, p, binding, plan, convolve);
  });
}

}  // namespace graft
