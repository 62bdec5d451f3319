#include "ops/depthwise_loops.h"

#include <array>

// As in normalization_loops.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/depthwise_loops.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/bfloat16.h"
#include "ops/pixel_rows-inl.h"

#ifndef GRAFT_OPS_DEPTHWISE_ROWS
#define GRAFT_OPS_DEPTHWISE_ROWS
namespace graft {

// Taps of the window that a row of results meets: tap t of result o is pixel in[t] + o * step.
template <class T>
struct RowTaps {
  std::array<const T*, most_depthwise_taps> in, w;
  int64_t count = 0;

  void add(const T* from, const T* weights) {
    in[static_cast<size_t>(count)] = from;
    w[static_cast<size_t>(count++)] = weights;
  }
};

// Rows between margins of zeros, of which the last `count` are there at any time.
template <class T>
struct PaddedRows {
  T* base;
  int64_t count, left, length, pitch;  // in elements but for count

  PaddedRows(T* scratch, int64_t rows, int64_t left_pixels, int64_t pixels, int64_t padded_pixels, int64_t width)
      : base(scratch), count(rows), left(left_pixels * width), length(pixels * width), pitch(padded_pixels * width) {
    for (int64_t row = 0; row < count; ++row) {
      std::fill_n(padded(row), left, T{0});
      std::fill_n((*this)[row] + length, pitch - left - length, T{0});
    }
  }
  // From the left margin on.
  T* padded(int64_t row) const { return base + row % count * pitch; }
  T* operator[](int64_t row) const { return padded(row) + left; }
};

}  // namespace graft
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

// --- Rows of the convolution ---

