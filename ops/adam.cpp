// Adam and AdamW as PyTorch steps them.
#include <cmath>

#include "ops/row_step.h"

// Compiled once for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/adam.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef GRAFT_OPS_ADAM_TERMS
#define GRAFT_OPS_ADAM_TERMS
namespace graft {

// The scalars of one step, computed in double.
template <class T>
struct AdamTerms {
  T scale, l2;              // gradient = scale * g + l2 * w
  T keep;                   // w * keep: decoupled decay, 1 - lr * weight_decay
  T fresh1, keep2, fresh2;  // 1 - beta1, beta2, 1 - beta2
  T step_size;              // lr / (1 - beta1^step)
  T unbias2;                // 1 / sqrt(1 - beta2^step)
  T eps;
};

template <class T>
struct AdamArrays {
  const T *w, *g, *m, *v;
  T *w_out, *m_out, *v_out;
};

}  // namespace graft
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// m' = m + (1-b1)(g - m); v' = b2 v + (1-b2) g^2; w' = keep w - step_size m' / (sqrt(v') unbias2 + eps)
template <class D, class T>
HWY_INLINE void adam_vector(D d, const AdamTerms<T>& terms, const AdamArrays<T>& a, int64_t i) {
  const auto w = hn::LoadU(d, a.w + i);
  const auto g = hn::MulAdd(hn::Set(d, terms.scale), hn::LoadU(d, a.g + i), hn::Mul(hn::Set(d, terms.l2), w));
  const auto m0 = hn::LoadU(d, a.m + i);
  const auto m = hn::MulAdd(hn::Set(d, terms.fresh1), hn::Sub(g, m0), m0);
  const auto v =
      hn::MulAdd(hn::Mul(hn::Set(d, terms.fresh2), g), g, hn::Mul(hn::Set(d, terms.keep2), hn::LoadU(d, a.v + i)));
  const auto denominator = hn::MulAdd(hn::Sqrt(v), hn::Set(d, terms.unbias2), hn::Set(d, terms.eps));
  const auto update = hn::Div(hn::Mul(hn::Set(d, terms.step_size), m), denominator);
  // MulSub: whether compilers fuse a product and a difference hangs on the width of the vector.
  hn::StoreU(hn::MulSub(hn::Set(d, terms.keep), w, update), d, a.w_out + i);
  hn::StoreU(m, d, a.m_out + i);
  hn::StoreU(v, d, a.v_out + i);
}

template <class T>
HWY_INLINE void adam_range(const AdamTerms<T>& terms, const AdamArrays<T>& arrays, int64_t begin, int64_t end) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) adam_vector(d, terms, arrays, i);
  for (; i < end; ++i) adam_vector(hn::CappedTag<T, 1>(), terms, arrays, i);
}

void adam_f32(const AdamTerms<float>& terms, const AdamArrays<float>& arrays, int64_t begin, int64_t end) {
  adam_range(terms, arrays, begin, end);
}

