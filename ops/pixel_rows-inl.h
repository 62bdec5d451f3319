// Rows of pixels under a normalisation with its activation; a pixel is the vector of the channels of a block, see
// ops/depthwise_loops.h. Included once per instruction set.
#if defined(GRAFT_OPS_PIXEL_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GRAFT_OPS_PIXEL_ROWS_INL_H
#undef GRAFT_OPS_PIXEL_ROWS_INL_H
#else
#define GRAFT_OPS_PIXEL_ROWS_INL_H
#endif

#include "ops/bfloat16-inl.h"
#include "ops/depthwise_loops.h"
#include "ops/epilogue-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

template <class T>
using Pixel = hn::ScalableTag<T>;
template <class T>
using PixelV = hn::Vec<Pixel<T>>;

template <class T>
HWY_INLINE int64_t pixel_width() {
  return static_cast<int64_t>(hn::Lanes(Pixel<T>()));
}

// --- Rows of a normalisation ---

template <Epilogue epilogue, class T>
HWY_INLINE PixelV<T> activate(PixelV<T> t, [[maybe_unused]] PixelV<T> low, [[maybe_unused]] PixelV<T> high) {
  if constexpr (epilogue == Epilogue::clamp) return clamp<Pixel<T>>(t, low, high);
  else if constexpr (epilogue == Epilogue::hard_swish) return hard_swish(Pixel<T>(), t);
  else return t;
}

template <Epilogue epilogue, class T>
HWY_INLINE PixelV<T> activate_grad(PixelV<T> dy, PixelV<T> t, [[maybe_unused]] PixelV<T> low,
                                   [[maybe_unused]] PixelV<T> high) {
  if constexpr (epilogue == Epilogue::clamp) return hn::IfThenElseZero(is_inside(t, low, high), dy);
  else if constexpr (epilogue == Epilogue::hard_swish) return hard_swish_grad(Pixel<T>(), dy, t);
  else return dy;
}

template <class T>
struct Affine {
  PixelV<T> mean, factor, bias, low, high;

  explicit HWY_INLINE Affine(const BlockNormalization<T>& n)
      : mean(hn::LoadU(Pixel<T>(), n.mean)),
        factor(hn::LoadU(Pixel<T>(), n.factor)),
        bias(hn::LoadU(Pixel<T>(), n.bias)),
        low(hn::Set(Pixel<T>(), n.low)),
        high(hn::Set(Pixel<T>(), n.high)) {}
};

template <Epilogue epilogue, class T, class From, class To>
HWY_INLINE void normalize_with(const BlockNormalization<T>& n, const From* x, To* u, int64_t elements) {
  const Pixel<T> d;
  const Affine<T> a(n);
#pragma GCC unroll 2
  for (int64_t i = 0; i < elements; i += pixel_width<T>()) {
    const auto t = hn::MulAdd(hn::Sub(load(d, x + i), a.mean), a.factor, a.bias);
    store(activate<epilogue, T>(t, a.low, a.high), d, u + i);
  }
}

// Sums of two terms a channel: in vectors for a while, then in double.
template <class T>
class TwoSums {
 public:
  PixelV<T> a, b;

  HWY_INLINE TwoSums(double* totals, double* more) : totals_(totals), more_(more) { clear(); }

  // one(i, a, b) adds the terms of the pixel at element i. Two pairs of sums hide the latency of additions.
  template <class F>
  HWY_INLINE void add_row(int64_t elements, F one) {
    const int64_t width = pixel_width<T>();
    PixelV<T> a0 = a, b0 = b, a1 = hn::Zero(Pixel<T>()), b1 = a1;
    int64_t i = 0;
    for (; i + 2 * width <= elements; i += 2 * width) {
      one(i, a0, b0);
      one(i + width, a1, b1);
    }
    if (i < elements) one(i, a0, b0);
    a = hn::Add(a0, a1);
    b = hn::Add(b0, b1);
  }
  // Behind a row of so many elements.
  HWY_INLINE void row_done(int64_t elements) {
    constexpr int64_t most = 4096;  // so few terms that their rounding does not count
    pending_ += elements;
    if (pending_ >= most) flush();
  }
  HWY_INLINE void flush() {
    T lanes[2 * hn::MaxLanes(Pixel<T>())];
    const Pixel<T> d;
    const int64_t width = pixel_width<T>();
    hn::StoreU(a, d, lanes);
    hn::StoreU(b, d, lanes + width);
    for (int64_t v = 0; v < width; ++v) {
      totals_[v] += static_cast<double>(lanes[v]);
      more_[v] += static_cast<double>(lanes[width + v]);
    }
    clear();
  }

