#include "ops/normalization_loops.h"

#include <algorithm>

// As in vector_loops.cpp; instruction sets whose vectors have no size are out, since structures hold some.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/normalization_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/bfloat16-inl.h"
#include "ops/epilogue-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors of a stretch of rows: `steps` of them, `stride` elements apart, from element `at` on. Their lanes are
// neighbouring channels from `channel` on or, `along` the rows of a single channel, all of that one.
struct Span {
  int64_t channel, steps, stride, at;
};

template <bool along, class D>
HWY_INLINE hn::Vec<D> channels(D d, const hn::TFromD<D>* vector, const Span& span) {
  if constexpr (along) return hn::Set(d, *vector);
  else return hn::LoadU(d, vector + span.channel);
}

template <bool along, class D>
HWY_INLINE void add_sum(D d, hn::Vec<D> sum, hn::TFromD<D>* to, const Span& span) {
  if constexpr (along) *to += hn::GetLane(hn::SumOfLanes(d, sum));
  else hn::StoreU(hn::Add(hn::LoadU(d, to + span.channel), sum), d, to + span.channel);
}

// Rows wider than a vector that are worked on side by side, each from its begin to its end: memory is read in order, by
// few enough streams for the machine to fetch ahead, and rows that lie a power of two apart do not drive each other out
// of the nearest cache. float32 and float64 do with all rows at once: their kernels see blocks of a vector's width.
template <class T, class S>
HWY_INLINE int64_t rows_at_once(int64_t rows, int64_t width) {
  constexpr int64_t few = 4;
  const auto lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<T>()));
  return std::is_same_v<T, S> || width <= lanes ? std::max<int64_t>(rows, 1) : few;
}

// Lets a body run over all elements of the rows. Whole vectors first; a rest of the channels takes smaller ones.
template <class Body>
HWY_INLINE void walk(Body& body, int64_t rows, int64_t width) {
  using T = typename Body::Element;
  const hn::ScalableTag<T> whole;
  const hn::CappedTag<T, 4> small;
  const hn::CappedTag<T, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(whole));
  const auto few = static_cast<int64_t>(hn::Lanes(small));
  if (width == 1) {
    int64_t steps = rows / lanes;
    body.template run<true>(whole, {0, steps, lanes, 0});
    body.template run<true>(one, {0, rows - steps * lanes, 1, steps * lanes});
    return;
  }
  const int64_t at_once = rows_at_once<T, typename Body::Stored>(rows, width);
  for (int64_t row = 0; row < rows; row += at_once) {
    const int64_t some = std::min(at_once, rows - row), at = row * width;
    int64_t c = 0;
    for (; c + lanes <= width; c += lanes) body.template run<false>(whole, {c, some, width, at + c});
    for (; c + few <= width; c += few) body.template run<false>(small, {c, some, width, at + c});
    for (; c < width; ++c) body.template run<false>(one, {c, some, width, at + c});
  }
}

constexpr int64_t bytes_of_bits(int64_t lanes) { return (lanes + 7) / 8; }

template <class T>
int64_t bit_bytes(int64_t rows, int64_t width) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<T>()));
  const auto few = static_cast<int64_t>(hn::Lanes(hn::CappedTag<T, 4>()));
  // Highway may touch 8 bytes wherever it writes some.
  constexpr int64_t reach = 8;
  if (width == 1) return rows / lanes * bytes_of_bits(lanes) + rows % lanes + reach;
  int64_t rest = width % lanes;
  return rows * (width / lanes * bytes_of_bits(lanes) + rest / few + rest % few) + reach;
}

// Bodies hold copies of the rows: pointers behind a reference would be read again after every store.

// --- Forward ---

// Four sums side by side hide the latency of additions.
template <class T, class S>
struct Statistics {
  using Element = T;
  using Stored = S;
  const NormalizedRows<T, S> r;
  T* sums;

  template <class V>
  static HWY_INLINE void add(V x, V mean, V& a, V& b) {
    V d = hn::Sub(x, mean);
    a = hn::Add(a, d);
    b = hn::MulAdd(d, d, b);
  }

  template <bool along, class D>
  HWY_INLINE void run(D d, const Span& span) {
    using V = hn::Vec<D>;
    const V mean = channels<along>(d, r.mean, span);
    V a0 = hn::Zero(d), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    const S* x = r.x + span.at;
    const int64_t stride = span.stride;
    int64_t k = 0;
    for (; k + 4 <= span.steps; k += 4, x += 4 * stride) {
      add<V>(load(d, x), mean, a0, b0);
      add<V>(load(d, x + stride), mean, a1, b1);
      add<V>(load(d, x + 2 * stride), mean, a2, b2);
      add<V>(load(d, x + 3 * stride), mean, a3, b3);
    }
    for (; k < span.steps; ++k, x += stride) add<V>(load(d, x), mean, a0, b0);
    add_sum<along>(d, hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), sums, span);
    add_sum<along>(d, hn::Add(hn::Add(b0, b1), hn::Add(b2, b3)), sums + r.width, span);
  }
};

