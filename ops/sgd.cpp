// Stochastic gradient descent with momentum as PyTorch steps it.
#include <cmath>

#include "ops/part.h"
#include "ops/row_step.h"

// Compiled once for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/sgd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef GRAFT_OPS_SGD_TERMS
#define GRAFT_OPS_SGD_TERMS
namespace graft {

template <class T>
struct SgdTerms {
  T scale, l2;    // gradient = scale * g + l2 * w; without the second term where l2 is 0, whatever w is
  T keep, fresh;  // m' = keep * m + fresh * gradient
  T now, past;    // w' = w - now * gradient - past * m'
};

template <class T>
struct SgdArrays {
  const T *w, *g, *m;  // m: nullptr without momentum
  T *w_out, *m_out;
};

}  // namespace graft
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool momentum, class D, class T>
HWY_INLINE void sgd_vector(D d, const SgdTerms<T>& terms, const SgdArrays<T>& a, int64_t i) {
  auto w = hn::LoadU(d, a.w + i);
  const auto decay = terms.l2 == 0 ? hn::Zero(d) : hn::Mul(hn::Set(d, terms.l2), w);
  const auto g = hn::MulAdd(hn::Set(d, terms.scale), hn::LoadU(d, a.g + i), decay);
  w = hn::NegMulAdd(hn::Set(d, terms.now), g, w);
  if constexpr (momentum) {
    const auto m = hn::MulAdd(hn::Set(d, terms.keep), hn::LoadU(d, a.m + i), hn::Mul(hn::Set(d, terms.fresh), g));
    w = hn::NegMulAdd(hn::Set(d, terms.past), m, w);
    hn::StoreU(m, d, a.m_out + i);
  }
  hn::StoreU(w, d, a.w_out + i);
}

template <bool momentum, class T>
HWY_INLINE void sgd_range(const SgdTerms<T>& terms, const SgdArrays<T>& arrays, int64_t begin, int64_t end) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) sgd_vector<momentum>(d, terms, arrays, i);
  for (; i < end; ++i) sgd_vector<momentum>(hn::CappedTag<T, 1>(), terms, arrays, i);
}

void sgd_f32(const SgdTerms<float>& terms, const SgdArrays<float>& arrays, int64_t begin, int64_t end) {
  if (arrays.m) sgd_range<true>(terms, arrays, begin, end);
  else sgd_range<false>(terms, arrays, begin, end);
}

