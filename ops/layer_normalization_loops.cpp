#include "ops/layer_normalization_loops.h"

#include <algorithm>
#include <cmath>

// As in vector_loops.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/layer_normalization_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/cache_control.h>

#include "ops/bfloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Whole = hn::ScalableTag<T>;
template <class T>
using One = hn::CappedTag<T, 1>;

template <class T>
int64_t whole_part(int64_t width) {
  return width - width % static_cast<int64_t>(hn::Lanes(Whole<T>()));
}

// The sum of term(i) over the elements [begin, end). Four sums side by side hide the latency of additions.
template <class D, class Term>
HWY_INLINE hn::TFromD<D> sum_over(D d, const Term& term, int64_t begin, int64_t end) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto a = hn::Zero(d), b = a, c = a, e = a;
  int64_t i = begin;
  for (; i + 4 * lanes <= end; i += 4 * lanes) {
    a = term.add(d, i, a);
    b = term.add(d, i + lanes, b);
    c = term.add(d, i + 2 * lanes, c);
    e = term.add(d, i + 3 * lanes, e);
  }
  for (; i < end; i += lanes) a = term.add(d, i, a);
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

template <class T, class Term>
HWY_INLINE T sum_row(const Term& term, int64_t width) {
  const int64_t whole = whole_part<T>(width);
  const T sum = sum_over(Whole<T>(), term, 0, whole);
  return whole < width ? sum + sum_over(One<T>(), term, whole, width) : sum;
}

template <class E>
struct Plain {
  const E* x;

  template <class D, class V>
  HWY_INLINE V add(D d, int64_t i, V sum) const {
    return hn::Add(sum, load(d, x + i));
  }
};

template <class T, class E>
struct Square {
  const E* x;
  T mean;

  template <class D, class V>
  HWY_INLINE V add(D d, int64_t i, V sum) const {
    const V centred = hn::Sub(load(d, x + i), hn::Set(d, mean));
    return hn::MulAdd(centred, centred, sum);
  }
};

template <class T, class E, class D>
HWY_INLINE void give_y(D d, const LayerRow<T, E>& row, RowStatistics<T> s, int64_t begin, int64_t end) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto mean = hn::Set(d, s.mean), inverse = hn::Set(d, s.inverse);
  const E* x = row.x;
  const T *scale = row.scale, *bias = row.bias;
  E* y = row.y;
  for (int64_t i = begin; i < end; i += lanes) {
    const auto h = hn::Mul(hn::Sub(load(d, x + i), mean), inverse), factor = hn::LoadU(d, scale + i);
    store(bias ? hn::MulAdd(h, factor, hn::LoadU(d, bias + i)) : hn::Mul(h, factor), d, y + i);
  }
}

// Work on one row leaves memory idle: the next one can come meanwhile.
template <class E>
HWY_INLINE void fetch_row_behind(const E* row, int64_t width) {
  constexpr auto line = static_cast<int64_t>(64 / sizeof(E)), most = 64 * line;
  for (int64_t i = width; i < width + std::min(width, most); i += line) hwy::Prefetch(row + i);
}

// The row stays in the first cache over the passes.
template <class T, class E>
RowStatistics<T> normalize(const LayerRow<T, E>& row) {
  const auto width = static_cast<T>(row.width);
  RowStatistics<T> s{0, 0};
  fetch_row_behind(row.x, row.width);
  if (row.centred) s.mean = sum_row<T>(Plain<E>{row.x}, row.width) / width;
  const T squares = sum_row<T>(Square<T, E>{row.x, s.mean}, row.width);
  s.inverse = 1 / std::sqrt(squares / width + static_cast<T>(row.epsilon));
  const int64_t whole = whole_part<T>(row.width);
  give_y(Whole<T>(), row, s, 0, whole);
  give_y(One<T>(), row, s, whole, row.width);
  return s;
}

template <class T>
struct GradSums {
  T g, slope;  // of dy scale, and of the same times x - mean
};

// Elements of a row from i on.
template <bool sums, class T, class E, class D, class V>
HWY_INLINE void take(D d, const LayerRowGrad<T, E>& row, int64_t i, V mean, V inverse, V& g_sum, V& slope) {
  const V centred = hn::Sub(load(d, row.x + i), mean), dy = load(d, row.dy + i);
  const V g = hn::Mul(dy, hn::LoadU(d, row.scale + i));
  g_sum = hn::Add(g_sum, g);
  slope = hn::MulAdd(g, centred, slope);
  if constexpr (sums) {
    const V h = hn::Mul(centred, inverse);
    hn::StoreU(hn::MulAdd(dy, h, hn::LoadU(d, row.scale_sums + i)), d, row.scale_sums + i);
    hn::StoreU(hn::Add(dy, hn::LoadU(d, row.bias_sums + i)), d, row.bias_sums + i);
  }
}

