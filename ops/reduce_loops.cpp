#include "ops/reduce_loops.h"

#include <cmath>
#include <limits>

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/reduce_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/bfloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D d{};
constexpr float infinity = std::numeric_limits<float>::infinity();

struct Sum {
  static constexpr float identity = 0;
  static HWY_INLINE V join(V acc, V x) { return hn::Add(acc, x); }
  static HWY_INLINE V merge(V a, V b) { return hn::Add(a, b); }
  static float join(float acc, float x) { return acc + x; }
  static float merge(float a, float b) { return a + b; }
};
struct Square : Sum {
  static HWY_INLINE V join(V acc, V x) { return hn::MulAdd(x, x, acc); }
  static float join(float acc, float x) { return acc + x * x; }
};
struct Absolute : Sum {
  static HWY_INLINE V join(V acc, V x) { return hn::Add(acc, hn::Abs(x)); }
  static float join(float acc, float x) { return acc + std::fabs(x); }
};
// NaN wins.
struct Max {
  static constexpr float identity = -infinity;
  static HWY_INLINE V join(V acc, V x) { return hn::IfThenElse(hn::Or(hn::Ge(acc, x), hn::IsNaN(acc)), acc, x); }
  static HWY_INLINE V merge(V a, V b) { return join(a, b); }
  static float join(float acc, float x) { return acc >= x || std::isnan(acc) ? acc : x; }
  static float merge(float a, float b) { return join(a, b); }
};
struct Min {
  static constexpr float identity = infinity;
  static HWY_INLINE V join(V acc, V x) { return hn::IfThenElse(hn::Or(hn::Le(acc, x), hn::IsNaN(acc)), acc, x); }
  static HWY_INLINE V merge(V a, V b) { return join(a, b); }
  static float join(float acc, float x) { return acc <= x || std::isnan(acc) ? acc : x; }
  static float merge(float a, float b) { return join(a, b); }
};

template <class X>
HWY_INLINE float single(const X* x) {
  return hn::GetLane(load(hn::CappedTag<float, 1>(), x));
}

// Four accumulators hide the latency of one.
template <class Kind, class X>
float row(const X* x, int64_t n) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V a0 = hn::Set(d, Kind::identity);
  V a1 = a0, a2 = a0, a3 = a0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a0 = Kind::join(a0, load(d, x + i));
    a1 = Kind::join(a1, load(d, x + i + lanes));
    a2 = Kind::join(a2, load(d, x + i + 2 * lanes));
    a3 = Kind::join(a3, load(d, x + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) a0 = Kind::join(a0, load(d, x + i));
  HWY_ALIGN float parts[hn::MaxLanes(d)];
  hn::Store(Kind::merge(Kind::merge(a0, a1), Kind::merge(a2, a3)), d, parts);
  float acc = Kind::identity;
  for (int64_t k = 0; k < lanes; ++k) acc = Kind::merge(acc, parts[k]);
  for (; i < n; ++i) acc = Kind::join(acc, single(x + i));
  return acc;
}

// Narrow columns stay in registers over the rows; wide ones take four rows for each trip of the accumulators.
template <class Kind, class X>
void columns(const X* x, int64_t rows, int64_t stride, int64_t n, float* acc) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t j = 0;
  if (n <= 16 * lanes) {
    for (; j + 2 * lanes <= n; j += 2 * lanes) {
      V a0 = hn::Set(d, Kind::identity), a1 = a0, a2 = a0, a3 = a0;
      int64_t r = 0;
      for (; r + 2 <= rows; r += 2) {
        const X* p = x + r * stride + j;
        a0 = Kind::join(a0, load(d, p));
        a1 = Kind::join(a1, load(d, p + lanes));
        a2 = Kind::join(a2, load(d, p + stride));
        a3 = Kind::join(a3, load(d, p + stride + lanes));
      }
      if (r < rows) {
        a0 = Kind::join(a0, load(d, x + r * stride + j));
        a1 = Kind::join(a1, load(d, x + r * stride + j + lanes));
      }
      hn::StoreU(Kind::merge(hn::LoadU(d, acc + j), Kind::merge(a0, a2)), d, acc + j);
      hn::StoreU(Kind::merge(hn::LoadU(d, acc + j + lanes), Kind::merge(a1, a3)), d, acc + j + lanes);
    }
  }
  const int64_t wide = j;
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const X* p = x + r * stride;
    for (j = wide; j + lanes <= n; j += lanes) {
      V a = Kind::join(hn::LoadU(d, acc + j), load(d, p + j));
      V b = Kind::join(hn::Set(d, Kind::identity), load(d, p + stride + j));
      a = Kind::join(a, load(d, p + 2 * stride + j));
      b = Kind::join(b, load(d, p + 3 * stride + j));
      hn::StoreU(Kind::merge(a, b), d, acc + j);
    }
    for (; j < n; ++j) {
      for (int64_t k = 0; k < 4; ++k) acc[j] = Kind::join(acc[j], single(p + k * stride + j));
    }
  }
  for (; r < rows; ++r) {
    const X* p = x + r * stride;
    for (j = wide; j + lanes <= n; j += lanes)
      hn::StoreU(Kind::join(hn::LoadU(d, acc + j), load(d, p + j)), d, acc + j);
    for (; j < n; ++j) acc[j] = Kind::join(acc[j], single(p + j));
  }
}

template <class Kind, class X>
constexpr ReduceLoops<float, X> loops() {
  return {Kind::identity, row<Kind, X>, columns<Kind, X>, [](float a, float b) { return Kind::merge(a, b); }};
}

template <class X>
const ReduceLoops<float, X>* find_loops_of(std::string_view kind) {
  static const struct {
    std::string_view kind;
    ReduceLoops<float, X> loops;
  } table[] = {{"sum", loops<Sum, X>()},
               {"square", loops<Square, X>()},
               {"absolute", loops<Absolute, X>()},
               {"max", loops<Max, X>()},
               {"min", loops<Min, X>()}};
  for (const auto& entry : table) {
    if (entry.kind == kind) return &entry.loops;
  }
  return nullptr;
}
const ReduceLoops<float>* find_loops(std::string_view kind) { return find_loops_of<float>(kind); }
const ReduceLoops<float, BFloat16>* find_loops_bf16(std::string_view kind) { return find_loops_of<BFloat16>(kind); }

}  // namespace HWY_NAMESPACE
}  // namespace graft
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(find_loops);
HWY_EXPORT(find_loops_bf16);

const ReduceLoops<float>* vector_reduce_loops(std::string_view kind) { return HWY_DYNAMIC_DISPATCH(find_loops)(kind); }
const ReduceLoops<float, BFloat16>* vector_reduce_loops_bf16(std::string_view kind) {
  return HWY_DYNAMIC_DISPATCH(find_loops_bf16)(kind);
}

}  // namespace graft
#endif