void sgd_f64(const SgdTerms<double>& terms, const SgdArrays<double>& arrays, int64_t begin, int64_t end) {
  if (arrays.m) sgd_range<true>(terms, arrays, begin, end);
  else sgd_range<false>(terms, arrays, begin, end);
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(sgd_f32);
HWY_EXPORT(sgd_f64);

namespace {

struct SgdOptions {
  explicit SgdOptions(const Node& node)
      : momentum(node.real("momentum", 0)),
        dampening(node.real("dampening", 0)),
        weight_decay(node.real("weight_decay", 0)),
        nesterov(node.integer("nesterov", 0) != 0) {
    bool sound = momentum >= 0 && weight_decay >= 0 && !(nesterov && (momentum == 0 || dampening != 0));
    if (!sound) {
      throw ModelError(node.where(), " momentum ", momentum, ", dampening ", dampening, ", weight_decay ", weight_decay,
                       ", nesterov ", nesterov,
                       ": allowed are values of at least 0, and Nesterov only with momentum and "
                       "without dampening");
    }
  }
  double momentum, dampening, weight_decay;
  bool nesterov;
};

// `more`: operands behind the moments.
void check_sgd(const Node& node, size_t more) {
  SgdOptions options(node);
  size_t wanted = (options.momentum > 0 ? 6 : 5) + more;
  if (node.inputs.size() != wanted) {
    throw ModelError(node.where(), " wants ", wanted, " inputs with momentum ", options.momentum, ", got ",
                     node.inputs.size());
  }
}

void infer_sgd(Node& node) {
  check_sgd(node, 0);
  infer_step(node);
}

void infer_sgd_rows(Node& node) {
  check_sgd(node, 1);
  infer_row_step(node);
}

template <class T>
SgdTerms<T> terms_of(const SgdOptions& options, const StepScalars& now) {
  bool first = now.step <= 1;  // the momentum starts as the first gradient, undamped
  bool momentum = options.momentum > 0;
  return {.scale = static_cast<T>(now.scale),
          .l2 = static_cast<T>(options.weight_decay),
          .keep = static_cast<T>(first ? 0 : options.momentum),
          .fresh = static_cast<T>(first ? 1 : 1 - options.dampening),
          .now = static_cast<T>(options.nesterov || !momentum ? now.lr : 0),
          .past = static_cast<T>(options.nesterov ? now.lr * options.momentum : now.lr)};
}

void step_range(const SgdTerms<float>& terms, const SgdArrays<float>& arrays, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(sgd_f32)(terms, arrays, begin, end);
}

void step_range(const SgdTerms<double>& terms, const SgdArrays<double>& arrays, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(sgd_f64)(terms, arrays, begin, end);
}

constexpr int64_t cost = 2;  // of an element

// From element `i` on; `g` is there already.
template <class T>
SgdArrays<T> arrays_at(int64_t i, const T* w, T* w_out, const T* g, const MomentPiece<T>& moments) {
  return {w + i, g, moments.in(0, i), w_out + i, moments.out(0, i)};
}

template <class T>
Kernel prepare_sgd(const Node& node, const Binding& b) {
  SgdOptions options(node);
  int64_t count = node.inputs[1]->layout.storage_count();
  return [=, w = b.in<T>(0), g = b.in<T>(1), w_out = b.out<T>(0), moments = Moments<T>(node, b, b.scratch),
          now = ScalarOperands<T>(b)](Stream&) {
    auto terms = terms_of<T>(options, now.read());
    moments.run(count, cost, element_itself, [&](int64_t begin, int64_t end, const MomentPiece<T>& piece) {
      step_range(terms, arrays_at(begin, w, w_out, g + begin, piece), 0, end - begin);
    });
  };
}

template <class T>
KernelFunctions sgd_kernel() {
  return {propose_step, settle_step, prepare_sgd<T>};
}

// Whether a gradient of zero leaves w as it is, minus zero included.
template <class T>
bool zero_moves_nothing(const SgdTerms<T>& terms) {
  const T move = terms.now * (terms.scale * T{0} + T{0});
  return terms.l2 == 0 && move == 0 && !std::signbit(move);
}

template <class T>
Kernel prepare_sgd_rows(const Node& node, const Binding& b) {
  SgdOptions options(node);
  return [=, w = b.in<T>(0), w_out = b.out<T>(0), moments = moments_of_rows<T>(node, b), now = ScalarOperands<T>(b),
          gradient = RowGradient<T>(node, b), bytes = storage_bytes(*node.inputs[0])](Stream&) {
    auto terms = terms_of<T>(options, now.read());
    const bool touched_only = options.momentum == 0 && zero_moves_nothing(terms);
    if (touched_only && w != w_out) std::memcpy(w_out, w, static_cast<size_t>(bytes));
    gradient.run(moments, touched_only, cost, [&](const T* g, int64_t begin, int64_t end, const MomentPiece<T>& piece) {
      step_range(terms, arrays_at(begin, w, w_out, g, piece), 0, end - begin);
    });
  };
}

template <class T>
KernelFunctions sgd_rows_kernel() {
  return {propose_plain, settle_row_step, prepare_sgd_rows<T>};
}

}  // namespace

std::vector<Op> sgd_ops() {
  return {{.type = "Sgd",
           .domain = "graft",
           .infer = infer_sgd,
           .cpu = {{DTypes::f32, sgd_kernel<float>()}, {DTypes::f64, sgd_kernel<double>()}},
           .disk_slots = {5}},
          {.type = "SgdRows",
           .domain = "graft",
           .infer = infer_sgd_rows,
           .cpu = {{DTypes::f32, sgd_rows_kernel<float>()}, {DTypes::f64, sgd_rows_kernel<double>()}},
           .disk_slots = {5}}};
}

}  // namespace graft
#endif  // HWY_ONCE
