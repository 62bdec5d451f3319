#include "ops/attention_loops.h"

#include <limits>

// As in vector_loops.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/attention_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/bfloat16-inl.h"
#include "ops/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Whole = hn::ScalableTag<float>;
using One = hn::CappedTag<float, 1>;

// body.some(i) over vectors of [0, count), then body.single(i) over elements.
template <class Body>
HWY_INLINE void for_row(int64_t count, Body& body) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(Whole()));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) body.some(i);
  for (; i < count; ++i) body.single(i);
}

struct Largest {
  const float* s;
  hn::Vec<Whole> wide;
  float one;

  HWY_INLINE void some(int64_t i) { wide = hn::Max(wide, hn::LoadU(Whole(), s + i)); }
  HWY_INLINE void single(int64_t i) { one = s[i] > one ? s[i] : one; }
};

HWY_INLINE float largest_of(const float* s, int64_t count) {
  const float least = -std::numeric_limits<float>::infinity();
  Largest body{s, hn::Set(Whole(), least), least};
  for_row(count, body);
  const float wide = hn::GetLane(hn::MaxOfLanes(Whole(), body.wide));
  return wide > body.one ? wide : body.one;
}

template <class E>
struct Exponentials {
  const float* s;
  E* p;
  float largest;
  hn::Vec<Whole> wide;
  float one;

  template <class D>
  HWY_INLINE hn::Vec<D> give(D d, int64_t i) const {
    const auto y = exp_nonpositive(d, hn::Sub(hn::LoadU(d, s + i), hn::Set(d, largest)));
    store(y, d, p + i);
    return y;
  }
  HWY_INLINE void some(int64_t i) { wide = hn::Add(wide, give(Whole(), i)); }
  HWY_INLINE void single(int64_t i) { one += hn::GetLane(give(One(), i)); }
};

template <class E>
void exponentials(const float* s, int64_t rows, int64_t columns, E* p, float* largest, float* inverse) {
  for (int64_t r = 0; r < rows; ++r, s += columns, p += columns) {
    largest[r] = largest_of(s, columns);
    Exponentials<E> body{s, p, largest[r], hn::Zero(Whole()), 0};
    for_row(columns, body);
    inverse[r] = 1 / (hn::GetLane(hn::SumOfLanes(Whole(), body.wide)) + body.one);
  }
}

struct Probabilities {
  float* s;
  float largest, inverse;

  template <class D>
  HWY_INLINE void give(D d, int64_t i) const {
    const auto y = exp_nonpositive(d, hn::Sub(hn::LoadU(d, s + i), hn::Set(d, largest)));
    hn::StoreU(hn::Mul(y, hn::Set(d, inverse)), d, s + i);
  }
  HWY_INLINE void some(int64_t i) const { give(Whole(), i); }
  HWY_INLINE void single(int64_t i) const { give(One(), i); }
};

void probabilities(float* s, int64_t rows, int64_t columns, const float* largest, const float* inverse) {
  for (int64_t r = 0; r < rows; ++r, s += columns) {
    Probabilities body{s, largest[r], inverse[r]};
    for_row(columns, body);
  }
}

struct Products {
  const float *p, *dp;
  hn::Vec<Whole> wide;
  float one;

  HWY_INLINE void some(int64_t i) { wide = hn::MulAdd(hn::LoadU(Whole(), p + i), hn::LoadU(Whole(), dp + i), wide); }
  HWY_INLINE void single(int64_t i) { one += p[i] * dp[i]; }
};

struct Centred {
  const float* p;
  float* dp;
  float mean;

  template <class D>
  HWY_INLINE void give(D d, int64_t i) const {
    const auto centred = hn::Sub(hn::LoadU(d, dp + i), hn::Set(d, mean));
    hn::StoreU(hn::Mul(hn::LoadU(d, p + i), centred), d, dp + i);
  }
  HWY_INLINE void some(int64_t i) const { give(Whole(), i); }
  HWY_INLINE void single(int64_t i) const { give(One(), i); }
};

void gradients(const float* p, float* dp, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, p += columns, dp += columns) {
    Products sum{p, dp, hn::Zero(Whole()), 0};
    for_row(columns, sum);
    Centred body{p, dp, hn::GetLane(hn::SumOfLanes(Whole(), sum.wide)) + sum.one};
    for_row(columns, body);
  }
}

struct Scores {
  float* s;
  float scale;
  const float* mask;
  int64_t mask_column;

  template <class D>
  HWY_INLINE void give(D d, int64_t i) const {
    auto y = hn::Mul(hn::LoadU(d, s + i), hn::Set(d, scale));
    if (mask) y = hn::Add(y, mask_column == 0 ? hn::Set(d, *mask) : hn::LoadU(d, mask + i));
    hn::StoreU(y, d, s + i);
  }
  HWY_INLINE void some(int64_t i) const { give(Whole(), i); }
  HWY_INLINE void single(int64_t i) const { give(One(), i); }
};

void scores_of_rows(float* s, int64_t rows, int64_t columns, float scale, const float* mask, int64_t mask_row,
                    int64_t mask_column) {
  for (int64_t r = 0; r < rows; ++r, s += columns) {
    Scores body{s, scale, mask ? mask + r * mask_row : nullptr, mask_column};
    for_row(columns, body);
  }
}

struct Rounded {
  const float* x;
  BFloat16* y;
  float factor;

  template <class D>
  HWY_INLINE void give(D d, int64_t i) const {
    store(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, y + i);
  }
  HWY_INLINE void some(int64_t i) const { give(Whole(), i); }
  HWY_INLINE void single(int64_t i) const { give(One(), i); }
};

// One factor for all rows, or one each.
void rounded_rows(const float* x, int64_t rows, int64_t columns, const float* factors, int64_t step, BFloat16* y,
                  int64_t y_row) {
  for (int64_t r = 0; r < rows; ++r) {
    Rounded body{x + r * columns, y + r * y_row, factors[r * step]};
    for_row(columns, body);
  }
}

AttentionLoops attention_of_target() { return {exponentials<float>, exponentials<BFloat16>, probabilities, gradients}; }

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(attention_of_target);
HWY_EXPORT(scores_of_rows);
HWY_EXPORT(rounded_rows);

const AttentionLoops& attention_loops() {
  static const AttentionLoops loops = HWY_DYNAMIC_DISPATCH(attention_of_target)();
  return loops;
}

void finish_scores(float* s, int64_t rows, int64_t columns, float scale, const float* mask, int64_t mask_row,
                   int64_t mask_column) {
  HWY_DYNAMIC_DISPATCH(scores_of_rows)(s, rows, columns, scale, mask, mask_row, mask_column);
}
void round_rows(const float* x, int64_t rows, int64_t columns, float factor, BFloat16* y, int64_t y_row) {
  HWY_DYNAMIC_DISPATCH(rounded_rows)(x, rows, columns, &factor, 0, y, y_row);
}
void round_rows(const float* x, int64_t rows, int64_t columns, const float* factors, BFloat16* y, int64_t y_row) {
  HWY_DYNAMIC_DISPATCH(rounded_rows)(x, rows, columns, factors, 1, y, y_row);
}

}  // namespace graft
#endif