void adam_f64(const AdamTerms<double>& terms, const AdamArrays<double>& arrays, int64_t begin, int64_t end) {
  adam_range(terms, arrays, begin, end);
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(adam_f32);
HWY_EXPORT(adam_f64);

namespace {

struct AdamOptions {
  explicit AdamOptions(const Node& node)
      : beta1(node.real("beta1", 0.9)),
        beta2(node.real("beta2", 0.999)),
        eps(node.real("eps", 1e-8)),
        weight_decay(node.real("weight_decay", 0)),
        decoupled(node.integer("decoupled", 0) != 0) {
    bool sound = beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1 && static_cast<float>(eps) > 0 && weight_decay >= 0;
    if (!sound) {
      throw ModelError(node.where(), " beta1 ", beta1, ", beta2 ", beta2, ", eps ", eps, ", weight_decay ",
                       weight_decay, ": allowed are betas in [0,1), eps above 0 and a decay of at least 0");
    }
  }
  double beta1, beta2, eps, weight_decay;
  bool decoupled;
};

template <size_t inputs>
void check_adam(const Node& node) {
  if (node.inputs.size() != inputs)
    throw ModelError(node.where(), " wants ", inputs, " inputs, got ", node.inputs.size());
  AdamOptions check(node);
}

void infer_adam(Node& node) {
  check_adam<7>(node);
  infer_step(node);
}

void infer_adam_rows(Node& node) {
  check_adam<8>(node);
  infer_row_step(node);
}

template <class T>
AdamTerms<T> terms_of(const AdamOptions& options, const StepScalars& now) {
  auto step = static_cast<double>(std::max<int64_t>(now.step, 1));
  double bias1 = 1 - std::pow(options.beta1, step);
  double bias2 = 1 - std::pow(options.beta2, step);
  return {.scale = static_cast<T>(now.scale),
          .l2 = static_cast<T>(options.decoupled ? 0 : options.weight_decay),
          .keep = static_cast<T>(options.decoupled ? 1 - now.lr * options.weight_decay : 1),
          .fresh1 = static_cast<T>(1 - options.beta1),
          .keep2 = static_cast<T>(options.beta2),
          .fresh2 = static_cast<T>(1 - options.beta2),
          .step_size = static_cast<T>(now.lr / bias1),
          .unbias2 = static_cast<T>(1 / std::sqrt(bias2)),
          .eps = static_cast<T>(options.eps)};
}

void step_range(const AdamTerms<float>& terms, const AdamArrays<float>& arrays, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(adam_f32)(terms, arrays, begin, end);
}

void step_range(const AdamTerms<double>& terms, const AdamArrays<double>& arrays, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(adam_f64)(terms, arrays, begin, end);
}

constexpr int64_t cost = 4;  // of an element

// From element `i` on; `g` is there already.
template <class T>
AdamArrays<T> arrays_at(int64_t i, const T* w, T* w_out, const T* g, const MomentPiece<T>& moments) {
  return {w + i, g, moments.in(0, i), moments.in(1, i), w_out + i, moments.out(0, i), moments.out(1, i)};
}

template <class T>
Kernel prepare_adam(const Node& node, const Binding& b) {
  int64_t count = node.inputs[1]->layout.storage_count();
  return [w = b.in<T>(0), g = b.in<T>(1), w_out = b.out<T>(0), moments = Moments<T>(node, b, b.scratch),
          now = ScalarOperands<T>(b), count, options = AdamOptions(node)](Stream&) {
    auto terms = terms_of<T>(options, now.read());
    moments.run(count, cost, element_itself, [&](int64_t begin, int64_t end, const MomentPiece<T>& piece) {
      step_range(terms, arrays_at(begin, w, w_out, g + begin, piece), 0, end - begin);
    });
  };
}

template <class T>
KernelFunctions adam_kernel() {
  return {propose_step, settle_step, prepare_adam<T>};
}

// The moments of all rows decay: all are stepped.
template <class T>
Kernel prepare_adam_rows(const Node& node, const Binding& b) {
  return [w = b.in<T>(0), w_out = b.out<T>(0), moments = moments_of_rows<T>(node, b), now = ScalarOperands<T>(b),
          gradient = RowGradient<T>(node, b), options = AdamOptions(node)](Stream&) {
    auto terms = terms_of<T>(options, now.read());
    gradient.run(moments, false, cost, [&](const T* g, int64_t begin, int64_t end, const MomentPiece<T>& piece) {
      step_range(terms, arrays_at(begin, w, w_out, g, piece), 0, end - begin);
    });
  };
}

template <class T>
KernelFunctions adam_rows_kernel() {
  return {propose_plain, settle_row_step, prepare_adam_rows<T>};
}

}  // namespace

std::vector<Op> adam_ops() {
  return {{.type = "Adam",
           .domain = "graft",
           .infer = infer_adam,
           .cpu = {{DTypes::f32, adam_kernel<float>()}, {DTypes::f64, adam_kernel<double>()}},
           .disk_slots = {5, 6}},
          {.type = "AdamRows",
           .domain = "graft",
           .infer = infer_adam_rows,
           .cpu = {{DTypes::f32, adam_rows_kernel<float>()}, {DTypes::f64, adam_rows_kernel<double>()}},
           .disk_slots = {5, 6}}};
}

}  // namespace graft
#endif  // HWY_ONCE