 private:
  HWY_INLINE void clear() {
    a = b = hn::Zero(Pixel<T>());
    pending_ = 0;
  }

  double *totals_, *more_;
  int64_t pending_ = 0;
};

// x - about, and its square
template <class T, class From>
HWY_INLINE void squares_row(const From* x, PixelV<T> about, int64_t elements, TwoSums<T>& sums) {
  const Pixel<T> d;
  auto one = [&](int64_t i, PixelV<T>& sum, PixelV<T>& squares) HWY_ATTR {
    const auto centred = hn::Sub(load(d, x + i), about);
    sum = hn::Add(sum, centred);
    squares = hn::MulAdd(centred, centred, squares);
  };
  sums.add_row(elements, one);
}

// dt = dy f'(t), in the place of `dt` where there is one; its sums, alone and times x - mean.
template <Epilogue epilogue, bool stores, class T, class X, class DY, class DT>
HWY_INLINE void grad_sums_with(const BlockNormalization<T>& n, const X* x, const DY* dy, DT* dt, int64_t elements,
                               TwoSums<T>& sums) {
  const Pixel<T> d;
  const Affine<T> a(n);
  auto one = [&](int64_t i, PixelV<T>& sum, PixelV<T>& sum_x) HWY_ATTR {
    const auto centred = hn::Sub(load(d, x + i), a.mean);
    const auto t = hn::MulAdd(centred, a.factor, a.bias);
    const auto gradient = activate_grad<epilogue, T>(load(d, dy + i), t, a.low, a.high);
    if constexpr (stores) store(gradient, d, dt + i);
    sum = hn::Add(sum, gradient);
    sum_x = hn::MulAdd(gradient, centred, sum_x);
  };
  sums.add_row(elements, one);
}

template <Epilogue epilogue, class T, class DY>
HWY_INLINE void grad_with(const BlockNormalization<T>& n, const T* x, const DY* dy, T* dx, int64_t elements) {
  const Pixel<T> d;
  const Affine<T> a(n);
  const auto slope = hn::LoadU(d, n.slope), slope_x = hn::LoadU(d, n.slope_x), offset = hn::LoadU(d, n.offset);
  for (int64_t i = 0; i < elements; i += pixel_width<T>()) {
    const auto centred = hn::Sub(load(d, x + i), a.mean);
    const auto t = hn::MulAdd(centred, a.factor, a.bias);
    const auto dt = activate_grad<epilogue, T>(load(d, dy + i), t, a.low, a.high);
    hn::StoreU(hn::MulAdd(dt, slope, hn::MulAdd(centred, slope_x, offset)), d, dx + i);
  }
}

template <class T, class From, class To>
HWY_INLINE void normalize_row(const BlockNormalization<T>& n, const From* x, To* u, int64_t elements) {
  switch (n.epilogue) {
    case Epilogue::none: return normalize_with<Epilogue::none>(n, x, u, elements);
    case Epilogue::clamp: return normalize_with<Epilogue::clamp>(n, x, u, elements);
    case Epilogue::hard_swish: return normalize_with<Epilogue::hard_swish>(n, x, u, elements);
  }
}

template <bool stores, class T, class X, class DY, class DT>
HWY_INLINE void grad_sums_row(const BlockNormalization<T>& n, const X* x, const DY* dy, DT* dt, int64_t elements,
                              TwoSums<T>& sums) {
  switch (n.epilogue) {
    case Epilogue::none: return grad_sums_with<Epilogue::none, stores>(n, x, dy, dt, elements, sums);
    case Epilogue::clamp: return grad_sums_with<Epilogue::clamp, stores>(n, x, dy, dt, elements, sums);
    case Epilogue::hard_swish: return grad_sums_with<Epilogue::hard_swish, stores>(n, x, dy, dt, elements, sums);
  }
}

template <class T, class DY>
HWY_INLINE void grad_row(const BlockNormalization<T>& n, const T* x, const DY* dy, T* dx, int64_t elements) {
  switch (n.epilogue) {
    case Epilogue::none: return grad_with<Epilogue::none>(n, x, dy, dx, elements);
    case Epilogue::clamp: return grad_with<Epilogue::clamp>(n, x, dy, dx, elements);
    case Epilogue::hard_swish: return grad_with<Epilogue::hard_swish>(n, x, dy, dx, elements);
  }
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per target
