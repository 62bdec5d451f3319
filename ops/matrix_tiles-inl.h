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

#undef GRAFT_TILES
#if HWY_TARGET == HWY_AVX3 && HWY_ARCH_X86_64
#include <immintrin.h>
#define GRAFT_TILES __attribute__((target("amx-tile,amx-bf16")))
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

#ifdef GRAFT_TILES

struct TilesOfA {
  const BFloat16* data;
  int64_t row_bytes, step;  // from k to k: elements
};

// y (rows x 16, columns x 16) [+]= a b, sums of k in tiles 0 to 3.
template <int rows, int columns>
GRAFT_TILES HWY_NOINLINE void multiply(const TilesOfA* a, const BFloat16* b, int64_t k_tiles, float* y, int64_t y_row,
                                       bool adds) {
  const auto y_bytes = static_cast<int64_t>(sizeof(float)) * y_row;
  constexpr int64_t b_bytes = tile_k * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t b_panel = k_tiles * tile_size;
  float* below = y + tile_side * y_row;
  // The tiles' instructions do not say what memory they read.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (adds) {
    _tile_loadd(0, y, y_bytes);
    if constexpr (columns > 1) _tile_loadd(1, y + tile_side, y_bytes);
    if constexpr (rows > 1) _tile_loadd(2, below, y_bytes);
    if constexpr (rows > 1 && columns > 1) _tile_loadd(3, below + tile_side, y_bytes);
  } else {
    _tile_zero(0);
    if constexpr (columns > 1) _tile_zero(1);
    if constexpr (rows > 1) _tile_zero(2);
    if constexpr (rows > 1 && columns > 1) _tile_zero(3);
  }
  for (int64_t t = 0; t < k_tiles; ++t) {
    _tile_loadd(4, a[0].data + t * a[0].step, a[0].row_bytes);
    _tile_loadd(6, b + t * tile_size, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (columns > 1) {
      _tile_loadd(7, b + b_panel + t * tile_size, b_bytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (rows > 1) {
      _tile_loadd(5, a[1].data + t * a[1].step, a[1].row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (columns > 1) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, y, y_bytes);
  if constexpr (columns > 1) _tile_stored(1, y + tile_side, y_bytes);
  if constexpr (rows > 1) _tile_stored(2, below, y_bytes);
  if constexpr (rows > 1 && columns > 1) _tile_stored(3, below + tile_side, y_bytes);
}

using TilesFunction = void (*)(const TilesOfA*, const BFloat16*, int64_t, float*, int64_t, bool);
// For two tiles of rows where they are `tall`, two of columns where they are `wide`, else one.
inline TilesFunction tiles_function(bool tall, bool wide) {
  if (tall) return wide ? multiply<2, 2> : multiply<2, 1>;
  return wide ? multiply<1, 2> : multiply<1, 1>;
}

// As the instruction reads it: eight tiles of 16 rows, 64 bytes each.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, unused[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#endif

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