// `given` is a copy: pointers behind a reference would be read again after every store.
template <bool sums, class T, class E, class D>
HWY_INLINE GradSums<T> take_all(D d, const LayerRowGrad<T, E>& given, int64_t begin, int64_t end) {
  const LayerRowGrad<T, E> row = given;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  using V = hn::Vec<D>;
  const V mean = hn::Set(d, row.statistics.mean), inverse = hn::Set(d, row.statistics.inverse);
  V g0 = hn::Zero(d), g1 = g0, slope0 = g0, slope1 = g0;
  int64_t i = begin;
  for (; i + 2 * lanes <= end; i += 2 * lanes) {
    take<sums>(d, row, i, mean, inverse, g0, slope0);
    take<sums>(d, row, i + lanes, mean, inverse, g1, slope1);
  }
  for (; i < end; i += lanes) take<sums>(d, row, i, mean, inverse, g0, slope0);
  return {hn::GetLane(hn::SumOfLanes(d, hn::Add(g0, g1))), hn::GetLane(hn::SumOfLanes(d, hn::Add(slope0, slope1)))};
}

template <class T, class E, class D>
HWY_INLINE void give_dx(D d, const LayerRowGrad<T, E>& row, GradSums<T> means, int64_t begin, int64_t end) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto mean = hn::Set(d, row.statistics.mean), inverse = hn::Set(d, row.statistics.inverse);
  const auto offset = hn::Set(d, means.g), slope = hn::Set(d, means.slope);
  const E *x = row.x, *dy = row.dy;
  const T* scale = row.scale;
  E* dx = row.dx;
  for (int64_t i = begin; i < end; i += lanes) {
    const auto g = hn::MulSub(load(d, dy + i), hn::LoadU(d, scale + i), offset);
    store(hn::Mul(hn::NegMulAdd(hn::Sub(load(d, x + i), mean), slope, g), inverse), d, dx + i);
  }
}

template <class T, class E, bool sums>
HWY_INLINE GradSums<T> take_row(const LayerRowGrad<T, E>& row, int64_t whole) {
  const GradSums<T> most = take_all<sums>(Whole<T>(), row, 0, whole);
  if (whole == row.width) return most;
  const GradSums<T> rest = take_all<sums>(One<T>(), row, whole, row.width);
  return {most.g + rest.g, most.slope + rest.slope};
}

template <class T, class E>
void grad(const LayerRowGrad<T, E>& row) {
  const auto width = static_cast<T>(row.width);
  const int64_t whole = whole_part<T>(row.width);
  fetch_row_behind(row.x, row.width);
  fetch_row_behind(row.dy, row.width);
  GradSums<T> means = row.scale_sums ? take_row<T, E, true>(row, whole) : take_row<T, E, false>(row, whole);
  if (!row.dx) return;
  means.g = row.centred ? means.g / width : 0;
  means.slope *= row.statistics.inverse * row.statistics.inverse / width;
  give_dx(Whole<T>(), row, means, 0, whole);
  give_dx(One<T>(), row, means, whole, row.width);
}

template <class T, class E>
const LayerLoops<T, E>* loops() {
  static constexpr LayerLoops<T, E> all{normalize<T, E>, grad<T, E>};
  return &all;
}
const LayerLoops<float, float>* layer_loops_f32() { return loops<float, float>(); }
const LayerLoops<float, BFloat16>* layer_loops_bf16() { return loops<float, BFloat16>(); }
const LayerLoops<double, double>* layer_loops_f64() { return loops<double, double>(); }

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(layer_loops_f32);
HWY_EXPORT(layer_loops_bf16);
HWY_EXPORT(layer_loops_f64);

template <>
const LayerLoops<float, float>& layer_loops<float, float>() {
  return *HWY_DYNAMIC_DISPATCH(layer_loops_f32)();
}
template <>
const LayerLoops<float, BFloat16>& layer_loops<float, BFloat16>() {
  return *HWY_DYNAMIC_DISPATCH(layer_loops_bf16)();
}
template <>
const LayerLoops<double, double>& layer_loops<double, double>() {
  return *HWY_DYNAMIC_DISPATCH(layer_loops_f64)();
}

}  // namespace graft
#endif
