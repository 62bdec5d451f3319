// Products of bfloat16 tiles with float32 sums on the CPU's matrix units (AMX). Included once
// for every instruction set, from files that Highway's foreach_target.h compiles again and again; only the one that
// defines GRAFT_TILES has them.
#if defined(GRAFT_OPS_MATRIX_TILES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GRAFT_OPS_MATRIX_TILES_INL_H
#undef GRAFT_OPS_MATRIX_TILES_INL_H
#else
#define GRAFT_OPS_MATRIX_TILES_INL_H
#endif

#include <hwy/highway.h>

#include <atomic>

#include "ops/bfloat16_gemm.h"
#include "runtime/device/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

#ifdef GRAFT_TILES

namespace hn = hwy::HWY_NAMESPACE;
using Pairs = hn::ScalableTag<uint32_t>;  // two elements each, 16 in a vector
using Low = hn::Rebind<uint16_t, Pairs>;
using PairsOf16 = hn::Vec<Pairs>;

HWY_INLINE void keep_row(BFloat16* tile, int row, PairsOf16 x) {
  hn::StoreU(x, Pairs(), reinterpret_cast<uint32_t*>(tile + row * tile_k));
}

// Two rows of 16 elements side by side.
HWY_INLINE PairsOf16 interleaved(const BFloat16* from, int64_t stride) {
  const Pairs d;
  const Low low;
  const PairsOf16 even = hn::PromoteTo(d, hn::LoadU(low, &from->bits));
  const PairsOf16 odd = hn::PromoteTo(d, hn::LoadU(low, &from[stride].bits));
  return hn::Or(even, hn::ShiftLeft<16>(odd));
}

// to[j][i] = from[i][j] for 16 x 16 pairs: neighbours in a row or, where it `interleaves`, in a column. Rows of `from`
// are `stride` elements apart.
template <bool interleaves>
HWY_INLINE void transpose_tile(const BFloat16* from, int64_t stride, BFloat16* to) {
  const Pairs d;
  const hn::Repartition<uint64_t, Pairs> twice;
  PairsOf16 x[16], y[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    if constexpr (interleaves) x[r] = interleaved(from + 2 * r * stride, stride);
    else x[r] = hn::LoadU(d, reinterpret_cast<const uint32_t*>(from + r * stride));
  }
#pragma GCC unroll 8
  for (int r = 0; r < 16; r += 2) {
    y[r] = hn::InterleaveLower(d, x[r], x[r + 1]);
    y[r + 1] = hn::InterleaveUpper(d, x[r], x[r + 1]);
  }
  // x[4 g + c]: in each block of 4 columns, column c of rows 4 g to 4 g + 3.
#pragma GCC unroll 4
  for (int r = 0; r < 16; r += 4) {
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      const auto low = hn::BitCast(twice, y[r + c]), high = hn::BitCast(twice, y[r + 2 + c]);
      x[r + 2 * c] = hn::BitCast(d, hn::InterleaveLower(twice, low, high));
      x[r + 2 * c + 1] = hn::BitCast(d, hn::InterleaveUpper(twice, low, high));
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const PairsOf16 even_low = hn::ConcatLowerLower(d, x[8 + c], x[c]),
                    odd_low = hn::ConcatLowerLower(d, x[12 + c], x[4 + c]);
    const PairsOf16 even_high = hn::ConcatUpperUpper(d, x[8 + c], x[c]),
                    odd_high = hn::ConcatUpperUpper(d, x[12 + c], x[4 + c]);
    keep_row(to, c, hn::OddEvenBlocks(hn::SwapAdjacentBlocks(odd_low), even_low));
    keep_row(to, 4 + c, hn::OddEvenBlocks(odd_low, hn::SwapAdjacentBlocks(even_low)));
    keep_row(to, 8 + c, hn::OddEvenBlocks(hn::SwapAdjacentBlocks(odd_high), even_high));
    keep_row(to, 12 + c, hn::OddEvenBlocks(odd_high, hn::SwapAdjacentBlocks(even_high)));
  }
}

struct TilesOfA {
  const BFloat16* data;
  int64_t row_bytes, step;  // from k to k: elements
};

// Tiles 0 to 3 for sums, 16 x 16 each: of two tiles of rows where they are `tall`, two of columns where they are
// `wide`. They begin with y or with zeros, and end in y.
template <bool tall, bool wide>
GRAFT_TILES HWY_INLINE void begin_sums(const float* y, int64_t y_row, bool adds) {
  const auto y_bytes = static_cast<int64_t>(sizeof(float)) * y_row;
  const float* below = y + tile_side * y_row;
  // The tiles' instructions do not say what memory they read.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (adds) {
    _tile_loadd(0, y, y_bytes);
    if constexpr (wide) _tile_loadd(1, y + tile_side, y_bytes);
    if constexpr (tall) _tile_loadd(2, below, y_bytes);
    if constexpr (tall && wide) _tile_loadd(3, below + tile_side, y_bytes);
  } else {
    _tile_zero(0);
    if constexpr (wide) _tile_zero(1);
    if constexpr (tall) _tile_zero(2);
    if constexpr (tall && wide) _tile_zero(3);
  }
}
template <bool tall, bool wide>
GRAFT_TILES HWY_INLINE void end_sums(float* y, int64_t y_row) {
  const auto y_bytes = static_cast<int64_t>(sizeof(float)) * y_row;
  float* below = y + tile_side * y_row;
  _tile_stored(0, y, y_bytes);
  if constexpr (wide) _tile_stored(1, y + tile_side, y_bytes);
  if constexpr (tall) _tile_stored(2, below, y_bytes);
  if constexpr (tall && wide) _tile_stored(3, below + tile_side, y_bytes);
}

// y [+]= a b.
template <bool tall, bool wide>
GRAFT_TILES HWY_NOINLINE void multiply(const TilesOfA* a, const BFloat16* b, int64_t k_tiles, float* y, int64_t y_row,
                                       bool adds) {
  constexpr int64_t b_bytes = tile_k * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t b_panel = k_tiles * tile_size;
  begin_sums<tall, wide>(y, y_row, adds);
  for (int64_t t = 0; t < k_tiles; ++t) {
    _tile_loadd(4, a[0].data + t * a[0].step, a[0].row_bytes);
    _tile_loadd(6, b + t * tile_size, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (wide) {
      _tile_loadd(7, b + b_panel + t * tile_size, b_bytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (tall) {
      _tile_loadd(5, a[1].data + t * a[1].step, a[1].row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (wide) _tile_dpbf16ps(3, 5, 7);
    }
  }
  end_sums<tall, wide>(y, y_row);
}

using TilesFunction = void (*)(const TilesOfA*, const BFloat16*, int64_t, float*, int64_t, bool);
// For two tiles of rows where they are `tall`, two of columns where they are `wide`, else one.
inline TilesFunction tiles_function(bool tall, bool wide) {
  if (tall) return wide ? multiply<true, true> : multiply<true, false>;
  return wide ? multiply<false, true> : multiply<false, false>;
}

#endif

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
