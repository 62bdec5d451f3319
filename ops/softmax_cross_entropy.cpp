// Softmax and cross-entropy in one, as PyTorch's cross_entropy defines it.
#include <cmath>

#include "ops/gradient.h"

// Compiled once for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/softmax_cross_entropy.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h.
#include <hwy/contrib/math/math-inl.h>

#ifndef GRAFT_OPS_SOFTMAX_CROSS_ENTROPY_TYPES
#define GRAFT_OPS_SOFTMAX_CROSS_ENTROPY_TYPES
namespace graft {

// Adjacent positions whose classes lie `stride` elements apart; a single position with stride 1 is a dense row.
template <class T>
struct Positions {
  const T* logits;
  int64_t count, classes, stride;
};

// dz_c = factor * exp(z_c - lse) - active * smooth_c at each position; smooth may be nullptr.
template <class T>
struct DeltaTerms {
  const T *lse, *factor, *active;
  const T* smooth;
};

}  // namespace graft
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE void row_log_sum_exp(const Positions<T>& at, T* lse) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const T* z = at.logits;
  T highest = z[0];
  int64_t c = 0;
  if (at.classes >= lanes) {
    auto high = hn::LoadU(d, z);
    for (c = lanes; c + lanes <= at.classes; c += lanes) high = hn::Max(high, hn::LoadU(d, z + c));
    highest = hn::GetLane(hn::MaxOfLanes(d, high));
  }
  for (; c < at.classes; ++c) highest = std::max(highest, z[c]);
  auto sums = hn::Zero(d);
  for (c = 0; c + lanes <= at.classes; c += lanes) {
    sums = hn::Add(sums, hn::Exp(d, hn::Sub(hn::LoadU(d, z + c), hn::Set(d, highest))));
  }
  T sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (; c < at.classes; ++c) sum += std::exp(z[c] - highest);
  *lse = highest + std::log(sum);
}

// One position a lane.
template <class D, class T>
HWY_INLINE void column_log_sum_exp(D d, const Positions<T>& at, int64_t i, T* lse) {
  auto high = hn::LoadU(d, at.logits + i);
  for (int64_t c = 1; c < at.classes; ++c) high = hn::Max(high, hn::LoadU(d, at.logits + c * at.stride + i));
  auto sum = hn::Zero(d);
  for (int64_t c = 0; c < at.classes; ++c) {
    sum = hn::Add(sum, hn::Exp(d, hn::Sub(hn::LoadU(d, at.logits + c * at.stride + i), high)));
  }
  hn::StoreU(hn::Add(high, hn::Log(d, sum)), d, lse + i);
}

// lse = log(sum_c exp(z_c)) at each position
template <class T>
HWY_INLINE void log_sum_exp_of(const Positions<T>& at, T* lse) {
  if (at.stride == 1 && at.count == 1) return row_log_sum_exp(at, lse);
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= at.count; i += lanes) column_log_sum_exp(d, at, i, lse);
  for (; i < at.count; ++i) column_log_sum_exp(hn::CappedTag<T, 1>(), at, i, lse);
}

template <class T>
HWY_INLINE void row_delta(const Positions<T>& at, const DeltaTerms<T>& terms, T* dz) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const T lse = *terms.lse;
  const T factor = *terms.factor;
  int64_t c = 0;
  for (; c + lanes <= at.classes; c += lanes) {
    auto delta = hn::Mul(hn::Set(d, factor), hn::Exp(d, hn::Sub(hn::LoadU(d, at.logits + c), hn::Set(d, lse))));
    if (terms.smooth) delta = hn::NegMulAdd(hn::Set(d, *terms.active), hn::LoadU(d, terms.smooth + c), delta);
    hn::StoreU(delta, d, dz + c);
  }
  for (; c < at.classes; ++c) {
    dz[c] = factor * std::exp(at.logits[c] - lse) - (terms.smooth ? *terms.active * terms.smooth[c] : T{0});
  }
}

template <class D, class T>
HWY_INLINE void column_delta(D d, const Positions<T>& at, const DeltaTerms<T>& terms, int64_t i, T* dz) {
  const auto lse = hn::LoadU(d, terms.lse + i);
  const auto factor = hn::LoadU(d, terms.factor + i);
  const auto active = hn::LoadU(d, terms.active + i);
  for (int64_t c = 0; c < at.classes; ++c) {
    auto delta = hn::Mul(factor, hn::Exp(d, hn::Sub(hn::LoadU(d, at.logits + c * at.stride + i), lse)));
    if (terms.smooth) delta = hn::NegMulAdd(active, hn::Set(d, terms.smooth[c]), delta);
    hn::StoreU(delta, d, dz + c * at.stride + i);
  }
}