template <class T, class S>
void statistics(const NormalizedRows<T, S>& r, T* sums) {
  std::fill_n(sums, 2 * r.width, T{0});
  Statistics<T, S> body{r, sums};
  walk(body, r.rows, r.width);
}

template <class T, class S, Epilogue epilogue, bool residual, bool bits>
struct Normalization {
  using Element = T;
  using Stored = S;
  const NormalizedRows<T, S> r;
  uint8_t* to_bits;

  template <bool along, class D>
  HWY_INLINE void run(D d, const Span& span) {
    using V = hn::Vec<D>;
    const V mean = channels<along>(d, r.mean, span);
    const V factor = channels<along>(d, r.factor, span);
    const V bias = channels<along>(d, r.bias, span);
    const V low = hn::Set(d, r.low), high = hn::Set(d, r.high);
    int64_t i = span.at;
    for (int64_t k = 0; k < span.steps; ++k, i += span.stride) {
      V t = hn::MulAdd(hn::Sub(load(d, r.x + i), mean), factor, bias);
      if constexpr (residual) t = hn::Add(t, load(d, r.residual + i));
      if constexpr (bits) to_bits += hn::StoreMaskBits(d, is_inside(t, low, high), to_bits);
      if constexpr (epilogue == Epilogue::clamp) t = clamp<D>(t, low, high);
      if constexpr (epilogue == Epilogue::hard_swish) t = hard_swish(d, t);
      store(t, d, r.y + i);
    }
  }
};

template <class T, class S, Epilogue epilogue, bool residual, bool bits>
void normalize_with(const NormalizedRows<T, S>& r) {
  Normalization<T, S, epilogue, residual, bits> body{r, r.bits};
  walk(body, r.rows, r.width);
}

template <class T, class S>
void normalize(const NormalizedRows<T, S>& r, Epilogue epilogue) {
  if (epilogue == Epilogue::hard_swish && r.residual) return normalize_with<T, S, Epilogue::hard_swish, true, false>(r);
  if (epilogue == Epilogue::hard_swish) return normalize_with<T, S, Epilogue::hard_swish, false, false>(r);
  if (epilogue == Epilogue::none && r.residual) return normalize_with<T, S, Epilogue::none, true, false>(r);
  if (epilogue == Epilogue::none) return normalize_with<T, S, Epilogue::none, false, false>(r);
  if (r.residual && r.bits) return normalize_with<T, S, Epilogue::clamp, true, true>(r);
  if (r.residual) return normalize_with<T, S, Epilogue::clamp, true, false>(r);
  if (r.bits) return normalize_with<T, S, Epilogue::clamp, false, true>(r);
  normalize_with<T, S, Epilogue::clamp, false, false>(r);
}

// --- Backward ---

// dt and x - mean, element by element.
template <class T, class S, Slope slope, bool along, class D>
struct Incoming {
  using V = hn::Vec<D>;
  const NormalizedRowsGrad<T, S>& r;
  const V mean, factor, bias, low, high;

  HWY_INLINE Incoming(D d, const NormalizedRowsGrad<T, S>& rows, const Span& span)
      : r(rows),
        mean(vector(d, rows.mean, span)),
        factor(vector(d, rows.factor, span)),
        bias(vector(d, rows.bias, span)),
        low(hn::Set(d, rows.low)),
        high(hn::Set(d, rows.high)) {}

  static HWY_INLINE V vector(D d, const T* of, const Span& span) {
    return of ? channels<along>(d, of, span) : hn::Zero(d);
  }

  HWY_INLINE V centred(D d, int64_t i) const { return hn::Sub(load(d, r.x + i), mean); }

  HWY_INLINE V dt(D d, int64_t i, V x, const uint8_t*& bits) const {
    V dy = load(d, r.dy + i);
    if (r.more_dy) dy = hn::Add(dy, load(d, r.more_dy + i));
    if constexpr (slope == Slope::clamp)
      return hn::IfThenElseZero(is_inside(hn::MulAdd(x, factor, bias), low, high), dy);
    if constexpr (slope == Slope::hard_swish) return hard_swish_grad(d, dy, hn::MulAdd(x, factor, bias));
    if constexpr (slope == Slope::bits) {
      auto inside = hn::LoadMaskBits(d, bits);
      bits += bytes_of_bits(static_cast<int64_t>(hn::Lanes(d)));
      return hn::IfThenElseZero(inside, dy);
    }
    return dy;
  }
};

template <class T, class S, Slope slope>
struct GradSums {
  using Element = T;
  using Stored = S;
  const NormalizedRowsGrad<T, S> r;
  T* sums;
  const uint8_t* bits;

