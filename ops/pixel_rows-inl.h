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

template <Epilogue epilogue, class T, class S>
HWY_INLINE void normalize_with(const BlockNormalization<T>& n, const S* x, const S* ahead, T* u, int64_t elements) {
  const Pixel<T> d;
  const Affine<T> a(n);
#pragma GCC unroll 2
  for (int64_t i = 0; i < elements; i += pixel_width<T>()) {
    __builtin_prefetch(ahead + i);
    const auto t = hn::MulAdd(hn::Sub(load(d, x + i), a.mean), a.factor, a.bias);
    hn::StoreU(activate<epilogue, T>(t, a.low, a.high), d, u + i);
  }
}

// dx = dt slope + (x - mean) slope_x + offset
template <class T>
struct Slopes {
  PixelV<T> slope, slope_x, offset;

  explicit HWY_INLINE Slopes(const BlockNormalization<T>& n)
      : slope(hn::LoadU(Pixel<T>(), n.slope)),
        slope_x(hn::LoadU(Pixel<T>(), n.slope_x)),
        offset(hn::LoadU(Pixel<T>(), n.offset)) {}
  HWY_INLINE PixelV<T> gradient(PixelV<T> dt, PixelV<T> centred) const {
    return hn::MulAdd(dt, slope, hn::MulAdd(centred, slope_x, offset));
  }
};

// Sums of a term a pixel and of its products with a factor. Two of each hide the latency of additions.
template <class T>
struct Sums {
  PixelV<T> term[2], product[2];

  HWY_INLINE Sums() { clear(); }
  HWY_INLINE void clear() { term[0] = term[1] = product[0] = product[1] = hn::Zero(Pixel<T>()); }
  HWY_INLINE void add(bool odd, PixelV<T> t, PixelV<T> factor) {
    term[odd] = hn::Add(term[odd], t);
    product[odd] = hn::MulAdd(t, factor, product[odd]);
  }
};

// Such sums in double: those of vectors are added for a while only.
template <class T>
class Totals {
 public:
  HWY_INLINE Totals(double* terms, double* products) : terms_(terms), products_(products) {
    std::fill_n(terms, pixel_width<T>(), 0.0);
    std::fill_n(products, pixel_width<T>(), 0.0);
  }
  // Behind so many elements, which `sums` took.
  HWY_INLINE void add(Sums<T>& sums, int64_t elements) {
    constexpr int64_t most = 4096;  // so few terms that their rounding does not count
    pending_ += elements;
    if (pending_ >= most) flush(sums);
  }
  HWY_INLINE void flush(Sums<T>& sums) {
    T lanes[2 * hn::MaxLanes(Pixel<T>())];
    const Pixel<T> d;
    const int64_t width = pixel_width<T>();
    hn::StoreU(hn::Add(sums.term[0], sums.term[1]), d, lanes);
    hn::StoreU(hn::Add(sums.product[0], sums.product[1]), d, lanes + width);
    for (int64_t v = 0; v < width; ++v) {
      terms_[v] += static_cast<double>(lanes[v]);
      products_[v] += static_cast<double>(lanes[width + v]);
    }
    sums.clear();
    pending_ = 0;
  }

 private:
  double *terms_, *products_;
  int64_t pending_ = 0;
};

// --- What takes the pixels of a row one by one, as they are computed ---

// They work in a copy, of which `keep` takes what is to stay.
template <class T>
struct FirstPixel {
  PixelV<T> value;

  HWY_INLINE FirstPixel() : value(hn::Zero(Pixel<T>())) {}
  HWY_INLINE void take(int64_t, bool, PixelV<T> z) { value = z; }
  HWY_INLINE void keep(const FirstPixel& here) { value = here.value; }
};

// Sums of z - about, and of its square.
template <class T>
struct Squares {
  PixelV<T> about;
  Sums<T> sums;

  explicit HWY_INLINE Squares(PixelV<T> first) : about(first) {}
  HWY_INLINE void take(int64_t, bool odd, PixelV<T> z) {
    const auto centred = hn::Sub(z, about);
    sums.add(odd, centred, centred);
  }
  HWY_INLINE void keep(const Squares& here) { sums = here.sums; }
};