template <class T>
HWY_INLINE void delta_of(const Positions<T>& at, const DeltaTerms<T>& terms, T* dz) {
  if (at.stride == 1 && at.count == 1) return row_delta(at, terms, dz);
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= at.count; i += lanes) column_delta(d, at, terms, i, dz);
  for (; i < at.count; ++i) column_delta(hn::CappedTag<T, 1>(), at, terms, i, dz);
}

void log_sum_exp_f32(const Positions<float>& at, float* lse) { log_sum_exp_of(at, lse); }
void log_sum_exp_f64(const Positions<double>& at, double* lse) { log_sum_exp_of(at, lse); }
void delta_f32(const Positions<float>& at, const DeltaTerms<float>& terms, float* dz) { delta_of(at, terms, dz); }
void delta_f64(const Positions<double>& at, const DeltaTerms<double>& terms, double* dz) { delta_of(at, terms, dz); }

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(log_sum_exp_f32);
HWY_EXPORT(log_sum_exp_f64);
HWY_EXPORT(delta_f32);
HWY_EXPORT(delta_f64);

namespace {

void log_sum_exp(const Positions<float>& at, float* lse) { HWY_DYNAMIC_DISPATCH(log_sum_exp_f32)(at, lse); }
void log_sum_exp(const Positions<double>& at, double* lse) { HWY_DYNAMIC_DISPATCH(log_sum_exp_f64)(at, lse); }
void delta(const Positions<float>& at, const DeltaTerms<float>& terms, float* dz) {
  HWY_DYNAMIC_DISPATCH(delta_f32)(at, terms, dz);
}
void delta(const Positions<double>& at, const DeltaTerms<double>& terms, double* dz) {
  HWY_DYNAMIC_DISPATCH(delta_f64)(at, terms, dz);
}

constexpr size_t logits_slot = 0, labels_slot = 1, weights_slot = 2, lse_slot = 3, dloss_slot = 4;

int64_t axis_of(const Node& node) {
  auto rank = static_cast<int64_t>(node.inputs[logits_slot]->dims.size());
  int64_t axis = node.integer("axis", 1);
  if (axis < -rank || axis >= rank) {
    throw ModelError(node.where(), " axis ", axis, " out of range for shape ", node.inputs[logits_slot]->dims,
                     ": allowed ", -rank, " to ", rank - 1);
  }
  return axis < 0 ? axis + rank : axis;
}

bool has_probabilities(const Node& node) { return is_float(node.inputs[labels_slot]->dtype); }

// The logits as (outer, classes, inner); a position is one (outer, inner) pair.
struct Shape {
  explicit Shape(const Node& node) : label(node.where()) {
    const Dims& dims = node.inputs[logits_slot]->dims;
    auto axis = static_cast<size_t>(axis_of(node));
    classes = dims[axis];
    for (size_t d = 0; d < dims.size(); ++d) (d < axis ? outer : inner) *= d == axis ? 1 : dims[d];
    samples = axis == 0 ? 1 : dims[0];
    ignore = node.integer("ignore_index", -100);
    smoothing = node.real("label_smoothing", 0);
    blocks = (inner + block - 1) / block;
  }

  // Work is cut the same way for every number of threads, so that sums do not depend on it.
  static constexpr int64_t block = 256;
  int64_t items() const { return outer * blocks; }
  int64_t cost() const { return classes * std::min(inner, block) * 8; }
  template <class T>
  Positions<T> positions(const T* logits, int64_t item, int64_t& first) const {
    int64_t o = item / blocks;
    int64_t i = item % blocks * block;
    first = o * inner + i;
    return {logits + offset(first), std::min(block, inner - i), classes, inner};
  }
  // Of class 0 at a position.
  int64_t offset(int64_t position) const { return position / inner * classes * inner + position % inner; }