  template <bool along, class D>
  HWY_INLINE void run(D d, const Span& span) {
    using V = hn::Vec<D>;
    const Incoming<T, S, slope, along, D> in(d, r, span);
    V a0 = hn::Zero(d), a1 = a0, b0 = a0, b1 = a0;
    int64_t i = span.at;
    int64_t k = 0;
    for (; k + 2 <= span.steps; k += 2, i += 2 * span.stride) {
      add(d, in, i, a0, b0);
      add(d, in, i + span.stride, a1, b1);
    }
    if (k < span.steps) add(d, in, i, a0, b0);
    add_sum<along>(d, hn::Add(a0, a1), sums, span);
    add_sum<along>(d, hn::Add(b0, b1), sums + r.width, span);
  }

  template <class In, class D, class V>
  HWY_INLINE void add(D d, const In& in, int64_t i, V& a, V& b) {
    const V x = r.x ? in.centred(d, i) : hn::Zero(d);
    const V dt = in.dt(d, i, x, bits);
    if (r.dt) store(dt, d, r.dt + i);
    a = hn::Add(a, dt);
    b = hn::MulAdd(dt, x, b);
  }
};

template <class T, class S, Slope slope>
void grad_sums_with(const NormalizedRowsGrad<T, S>& r, T* sums) {
  std::fill_n(sums, 2 * r.width, T{0});
  GradSums<T, S, slope> body{r, sums, r.bits};
  walk(body, r.rows, r.width);
}

template <class T, class S>
void grad_sums(const NormalizedRowsGrad<T, S>& r, Slope slope, T* sums) {
  switch (slope) {
    case Slope::one: return grad_sums_with<T, S, Slope::one>(r, sums);
    case Slope::clamp: return grad_sums_with<T, S, Slope::clamp>(r, sums);
    case Slope::hard_swish: return grad_sums_with<T, S, Slope::hard_swish>(r, sums);
    case Slope::bits: return grad_sums_with<T, S, Slope::bits>(r, sums);
  }
}

template <class T, class S, Slope slope, bool live>
struct Grad {
  using Element = T;
  using Stored = S;
  const NormalizedRowsGrad<T, S> r;
  const uint8_t* bits;

  template <bool along, class D>
  HWY_INLINE void run(D d, const Span& span) {
    using V = hn::Vec<D>;
    constexpr bool reads_x = live || slope == Slope::clamp || slope == Slope::hard_swish;
    const Incoming<T, S, slope, along, D> in(d, r, span);
    const V by_dt = channels<along>(d, r.slope, span);
    const V by_x = in.vector(d, r.slope_x, span);
    const V offset = in.vector(d, r.offset, span);
    int64_t i = span.at;
    for (int64_t k = 0; k < span.steps; ++k, i += span.stride) {
      V x = hn::Zero(d);
      if constexpr (reads_x) x = in.centred(d, i);
      V dx = hn::Mul(in.dt(d, i, x, bits), by_dt);
      if constexpr (live) dx = hn::MulAdd(x, by_x, hn::Add(dx, offset));
      store(dx, d, r.dx + i);
    }
  }
};

template <class T, class S, Slope slope>
void grad_with(const NormalizedRowsGrad<T, S>& r) {
  if (r.slope_x) {
    Grad<T, S, slope, true> body{r, r.bits};
    walk(body, r.rows, r.width);
  } else {
    Grad<T, S, slope, false> body{r, r.bits};
    walk(body, r.rows, r.width);
  }
}

template <class T, class S>
void grad(const NormalizedRowsGrad<T, S>& r, Slope slope) {
  switch (slope) {
    case Slope::one: return grad_with<T, S, Slope::one>(r);
    case Slope::clamp: return grad_with<T, S, Slope::clamp>(r);
    case Slope::hard_swish: return grad_with<T, S, Slope::hard_swish>(r);
    case Slope::bits: return grad_with<T, S, Slope::bits>(r);
  }
}

template <class T>
void add(const T* sums, int64_t count, double* totals) {
  for (int64_t i = 0; i < count; ++i) totals[i] += static_cast<double>(sums[i]);
}

template <class T, class S = T>
const NormalizationLoops<T, S>* loops() {
  static constexpr NormalizationLoops<T, S> all{statistics<T, S>, normalize<T, S>, grad_sums<T, S>,
                                                grad<T, S>,       add<T>,          bit_bytes<T>};
  return &all;
}
const NormalizationLoops<float>* loops_f32() { return loops<float>(); }
const NormalizationLoops<double>* loops_f64() { return loops<double>(); }
const NormalizationLoops<float, BFloat16>* loops_bf16() { return loops<float, BFloat16>(); }

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(loops_f32);
HWY_EXPORT(loops_f64);
HWY_EXPORT(loops_bf16);

template <>
const NormalizationLoops<float>& normalization_loops<float>() {
  return *HWY_DYNAMIC_DISPATCH(loops_f32)();
}
template <>
const NormalizationLoops<double>& normalization_loops<double>() {
  return *HWY_DYNAMIC_DISPATCH(loops_f64)();
}
template <>
const NormalizationLoops<float, BFloat16>& normalization_loops<float, BFloat16>() {
  return *HWY_DYNAMIC_DISPATCH(loops_bf16)();
}

}  // namespace graft
#endif