// y = f(normalize(z))
template <Epilogue epilogue, class T, class S>
struct Normalized {
  Affine<T> n;
  S* y;
  bool streams;

  HWY_INLINE void take(int64_t pixel, bool, PixelV<T> z) {
    const auto t = hn::MulAdd(hn::Sub(z, n.mean), n.factor, n.bias);
    const auto result = activate<epilogue, T>(t, n.low, n.high);
    if (streams) stream(result, Pixel<T>(), y + pixel * pixel_width<T>());
    else store(result, Pixel<T>(), y + pixel * pixel_width<T>());
  }
  HWY_INLINE void keep(const Normalized&) {}
};

// dt = dy f'(t): its sums, alone and times z - mean.
template <Epilogue epilogue, class T, class S>
struct GradientSums {
  Affine<T> n;
  const S *dy, *ahead;
  Sums<T> sums;

  HWY_INLINE void take(int64_t pixel, bool odd, PixelV<T> z) {
    const int64_t at = pixel * pixel_width<T>();
    __builtin_prefetch(ahead + at);
    const auto centred = hn::Sub(z, n.mean);
    const auto t = hn::MulAdd(centred, n.factor, n.bias);
    const auto dt = activate_grad<epilogue, T>(load(Pixel<T>(), dy + at), t, n.low, n.high);
    sums.add(odd, dt, centred);
  }
  HWY_INLINE void keep(const GradientSums& here) { sums = here.sums; }
};

// dz from z and dy.
template <Epilogue epilogue, class T, class S>
struct ResultGradient {
  Affine<T> n;
  Slopes<T> slopes;
  const S *dy, *ahead;
  T* dz;

  HWY_INLINE void take(int64_t pixel, bool, PixelV<T> z) {
    const Pixel<T> d;
    const int64_t at = pixel * pixel_width<T>();
    __builtin_prefetch(ahead + at);
    const auto centred = hn::Sub(z, n.mean);
    const auto t = hn::MulAdd(centred, n.factor, n.bias);
    const auto dt = activate_grad<epilogue, T>(load(d, dy + at), t, n.low, n.high);
    hn::StoreU(slopes.gradient(dt, centred), d, dz + at);
  }
  HWY_INLINE void keep(const ResultGradient&) {}
};

// dt = f'(t) times du, and its sums; pixels lie `step` elements apart.
template <Epilogue epilogue, class T, class S>
struct OperandGradient {
  Affine<T> n;
  const S *x, *ahead;  // ahead of dt: x is near
  S* dt;
  int64_t step;
  Sums<T> sums;

  HWY_INLINE void take(int64_t pixel, bool odd, PixelV<T> du) {
    const Pixel<T> d;
    const int64_t at = pixel * step;
    __builtin_prefetch(ahead + at);
    const auto centred = hn::Sub(load(d, x + at), n.mean);
    const auto t = hn::MulAdd(centred, n.factor, n.bias);
    const auto gradient = activate_grad<epilogue, T>(du, t, n.low, n.high);
    store(gradient, d, dt + at);
    sums.add(odd, gradient, centred);
  }
  HWY_INLINE void keep(const OperandGradient& here) { sums = here.sums; }
};

// f(the epilogue as a constant)
template <class F>
HWY_INLINE void with_epilogue(Epilogue epilogue, F f) {
  switch (epilogue) {
    case Epilogue::none: return f(std::integral_constant<Epilogue, Epilogue::none>());
    case Epilogue::clamp: return f(std::integral_constant<Epilogue, Epilogue::clamp>());
    case Epilogue::hard_swish: return f(std::integral_constant<Epilogue, Epilogue::hard_swish>());
  }
}

// u = f(normalize(x))
template <class T, class S>
HWY_INLINE void normalize_row(const BlockNormalization<T>& n, const S* x, const S* ahead, T* u, int64_t elements) {
  with_epilogue(n.epilogue, [&](auto epilogue) HWY_ATTR { normalize_with<epilogue>(n, x, ahead, u, elements); });
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per target
