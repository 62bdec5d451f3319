#include "ops/narrow_loops.h"

#include <algorithm>

// As in winograd_loops.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/narrow_loops.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

using V = hn::Vec<TileTag>;
constexpr TileTag d{};
constexpr int64_t width = panel_width;

HWY_INLINE int64_t blocks_of(const NarrowMap& map) { return (map.channels + width - 1) / width; }

// What takes the results of a block for a few pixels, as they are computed.
struct NoSums {
  HWY_INLINE NoSums(const NarrowSums*, int64_t) {}
  HWY_INLINE void take(int, V) {}
  HWY_INLINE void give() const {}
};

// Two of each hide the latency of additions. They are so short that their rounding does not count.
class BlockSums {
 public:
  HWY_INLINE BlockSums(const NarrowSums* to, int64_t block)
      : about_(hn::LoadU(d, to->about + block * width)),
        to_sums_(to->sums + block * width),
        to_squares_(to->squares + block * width) {
    sums_[0] = sums_[1] = squares_[0] = squares_[1] = hn::Zero(d);
  }
  HWY_INLINE void take(int pixel, V result) {
    const V centred = hn::Sub(result, about_);
    sums_[pixel % 2] = hn::Add(sums_[pixel % 2], centred);
    squares_[pixel % 2] = hn::MulAdd(centred, centred, squares_[pixel % 2]);
  }
  HWY_INLINE void give() const {
    add(hn::Add(sums_[0], sums_[1]), to_sums_);
    add(hn::Add(squares_[0], squares_[1]), to_squares_);
  }

 private:
  static HWY_INLINE void add(V terms, double* to) {
    HWY_ALIGN float lanes[width];
    hn::Store(terms, d, lanes);
    for (int64_t v = 0; v < width; ++v) to[v] += static_cast<double>(lanes[v]);
  }

  const V about_;
  V sums_[2], squares_[2];
  double *to_sums_, *to_squares_;
};