  std::string label;
  int64_t outer = 1, classes = 0, inner = 1, blocks = 0, samples = 1;
  int64_t ignore = -100;
  double smoothing = 0;
};

void infer_operands(const Node& node, size_t inputs) {
  if (node.inputs.size() < 2 || node.inputs.size() > inputs || !node.inputs[0] || !node.inputs[1]) {
    throw ModelError(node.where(), " wants logits, labels and up to ", inputs, " inputs, got ", node.inputs.size());
  }
  const Value& logits = *node.inputs[logits_slot];
  const Value& labels = *node.inputs[labels_slot];
  if (!is_float(logits.dtype) || !logits.shaped() || logits.dims.empty()) {
    throw ModelError(node.where(), " wants floating-point logits of known shape, got ", logits.dtype, logits.dims);
  }
  Dims wanted = logits.dims;
  auto axis = axis_of(node);
  int64_t classes = wanted[static_cast<size_t>(axis)];
  if (!has_probabilities(node)) wanted.erase(wanted.begin() + axis);
  bool typed = labels.dtype == DType::i64 || labels.dtype == DType::i32 || labels.dtype == logits.dtype;
  if (!typed || labels.dims != wanted) {
    throw ModelError(node.where(), " labels are ", labels.dtype, labels.dims,
                     ", wanted are class indices (int64, int32) or probabilities of shape ", wanted);
  }
  if (classes < 1) throw ModelError(node.where(), " wants at least one class, got logits of shape ", logits.dims);
  const Value* weights = node.input(weights_slot);
  if (weights && (weights->dtype != logits.dtype || weights->dims != Dims{classes})) {
    throw ModelError(node.where(), " class weights are ", weights->dtype, weights->dims, ", wanted is ", logits.dtype,
                     Dims{classes});
  }
  double smoothing = node.real("label_smoothing", 0);
  if (!(smoothing >= 0 && smoothing <= 1)) {
    throw ModelError(node.where(), " label_smoothing is ", smoothing, ", allowed is 0 to 1");
  }
}

void set_type(Value* value, DType dtype, const Dims& dims) {
  if (!value) return;
  value->dtype = dtype;
  value->ranked = true;
  value->dims = dims;
}

Dims position_dims(const Node& node) {
  Dims dims = node.inputs[logits_slot]->dims;
  dims.erase(dims.begin() + axis_of(node));
  return dims;
}

// (logits, labels, weights?) -> (loss_sum, weight_sum, lse)
void infer_loss(Node& node) {
  infer_operands(node, 3);
  DType dtype = node.inputs[logits_slot]->dtype;
  set_type(node.output(0), dtype, {});
  set_type(node.output(1), dtype, {});
  set_type(node.output(2), dtype, position_dims(node));
}

// (logits, labels, weights?, lse, dloss) -> dlogits
void infer_loss_grad(Node& node) {
  infer_operands(node, 5);
  const Value& logits = *node.inputs[logits_slot];
  const Value* lse = node.input(lse_slot);
  const Value* dloss = node.input(dloss_slot);
  if (!lse || lse->dtype != logits.dtype || lse->dims != position_dims(node) || !dloss ||
      dloss->dtype != logits.dtype || !dloss->dims.empty()) {
    throw ModelError(node.where(), " wants the log-sum-exp of each position and a scalar gradient");
  }
  set_type(node.output(0), logits.dtype, logits.dims);
}

// What the labels say. Class weights and smoothing as q_c = w_c (t_c (1 - s) + s / C), the target of class c.
template <class T>
struct Targets {
  Targets(const Node& node, const Binding& b)
      : shape(node),
        dtype(node.inputs[labels_slot]->dtype),
        raw(b.inputs[labels_slot]),
        weights(b.in<T>(weights_slot)) {}

  int64_t index(int64_t position) const {
    return dtype == DType::i64 ? static_cast<const int64_t*>(raw)[position]
                               : static_cast<const int32_t*>(raw)[position];
  }
  const T* probabilities() const { return is_float(dtype) ? static_cast<const T*>(raw) : nullptr; }
  double weight(int64_t c) const { return weights ? static_cast<double>(weights[c]) : 1.0; }
  double smooth(int64_t c) const { return shape.smoothing / static_cast<double>(shape.classes) * weight(c); }
  double q(T t, int64_t c) const { return (1 - shape.smoothing) * weight(c) * static_cast<double>(t) + smooth(c); }

  // Before the threads start: kernels throw from one thread only.
  void check() const {
    if (probabilities()) return;
    int64_t count = shape.outer * shape.inner;
    for (int64_t p = 0; p < count; ++p) {
      int64_t c = index(p);
      if ((c >= 0 && c < shape.classes) || c == shape.ignore) continue;
      int64_t each = count / shape.samples;
      std::string position = each > 1 ? cat(" position ", p % each) : "";
      throw DataError(shape.label, " sample ", p / each, position, ": label ", c, " is out of range: allowed 0 to ",
                      shape.classes - 1, " (ignored is ", shape.ignore, ")");
    }
  }

