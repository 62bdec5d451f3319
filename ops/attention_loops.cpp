#include "ops/attention_loops.h"

#include <algorithm>
#include <cmath>
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

// A row of scores.
struct Scores {
  Scores(const ScoreRows& r, int64_t row)
      : s(r.s + row * r.columns),
        mask(r.mask ? r.mask + row * r.mask_row : nullptr),
        scale(r.scale),
        along(r.mask_column != 0) {}

  template <class D>
  HWY_INLINE hn::Vec<D> at(D d, int64_t i) const {
    const auto x = hn::LoadU(d, s + i), factor = hn::Set(d, scale);
    if (!mask) return hn::Mul(x, factor);
    return hn::MulAdd(x, factor, along ? hn::LoadU(d, mask + i) : hn::Set(d, *mask));
  }

  const float *s, *mask;
  float scale;
  bool along;
};

struct Largest {
  Scores scores;
  hn::Vec<Whole> wide;
  float one;

  HWY_INLINE void some(int64_t i) { wide = hn::Max(wide, scores.at(Whole(), i)); }
  HWY_INLINE void single(int64_t i) {
    const float x = hn::GetLane(scores.at(One(), i));
    one = x > one ? x : one;
  }
};

HWY_INLINE float largest_of(const Scores& scores, int64_t count) {
  const float least = -std::numeric_limits<float>::infinity();
  Largest body{scores, hn::Set(Whole(), least), least};
  for_row(count, body);
  const float wide = hn::GetLane(hn::MaxOfLanes(Whole(), body.wide));
  return wide > body.one ? wide : body.one;
}

template <class E>
struct Exponentials {
  Scores scores;
  E* p;
  float largest;
  hn::Vec<Whole> wide;
  float one;

  template <class D>
  HWY_INLINE hn::Vec<D> give(D d, int64_t i) const {
    const auto y = exp_nonpositive(d, hn::Sub(scores.at(d, i), hn::Set(d, largest)));
    store(y, d, p + i);
    return y;
  }
  HWY_INLINE void some(int64_t i) { wide = hn::Add(wide, give(Whole(), i)); }
  HWY_INLINE void single(int64_t i) { one += hn::GetLane(give(One(), i)); }
};

// A few rows at a time, so that their sums and maxima, each a chain, run side by side.
template <class E>
void exponentials(const ScoreRows& all, E* p, float* largest, float* inverse) {
  constexpr int64_t few = 4;
  for (int64_t begin = 0; begin < all.rows; begin += few) {
    const int64_t end = std::min(begin + few, all.rows);
    for (int64_t r = begin; r < end; ++r) largest[r] = largest_of(Scores(all, r), all.columns);
    for (int64_t r = begin; r < end; ++r) {
      Exponentials<E> body{Scores(all, r), p + r * all.columns, largest[r], hn::Zero(Whole()), 0};
      for_row(all.columns, body);
      inverse[r] = 1 / (hn::GetLane(hn::SumOfLanes(Whole(), body.wide)) + body.one);
    }
  }
}

struct Probabilities {
  Scores scores;
  float* p;
  float largest, inverse;

  template <class D>
  HWY_INLINE void give(D d, int64_t i) const {
    const auto y = exp_nonpositive(d, hn::Sub(scores.at(d, i), hn::Set(d, largest)));
    hn::StoreU(hn::Mul(y, hn::Set(d, inverse)), d, p + i);
  }
  HWY_INLINE void some(int64_t i) const { give(Whole(), i); }
  HWY_INLINE void single(int64_t i) const { give(One(), i); }
};

void probabilities(const ScoreRows& all, float* p, const float* largest, const float* inverse) {
  for (int64_t r = 0; r < all.rows; ++r, p += all.columns) {
    Probabilities body{Scores(all, r), p, largest[r], inverse[r]};
    for_row(all.columns, body);
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

void round_rows(const float* x, int64_t rows, int64_t columns, const float* factors, int64_t step, BFloat16* y,
                int64_t y_row) {
  for (int64_t r = 0; r < rows; ++r) {
    Rounded body{x + r * columns, y + r * y_row, factors[r * step]};
    for_row(columns, body);
  }
}

struct Gaps {
  const float *mask, *best;
  int64_t rows, mask_row;
  float* gaps;

  template <class D>
  HWY_INLINE void give(D d, int64_t i) const {
    const auto zero = hn::Zero(d);
    auto largest = hn::LoadU(d, gaps + i);
    for (int64_t r = 0; r < rows; ++r) {
      const auto gap = hn::Sub(hn::LoadU(d, mask + r * mask_row + i), hn::Set(d, best[r * mask_row]));
      largest = hn::Max(largest, hn::IfThenElseZero(hn::Lt(gap, zero), gap));
    }
    hn::StoreU(largest, d, gaps + i);
  }
  HWY_INLINE void some(int64_t i) const { give(Whole(), i); }
  HWY_INLINE void single(int64_t i) const { give(One(), i); }
};

void raise(const float* mask, int64_t rows, int64_t mask_row, int64_t best, int64_t begin, int64_t end, float* gaps) {
  Gaps body{mask + begin, mask + best, rows, mask_row, gaps + begin};
  for_row(end - begin, body);
}

template <class E>
struct Squares {
  const E* x;
  int64_t rows, x_row;
  hn::Vec<Whole> largest, all;
  float one_largest, one_all;

  template <class D>
  HWY_INLINE void add(D d, int64_t i, hn::Vec<D>& of_largest, hn::Vec<D>& of_all) const {
    auto most = hn::Zero(d), sum = hn::Zero(d);
    for (int64_t r = 0; r < rows; ++r) {
      const auto at = load(d, x + r * x_row + i), square = hn::Mul(at, at);
      most = hn::Max(most, square);
      sum = hn::Add(sum, square);
    }
    of_largest = hn::Add(of_largest, most);
    of_all = hn::Add(of_all, sum);
  }
  HWY_INLINE void some(int64_t i) { add(Whole(), i, largest, all); }
  HWY_INLINE void single(int64_t i) {
    auto most = hn::Zero(One()), sum = hn::Zero(One());
    add(One(), i, most, sum);
    one_largest += hn::GetLane(most);
    one_all += hn::GetLane(sum);
  }
};

template <class E>
float norm(const E* x, int64_t rows, int64_t columns, int64_t x_row) {
  Squares<E> body{x, rows, x_row, hn::Zero(Whole()), hn::Zero(Whole()), 0, 0};
  for_row(columns, body);
  const float all = hn::GetLane(hn::SumOfLanes(Whole(), body.all)) + body.one_all;
  // Some instructions for the largest of two leave out what is no number; sums do not.
  if (!(all <= std::numeric_limits<float>::max())) return std::numeric_limits<float>::infinity();
  return std::sqrt(hn::GetLane(hn::SumOfLanes(Whole(), body.largest)) + body.one_largest);
}

AttentionLoops attention_of_target() {
  return {exponentials<float>, exponentials<BFloat16>, probabilities, gradients, round_rows, raise,
          norm<float>,         norm<BFloat16>};
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(attention_of_target);

const AttentionLoops& attention_loops() {
  static const AttentionLoops loops = HWY_DYNAMIC_DISPATCH(attention_of_target)();
  return loops;
}

}  // namespace graft
#endif