// Neighbouring pixels of a block of the result: their sums stay in registers over all channels.
template <int results, class Taken>
HWY_INLINE void product_tile(const float* source, const NarrowMap& from, const float* w, float* result, bool streams,
                             int64_t ahead, Taken& taken) {
  V sums[results];
#pragma GCC unroll 8
  for (int i = 0; i < results; ++i) sums[i] = hn::Zero(d);
  for (int64_t first = 0; first < from.channels; first += width, source += from.block) {
    const int64_t count = std::min(width, from.channels - first);
    if (ahead > 0) {
#pragma GCC unroll 8
      for (int i = 0; i < results; ++i) __builtin_prefetch(source + ahead + i * width);
    }
    for (int64_t c = 0; c < count; ++c, w += width) {
      const V weights = hn::LoadU(d, w);
#pragma GCC unroll 8
      for (int i = 0; i < results; ++i) sums[i] = hn::MulAdd(hn::Set(d, source[i * width + c]), weights, sums[i]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < results; ++i) {
    if (streams) hn::Stream(sums[i], d, result + i * width);
    else hn::StoreU(sums[i], d, result + i * width);
  }
#pragma GCC unroll 8
  for (int i = 0; i < results; ++i) taken.take(i, sums[i]);
}

template <class Taken>
void product_with(const float* source, const NarrowMap& from, const float* w, float* result, const NarrowMap& to,
                  int64_t pixels, bool streams, const NarrowSums* sums) {
  constexpr int together = 8;
  const int64_t blocks = blocks_of(to);
  for (int64_t begin = 0; begin < pixels; begin += narrow_pixels) {
    const int64_t end = std::min(pixels, begin + narrow_pixels);
    for (int64_t b = 0; b < blocks; ++b) {
      const float* weights = w + b * from.channels * width;
      const int64_t ahead = b == 0 ? narrow_pixels * width : 0;  // the first block fetches the next pixels for all
      float* to_block = result + b * to.block;
      Taken taken(sums, b);
      int64_t p = begin;
      for (; p + together <= end; p += together)
        product_tile<together>(source + p * width, from, weights, to_block + p * width, streams, ahead, taken);
      for (; p < end; ++p)
        product_tile<1>(source + p * width, from, weights, to_block + p * width, streams, ahead, taken);
      taken.give();
    }
  }
  if (streams) hwy::FlushStream();
}

void product(const float* source, const NarrowMap& from, const float* w, float* result, const NarrowMap& to,
             int64_t pixels, bool streams, const NarrowSums* sums) {
  if (sums) product_with<BlockSums>(source, from, w, result, to, pixels, streams, sums);
  else product_with<NoSums>(source, from, w, result, to, pixels, streams, sums);
}

// `count` channels from a vector of each pixel: their sums stay in registers over the pixels.
template <int count>
HWY_INLINE void gradient_tile(const float* source, const float* next_source, const float* gradient,
                              const float* next_gradient, int64_t pixels, float* dw) {
  V sums[count];
#pragma GCC unroll 16
  for (int c = 0; c < count; ++c) sums[c] = hn::LoadU(d, dw + c * width);
  for (int64_t at = 0; at < pixels * width; at += width) {
    __builtin_prefetch(next_source + at);
    __builtin_prefetch(next_gradient + at);
    const V dy = hn::LoadU(d, gradient + at);
#pragma GCC unroll 16
    for (int c = 0; c < count; ++c) sums[c] = hn::MulAdd(hn::Set(d, source[at + c]), dy, sums[c]);
  }
#pragma GCC unroll 16
  for (int c = 0; c < count; ++c) hn::StoreU(sums[c], d, dw + c * width);
}

void weight_gradient(const float* source, const NarrowMap& from, const float* gradient, const NarrowMap& to,
                     int64_t pixels, float* dw) {
  constexpr int most = width < 16 ? 8 : 16;
  const int64_t source_blocks = blocks_of(from), blocks = blocks_of(to);
  for (int64_t begin = 0; begin < pixels; begin += narrow_pixels) {
    const int64_t count = std::min(pixels - begin, narrow_pixels);
    for (int64_t b = 0; b < blocks; ++b) {
      const float* dy = gradient + b * to.block + begin * width;
      float* sums = dw + b * from.channels * width;
      for (int64_t c = 0; c < from.channels;) {
        const float* x = source + c / width * from.block + begin * width;
        // What comes next is fetched: the next block, or the next pixels of the first one.
        const float *next_x = x, *next_dy = dy;
        if (b == 0) next_x = c / width + 1 < source_blocks ? x + from.block : source + (begin + count) * width;
        if (c == 0) next_dy = b + 1 < blocks ? dy + to.block : gradient + (begin + count) * width;
        x += c % width;
        const int64_t left = std::min(from.channels - c, width - c % width);
        float* to_dw = sums + c * width;
        if (left >= most) gradient_tile<most>(x, next_x, dy, next_dy, count, to_dw), c += most;
        else if (left >= 8) gradient_tile<8>(x, next_x, dy, next_dy, count, to_dw), c += 8;
        else if (left >= 4) gradient_tile<4>(x, next_x, dy, next_dy, count, to_dw), c += 4;
        else gradient_tile<1>(x, next_x, dy, next_dy, count, to_dw), c += 1;
      }
    }
  }
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(product);
HWY_EXPORT(weight_gradient);

void narrow_product(const float* source, const NarrowMap& from, const float* w, float* result, const NarrowMap& to,
                    int64_t pixels, bool streams, const NarrowSums* sums) {
  HWY_DYNAMIC_DISPATCH(product)(source, from, w, result, to, pixels, streams, sums);
}
void narrow_weight_gradient(const float* source, const NarrowMap& from, const float* gradient, const NarrowMap& to,
                            int64_t pixels, float* dw) {
  HWY_DYNAMIC_DISPATCH(weight_gradient)(source, from, gradient, to, pixels, dw);
}

}  // namespace graft
#endif
