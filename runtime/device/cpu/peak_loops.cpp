#include "runtime/device/cpu/peak_loops.h"

// Compiled once for every instruction set; what lies between AVX2 and the baseline is not worth the code.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/device/cpu/peak_loops.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "runtime/device/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Twelve sums: two units of four cycles' latency want eight, and with two operands all fit the 16 registers of AVX2.
// Everything stays in [0, 1], so that no unit is slowed by infinities or denormals.
template <class T>
HWY_INLINE double multiply_add(int64_t rounds, volatile T& sink) {
  const hn::ScalableTag<T> d;
  const auto half = hn::Set(d, static_cast<T>(0.5));
  // Equal sums would be computed once.
  auto start = [&](int i) { return hn::Set(d, static_cast<T>(i) / 16); };
  auto s0 = start(0), s1 = start(1), s2 = start(2), s3 = start(3), s4 = start(4), s5 = start(5);
  auto s6 = start(6), s7 = start(7), s8 = start(8), s9 = start(9), s10 = start(10), s11 = start(11);
  for (int64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, half, half);
    s1 = hn::MulAdd(s1, half, half);
    s2 = hn::MulAdd(s2, half, half);
    s3 = hn::MulAdd(s3, half, half);
    s4 = hn::MulAdd(s4, half, half);
    s5 = hn::MulAdd(s5, half, half);
    s6 = hn::MulAdd(s6, half, half);
    s7 = hn::MulAdd(s7, half, half);
    s8 = hn::MulAdd(s8, half, half);
    s9 = hn::MulAdd(s9, half, half);
    s10 = hn::MulAdd(s10, half, half);
    s11 = hn::MulAdd(s11, half, half);
  }
  const auto even = hn::Add(hn::Add(hn::Add(s0, s2), hn::Add(s4, s6)), hn::Add(s8, s10));
  const auto odd = hn::Add(hn::Add(hn::Add(s1, s3), hn::Add(s5, s7)), hn::Add(s9, s11));
  sink = hn::GetLane(hn::Add(even, odd));
  constexpr double sums = 12;
  return 2 * sums * static_cast<double>(rounds) * static_cast<double>(hn::Lanes(d));
}

double multiply_add_f32(int64_t rounds) {
  volatile float sink = 0;
  return multiply_add(rounds, sink);
}

double multiply_add_f64(int64_t rounds) {
  volatile double sink = 0;
  return multiply_add(rounds, sink);
}

#ifdef GRAFT_TILES

// Four sums of two tiles by two. The values differ: units that multiply the same again and again take less power, and
// run faster than any product could.
GRAFT_TILES double multiply_add_tiles(int64_t rounds) {
  constexpr int rows = 16, pairs = 16, operands = 4;
  static constexpr TileShapes shapes;
  uint32_t tiles[operands][rows * pairs];
  uint32_t state = 1;
  for (auto& tile : tiles) {
    for (uint32_t& pair : tile) {
      state = state * 1664525 + 1013904223;             // Numerical Recipes' generator
      pair = (state >> 8 & 0x80ff80ffU) | 0x3f003f00U;  // both between 1/2 and 2, of either sign
    }
  }
  float sum[rows * pairs];
  _tile_loadconfig(&shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, tiles[0], 64);
  _tile_loadd(5, tiles[1], 64);
  _tile_loadd(6, tiles[2], 64);
  _tile_loadd(7, tiles[3], 64);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(3, sum, 64);
  _tile_release();
  volatile float sink = sum[0];
  (void)sink;
  return 2.0 * operands * static_cast<double>(rounds) * rows * pairs * 2 * rows;
}

#else

double multiply_add_tiles(int64_t) { return 0; }

#endif

void triad(float* a, const float* b, const float* c, int64_t count, bool streaming) {
  const hn::ScalableTag<float> d;
  const auto s = hn::Set(d, 0.5F);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  if (streaming) {
    for (; i + lanes <= count; i += lanes)
      hn::Stream(hn::MulAdd(s, hn::LoadU(d, c + i), hn::LoadU(d, b + i)), d, a + i);
    hwy::FlushStream();
  } else {
    for (; i + lanes <= count; i += lanes)
      hn::StoreU(hn::MulAdd(s, hn::LoadU(d, c + i), hn::LoadU(d, b + i)), d, a + i);
  }
  for (; i < count; ++i) a[i] = b[i] + 0.5F * c[i];
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(multiply_add_f32);
HWY_EXPORT(multiply_add_f64);
HWY_EXPORT(multiply_add_tiles);
HWY_EXPORT(triad);

double multiply_add_f32(int64_t rounds) { return HWY_DYNAMIC_DISPATCH(multiply_add_f32)(rounds); }

double multiply_add_f64(int64_t rounds) { return HWY_DYNAMIC_DISPATCH(multiply_add_f64)(rounds); }

double multiply_add_tiles(int64_t rounds) { return HWY_DYNAMIC_DISPATCH(multiply_add_tiles)(rounds); }

void triad(float* a, const float* b, const float* c, int64_t count, bool streaming) {
  HWY_DYNAMIC_DISPATCH(triad)(a, b, c, count, streaming);
}

}  // namespace graft
#endif  // HWY_ONCE