// Neighbouring results from `first` on: their sums stay in registers over all taps, and go to `each` from there.
template <int results, class T, class Each>
HWY_INLINE void correlate_some(const RowTaps<T>& taps, int64_t step, int64_t first, Each& each) {
  const Pixel<T> d;
  PixelV<T> sums[results];
#pragma GCC unroll 8
  for (int i = 0; i < results; ++i) sums[i] = hn::Zero(d);
  const int64_t offset = first * step;
  for (size_t t = 0; t < static_cast<size_t>(taps.count); ++t) {
    const auto w = hn::LoadU(d, taps.w[t]);
    const T* in = taps.in[t] + offset;
#pragma GCC unroll 8
    for (int i = 0; i < results; ++i) sums[i] = hn::MulAdd(hn::LoadU(d, in + i * step), w, sums[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < results; ++i) each.take(first + i, i % 2 != 0, sums[i]);
}

// each.take(o, whether o is odd, sum over taps of w[t] * in[t][o * step]) for a row of results.
template <class T, class Each>
HWY_NOINLINE void correlate(const RowTaps<T>& taps, int64_t count, int64_t step, Each& each) {
  Each here = each;  // in registers
  int64_t o = 0;
  for (; o + 8 <= count; o += 8) correlate_some<8>(taps, step, o, here);
  switch (count - o) {
    case 7: correlate_some<7>(taps, step, o, here); break;
    case 6: correlate_some<6>(taps, step, o, here); break;
    case 5: correlate_some<5>(taps, step, o, here); break;
    case 4: correlate_some<4>(taps, step, o, here); break;
    case 3: correlate_some<3>(taps, step, o, here); break;
    case 2: correlate_some<2>(taps, step, o, here); break;
    case 1: correlate_some<1>(taps, step, o, here); break;
    default: break;
  }
  each.keep(here);
}

// The sums of neighbouring taps from `first` on stay in registers over the row.
template <size_t taps_at_once, class T>
HWY_INLINE void products_some(const RowTaps<T>& taps, size_t first, int64_t count, int64_t step, const T* dz, T* sums) {
  const Pixel<T> d;
  PixelV<T> some[taps_at_once];
  const T* in[taps_at_once];
#pragma GCC unroll 9
  for (size_t t = 0; t < taps_at_once; ++t) {
    some[t] = hn::Zero(d);
    in[t] = taps.in[first + t];
  }
  for (int64_t o = 0, at = 0; o < count; ++o, at += step, dz += pixel_width<T>()) {
    const auto gradient = hn::LoadU(d, dz);
#pragma GCC unroll 9
    for (size_t t = 0; t < taps_at_once; ++t) some[t] = hn::MulAdd(hn::LoadU(d, in[t] + at), gradient, some[t]);
  }
#pragma GCC unroll 9
  for (size_t t = 0; t < taps_at_once; ++t) {
    T* sum = sums + static_cast<int64_t>(first + t) * pixel_width<T>();
    hn::StoreU(hn::Add(hn::LoadU(d, sum), some[t]), d, sum);
  }
}

// sums[t] += sum over o of in[t][o * step] * dz[o]
template <class T>
HWY_NOINLINE void add_products(const RowTaps<T>& taps, int64_t count, int64_t step, const T* dz, T* sums) {
  const auto all = static_cast<size_t>(taps.count);
  size_t t = 0;
  for (; t + 9 <= all; t += 9) products_some<9>(taps, t, count, step, dz, sums);
  for (; t + 6 <= all; t += 6) products_some<6>(taps, t, count, step, dz, sums);
  for (; t + 3 <= all; t += 3) products_some<3>(taps, t, count, step, dz, sums);
  for (; t < all; ++t) products_some<1>(taps, t, count, step, dz, sums);
}

// --- Maps ---

// The rows of u that the windows of one row of results after the other meet.
template <class T, class S>
class Windows {
 public:
  explicit Windows(const DepthwiseMap<T, S>& m)
      : m_(m),
        g_(*m.geometry),
        rows_(m.rows, g_.covered_rows(), g_.left, g_.in.columns, g_.padded_row(), pixel_width<T>()) {}

  int64_t step() const { return g_.stride.columns * pixel_width<T>(); }

  // Gives the taps of a row of results; returns the first tap that is inside. Those that follow are neighbours.
  HWY_INLINE int64_t take(int64_t row, RowTaps<T>& taps) {
    const int64_t begin = row * g_.stride.rows - g_.top;
    for (const int64_t end = std::min(begin + g_.covered_rows(), g_.in.rows); next_ < end; ++next_)
      normalize_row(m_.first, m_.x.row(next_), m_.x.ahead(next_), rows_[next_], m_.x.elements);
    taps.count = 0;
    int64_t first = 0;
    for (int64_t ky = 0; ky < g_.kernel.rows; ++ky) {
      const int64_t at = begin + ky * g_.dilation.rows;
      if (at < 0 || at >= g_.in.rows) continue;
      if (taps.count == 0) first = ky * g_.kernel.columns;
      const T* in = rows_.padded(at);
      const T* w = m_.w + ky * g_.kernel.columns * pixel_width<T>();
      for (int64_t kx = 0; kx < g_.kernel.columns; ++kx, w += pixel_width<T>())
        taps.add(in + kx * g_.dilation.columns * pixel_width<T>(), w);
    }
    return first;
  }

 private:
  const DepthwiseMap<T, S>& m_;
  const DepthwiseGeometry& g_;
  PaddedRows<T> rows_;
  int64_t next_ = 0;  // the first row of u that is missing
};

template <class T, class S>
void statistics_of(const AheadMap<S>& x, double* sums) {
  const Pixel<T> d;
  const int64_t width = pixel_width<T>();
  Squares<T> squares(load(d, x.map));
  Totals<T> totals(sums + width, sums + 2 * width);
  for (int64_t row = 0; row < x.rows; ++row) {
    const S *here = x.row(row), *ahead = x.ahead(row);
    int64_t i = 0;
    for (; i + 2 * width <= x.elements; i += 2 * width) {
      __builtin_prefetch(ahead + i);
      __builtin_prefetch(ahead + i + width);
      squares.take(0, false, load(d, here + i));
      squares.take(1, true, load(d, here + i + width));
    }
    if (i < x.elements) squares.take(0, false, load(d, here + i));
    totals.add(squares.sums, x.elements);
  }
  totals.flush(squares.sums);
  for (int64_t v = 0; v < width; ++v) sums[v] = static_cast<double>(widened(x.map[v]));
}

template <class T, class S>
void input_gradient(const BlockNormalization<T>& n, const AheadMap<S>& x, S* dt) {
  const Pixel<T> d;
  const Slopes<T> slopes(n);
  const auto mean = hn::LoadU(d, n.mean);
  const AheadMap<S> dts = x.like(dt);
  for (int64_t row = 0; row < x.rows; ++row) {
    const S *here = x.row(row), *ahead = x.ahead(row), *ahead_dt = dts.ahead(row);
    S* dx = dt + row * x.elements;
    for (int64_t i = 0; i < x.elements; i += pixel_width<T>()) {
      __builtin_prefetch(ahead + i);
      __builtin_prefetch(ahead_dt + i);
      store(slopes.gradient(load(d, dx + i), hn::Sub(load(d, here + i), mean)), d, dx + i);
    }
  }
}

template <class T, class S>
void inner_statistics(const DepthwiseMap<T, S>& m) {
  const DepthwiseGeometry& g = *m.geometry;
  const int64_t width = pixel_width<T>();
  Windows<T, S> windows(m);
  RowTaps<T> taps;
  windows.take(0, taps);
  FirstPixel<T> first;
  correlate(taps, 1, windows.step(), first);
  Squares<T> squares(first.value);
  Totals<T> totals(m.sums + width, m.sums + 2 * width);
  for (int64_t row = 0; row < g.out.rows; ++row) {
    windows.take(row, taps);
    correlate(taps, g.out.columns, windows.step(), squares);
    totals.add(squares.sums, g.out.columns * width);
  }
  totals.flush(squares.sums);
  T about[hn::MaxLanes(Pixel<T>())];
  hn::StoreU(squares.about, Pixel<T>(), about);
  for (int64_t v = 0; v < width; ++v) m.sums[v] = static_cast<double>(about[v]);
}

template <class T, class S>
void convolve(const DepthwiseMap<T, S>& m) {
  with_epilogue(m.second.epilogue, [&](auto epilogue) HWY_ATTR {
    const DepthwiseGeometry& g = *m.geometry;
    Windows<T, S> windows(m);
    RowTaps<T> taps;
    Normalized<epilogue, T, S> normalized{Affine<T>(m.second), m.y, m.streams};
    for (int64_t row = 0; row < g.out.rows; ++row) {
      windows.take(row, taps);
      normalized.y = m.y + row * g.out.columns * pixel_width<T>();
      correlate(taps, g.out.columns, windows.step(), normalized);
    }
    if (m.streams) hwy::FlushStream();
  });
}

template <class T, class S>
void gradient_sums(const DepthwiseMap<T, S>& m) {
  with_epilogue(m.second.epilogue, [&](auto epilogue) HWY_ATTR {
    const DepthwiseGeometry& g = *m.geometry;
    Windows<T, S> windows(m);
    RowTaps<T> taps;
    GradientSums<epilogue, T, S> gradient{Affine<T>(m.second), nullptr, nullptr, {}};
    Totals<T> totals(m.sums, m.sums + pixel_width<T>());
    for (int64_t row = 0; row < g.out.rows; ++row) {
      windows.take(row, taps);
      gradient.dy = m.dy.row(row);
      gradient.ahead = m.dy.ahead(row);
      correlate(taps, g.out.columns, windows.step(), gradient);
      totals.add(gradient.sums, m.dy.elements);
    }
    totals.flush(gradient.sums);
  });
}

// From the rows of dz, a row of du and all that comes of it.
template <class T, class S, class Each>
HWY_INLINE void data_row(const DepthwiseMap<T, S>& m, const PaddedRows<T>& dz, int64_t row, RowTaps<T>& taps,
                         Each& each) {
  const DepthwiseGeometry& g = *m.geometry;
  const int64_t width = pixel_width<T>();
  const S *x = each.x, *ahead = each.ahead;
  S* dt = each.dt;
  for (size_t c = 0; c < m.columns->size(); ++c) {
    const auto column = static_cast<int64_t>(c);
    taps.count = 0;
    for (int64_t ky = 0; ky < g.kernel.rows; ++ky) {
      const int64_t reach = row + g.top - ky * g.dilation.rows;
      if (reach < 0 || reach % g.stride.rows != 0 || reach / g.stride.rows >= g.out.rows) continue;
      const T* results = dz[reach / g.stride.rows];
      for (const ColumnTap& tap : (*m.columns)[c])
        taps.add(results + tap.offset * width, m.w + (ky * g.kernel.columns + tap.kx) * width);
    }
    each.x = x + column * width;
    each.ahead = ahead + column * width;
    each.dt = dt + column * width;
    correlate(taps, (g.in.columns - column + g.stride.columns - 1) / g.stride.columns, width, each);
  }
}

template <Epilogue inner, Epilogue outer, class T, class S>
HWY_INLINE void convolve_back_with(const DepthwiseMap<T, S>& m) {
  const DepthwiseGeometry& g = *m.geometry;
  const int64_t width = pixel_width<T>();
  if (m.products) std::fill_n(m.products, g.taps() * width, T{0});
  Windows<T, S> windows(m);
  const PaddedRows<T> dz(m.gradient_rows, g.covered_rows(), g.out_left(), g.out.columns, g.padded_out_row(), width);
  ResultGradient<outer, T, S> result{Affine<T>(m.second), Slopes<T>(m.second), nullptr, nullptr, nullptr};
  OperandGradient<inner, T, S> operand{Affine<T>(m.first), nullptr, nullptr, nullptr, g.stride.columns * width, {}};
  const AheadMap<S> dt = m.x.like(m.dt);
  Totals<T> totals(m.sums, m.sums + width);
  RowTaps<T> taps;
  int64_t next = 0;
  for (int64_t row = 0; row < g.out.rows; ++row) {
    const int64_t first = windows.take(row, taps);
    result.dy = m.dy.row(row);
    result.ahead = m.dy.ahead(row);
    result.dz = dz[row];
    correlate(taps, g.out.columns, windows.step(), result);
    if (m.products) add_products(taps, g.out.columns, windows.step(), dz[row], m.products + first * width);
    // Rows of du that no later row of dz adds to.
    const bool last = row + 1 == g.out.rows;
    const int64_t complete = last ? g.in.rows : std::min((row + 1) * g.stride.rows - g.top, g.in.rows);
    for (; next < complete; ++next) {
      operand.x = m.x.row(next);
      operand.dt = m.dt ? m.dt + next * m.x.elements : m.single_row;
      operand.ahead = m.dt ? dt.ahead(next) : m.single_row;
      data_row(m, dz, next, taps, operand);
      totals.add(operand.sums, m.x.elements);
    }
  }
  totals.flush(operand.sums);
}

template <class T, class S>
void convolve_back(const DepthwiseMap<T, S>& m) {
  with_epilogue(m.first.epilogue, [&](auto inner) HWY_ATTR {
    with_epilogue(m.second.epilogue, [&](auto outer) HWY_ATTR { convolve_back_with<inner, outer>(m); });
  });
}

template <class T, class S>
DepthwiseLoops<T, S> all_depthwise() {
  return {pixel_width<T>(),    statistics_of<T, S>, inner_statistics<T, S>, convolve<T, S>,
          gradient_sums<T, S>, convolve_back<T, S>, input_gradient<T, S>};
}
DepthwiseLoops<float> depthwise_f32() { return all_depthwise<float, float>(); }
DepthwiseLoops<double> depthwise_f64() { return all_depthwise<double, double>(); }
DepthwiseLoops<float, BFloat16> depthwise_bf16() { return all_depthwise<float, BFloat16>(); }

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(depthwise_f32);
HWY_EXPORT(depthwise_f64);
HWY_EXPORT(depthwise_bf16);

template <>
const DepthwiseLoops<float>& depthwise_loops<float>() {
  static const DepthwiseLoops<float> loops = HWY_DYNAMIC_DISPATCH(depthwise_f32)();
  return loops;
}
template <>
const DepthwiseLoops<double>& depthwise_loops<double>() {
  static const DepthwiseLoops<double> loops = HWY_DYNAMIC_DISPATCH(depthwise_f64)();
  return loops;
}
template <>
const DepthwiseLoops<float, BFloat16>& depthwise_loops<float, BFloat16>() {
  static const DepthwiseLoops<float, BFloat16> loops = HWY_DYNAMIC_DISPATCH(depthwise_bf16)();
  return loops;
}

std::vector<std::vector<ColumnTap>> column_taps(const DepthwiseGeometry& g) {
  std::vector<std::vector<ColumnTap>> taps;
  for (int64_t column = 0; column < std::min(g.stride.columns, g.in.columns); ++column) {
    taps.emplace_back();
    for (int64_t kx = 0; kx < g.kernel.columns; ++kx) {
      const int64_t reach = column + g.left - kx * g.dilation.columns;
      if (reach % g.stride.columns == 0) taps.back().push_back({kx, reach / g.stride.columns});
    }
  }
  return taps;
}

}  // namespace graft
#endif