  Shape shape;
  DType dtype;
  const void* raw;
  const T* weights;
};

struct Sums {
  double loss = 0;
  double weight = 0;
};

// loss += sum_c q_c (lse - z_c) at one position
template <class T>
void add_loss_at(const Targets<T>& targets, const T* z, int64_t position, double lse, Sums& sums) {
  const Shape& shape = targets.shape;
  auto cost = [&](int64_t c) { return lse - static_cast<double>(z[c * shape.inner]); };
  if (const T* t = targets.probabilities()) {
    t += shape.offset(position);
    for (int64_t c = 0; c < shape.classes; ++c) {
      if (double q = targets.q(t[c * shape.inner], c); q != 0) sums.loss += q * cost(c);
    }
    sums.weight += 1;
    return;
  }
  int64_t label = targets.index(position);
  if (label == shape.ignore) return;
  sums.loss += (1 - shape.smoothing) * targets.weight(label) * cost(label);
  sums.weight += targets.weight(label);
  if (shape.smoothing == 0) return;
  for (int64_t c = 0; c < shape.classes; ++c) sums.loss += targets.smooth(c) * cost(c);
}

int64_t round_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Scratch of the forward kernel: the partial sums, then lse where nobody keeps it.
Settlement settle_loss(const Node& node, const Settlement*) {
  Shape shape(node);
  Settlement settlement;
  settlement.scratch_bytes = round_up(shape.items() * static_cast<int64_t>(sizeof(Sums)));
  if (!node.output(2)) settlement.scratch_bytes += byte_count(node.inputs[logits_slot]->dtype, position_dims(node));
  return settlement;
}

// loss_sum = sum over positions of sum_c q_c (lse - z_c); z: (outer, classes, inner)
template <class T>
Kernel prepare_loss(const Node& node, const Binding& b) {
  Targets<T> targets(node, b);
  const Shape& shape = targets.shape;
  auto* partial = static_cast<Sums*>(b.scratch);
  auto* rest = static_cast<std::byte*>(b.scratch) + round_up(shape.items() * static_cast<int64_t>(sizeof(Sums)));
  T* lse = b.out<T>(2) ? b.out<T>(2) : reinterpret_cast<T*>(rest);
  return [targets, partial, lse, logits = b.in<T>(0), loss = b.out<T>(0), weight = b.out<T>(1)](Stream&) {
    targets.check();
    const Shape& at = targets.shape;
    parallel_for(at.items(), at.cost(), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        int64_t first = 0;
        Positions<T> positions = at.positions(logits, item, first);
        log_sum_exp(positions, lse + first);
        Sums sums;
        for (int64_t i = 0; i < positions.count; ++i) {
          add_loss_at(targets, positions.logits + i, first + i, static_cast<double>(lse[first + i]), sums);
        }
        partial[item] = sums;
      }
    });
    Sums total;
    for (int64_t item = 0; item < at.items(); ++item) {
      total.loss += partial[item].loss;
      total.weight += partial[item].weight;
    }
    if (loss) *loss = static_cast<T>(total.loss);
    if (weight) *weight = static_cast<T>(total.weight);
  };
}

Settlement settle_loss_grad(const Node& node, const Settlement*) {
  Settlement settlement;
  settlement.scratch_bytes = byte_count(node.inputs[logits_slot]->dtype, {Shape(node).classes});
  settlement.in_place = {{0, 0}};
  return settlement;
}

// What comes from above, and the smoothing's share of it: dloss smooth_c and the sum of smooth_c.
template <class T>
struct Seed {
  double dloss;
  const T* smooth;  // nullptr without smoothing
  double smooth_total;
};

// dz_c = dloss (Q exp(z_c - lse) - q_c), Q = sum_c q_c; targets are class indices
template <class T>
void index_delta(const Targets<T>& targets, const Positions<T>& at, int64_t first, const T* lse, const Seed<T>& seed,
                 T* dz) {
  const Shape& shape = targets.shape;
  T factor[Shape::block];
  T active[Shape::block];
  for (int64_t i = 0; i < at.count; ++i) {
    int64_t label = targets.index(first + i);
    bool used = label != shape.ignore;
    active[i] = used ? T{1} : T{0};
    factor[i] =
        used ? static_cast<T>(seed.dloss * ((1 - shape.smoothing) * targets.weight(label) + seed.smooth_total)) : T{0};
  }
  delta(at, DeltaTerms<T>{lse, factor, active, seed.smooth}, dz);
  for (int64_t i = 0; i < at.count; ++i) {
    int64_t label = targets.index(first + i);
    if (label == shape.ignore) {
      for (int64_t c = 0; c < shape.classes; ++c) dz[c * shape.inner + i] = 0;
    } else {
      dz[label * shape.inner + i] -= static_cast<T>(seed.dloss * (1 - shape.smoothing) * targets.weight(label));
    }
  }
}

// The same with targets that are probabilities.
template <class T>
void probability_delta(const Targets<T>& targets, const Positions<T>& at, int64_t first, const T* lse, double dloss,
                       T* dz) {
  const Shape& shape = targets.shape;
  for (int64_t i = 0; i < at.count; ++i) {
    const T* t = targets.probabilities() + shape.offset(first + i);
    double total = 0;
    for (int64_t c = 0; c < shape.classes; ++c) total += targets.q(t[c * shape.inner], c);
    for (int64_t c = 0; c < shape.classes; ++c) {
      auto p = static_cast<double>(std::exp(at.logits[c * shape.inner + i] - lse[i]));
      dz[c * shape.inner + i] = static_cast<T>(dloss * (total * p - targets.q(t[c * shape.inner], c)));
    }
  }
}

template <class T>
Kernel prepare_loss_grad(const Node& node, const Binding& b) {
  Targets<T> targets(node, b);
  T* scratch = targets.shape.smoothing > 0 ? static_cast<T*>(b.scratch) : nullptr;
  return [targets, scratch, logits = b.in<T>(logits_slot), lse = b.in<T>(lse_slot), dloss = b.in<T>(dloss_slot),
          dz = b.out<T>(0)](Stream&) {
    targets.check();
    const Shape& at = targets.shape;
    Seed<T> seed{static_cast<double>(*dloss), scratch, 0};
    for (int64_t c = 0; scratch && c < at.classes; ++c) {
      scratch[c] = static_cast<T>(seed.dloss * targets.smooth(c));
      seed.smooth_total += targets.smooth(c);
    }
    parallel_for(at.items(), at.cost(), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        int64_t first = 0;
        Positions<T> positions = at.positions(logits, item, first);
        T* out = dz + (positions.logits - logits);
        if (targets.probabilities()) probability_delta(targets, positions, first, lse + first, seed.dloss, out);
        else index_delta(targets, positions, first, lse + first, seed, out);
      }
    });
  };
}

Vals differentiate_loss(Gradient& g) {
  Vals gradients(g.input_count());
  if (!g.dy(0) || !g.needs(logits_slot)) return gradients;
  if (g.needs(labels_slot) || g.needs(weights_slot)) {
    throw UnsupportedError(g.node().where(), " has no gradient for labels and class weights");
  }
  if (!g.y(2)) {
    while (g.node().outputs.size() < 3) g.graph().add_output(&g.node());
    infer(g.node());
  }
  gradients[0] =
      g.grad_node("SoftmaxCrossEntropyGrad", {g.x(0), g.x(1), g.x(2), g.y(2), g.dy(0)}, 1, g.node().attributes)[0];
  return gradients;
}

template <class T>
KernelFunctions loss_kernel() {
  return {propose_plain, settle_loss, prepare_loss<T>};
}

template <class T>
KernelFunctions loss_grad_kernel() {
  return {propose_plain, settle_loss_grad, prepare_loss_grad<T>};
}

}  // namespace

std::vector<Op> softmax_cross_entropy_ops() {
  return {
      {.type = "SoftmaxCrossEntropy",
       .domain = "graft",
       .infer = infer_loss,
       .cpu = {{DTypes::f32, loss_kernel<float>()}, {DTypes::f64, loss_kernel<double>()}},
       .differentiate = differentiate_loss},
      {.type = "SoftmaxCrossEntropyGrad",
       .domain = "graft",
       .infer = infer_loss_grad,
       .cpu = {{DTypes::f32, loss_grad_kernel<float>()}, {DTypes::f64, loss_grad_kernel<double>()}}},
  };
}

}  // namespace graft
#endif  // HWY_ONCE
