// The inner loop of matrix products and convolutions: a tile of y held in registers. Included once for every
// instruction set, from files that Highway's foreach_target.h compiles again and again.
#if defined(GRAFT_OPS_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GRAFT_OPS_TILE_INL_H
#undef GRAFT_OPS_TILE_INL_H
#else
#define GRAFT_OPS_TILE_INL_H
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <array>
#include <cstdint>
#include <utility>

#include "ops/gemm_loops.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Columns come in panels as wide as a vector.
using TileTag = hn::CappedTag<float, 16>;
constexpr int64_t panel_width = hn::MaxLanes(TileTag());
// Rows of the largest tile of two panels: as many accumulators as there are registers, less those for operands.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SCALAR
constexpr int tile_rows = 6;
#else
constexpr int tile_rows = 12;
#endif

// y[r, p, :] = start[r, p, :] + sum_k a[r, k] b[k, p, :] over rows r, panels p, and then what `behind` says.
struct Tile {
  int64_t blocks = 1, block = 0;            // k runs over `blocks` times `block`
  int64_t a_row = 0, a_k = 0, a_block = 0;  // distances in a: from row to row, k to k, block to block
  int64_t b_k = panel_width, b_panel = 0;   // in b: from k to k, panel to panel
  int64_t start_row = 0, start_panel = 0;
  int64_t y_row = 0, y_panel = 0;
  const float* next_y = nullptr;  // of the next tile, to be fetched meanwhile; nullptr: y itself
  GemmBehind behind = GemmBehind::nothing;
  const float* beside = nullptr;  // its operand
  int64_t beside_row = 0, beside_panel = panel_width;
  float* sums = nullptr;  // of each column over the rows, panel by panel; nullptr: not wanted
};

// What is done to y behind its sums, one vector or number.
template <class D>
HWY_INLINE hn::Vec<D> finished(D d, GemmBehind behind, hn::Vec<D> y, const float* beside) {
  switch (behind) {
    case GemmBehind::nothing: break;
    case GemmBehind::relu: return hn::IfThenElse(hn::Lt(y, hn::Zero(d)), hn::Zero(d), y);  // NaN stays
    case GemmBehind::add: return hn::Add(y, hn::LoadU(d, beside));
    case GemmBehind::relu_grad: return hn::IfThenElseZero(hn::Gt(hn::LoadU(d, beside), hn::Zero(d)), y);
  }
  return y;
}

// In registers, once a tile is complete.
template <int rows, int panels>
HWY_INLINE void finish_tile(const Tile& t, hn::Vec<TileTag> (&sum)[rows][panels]) {
  const TileTag d;
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) {
      const float* beside = t.beside ? t.beside + r * t.beside_row + p * t.beside_panel : nullptr;
      sum[r][p] = finished(d, t.behind, sum[r][p], beside);
    }
  }
  if (!t.sums) return;
#pragma GCC unroll 4
  for (int p = 0; p < panels; ++p) {
    auto total = sum[0][p];
#pragma GCC unroll 16
    for (int r = 1; r < rows; ++r) total = hn::Add(total, sum[r][p]);
    hn::StoreU(total, d, t.sums + p * panel_width);
  }
}

// AK, AR: a_k and a_row where they are known, else 0. `start` may be nullptr: zeros.
template <int rows, int panels, int AK, int AR>
HWY_NOINLINE void multiply_tile(const Tile& t, const float* a, const float* b, const float* start, float* y) {
  const TileTag d;
  using V = hn::Vec<TileTag>;
  V sum[rows][panels];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p)
      sum[r][p] = start ? hn::LoadU(d, start + r * t.start_row + p * t.start_panel) : hn::Zero(d);
  }
  const float* soon = t.next_y ? t.next_y : y;
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) hwy::Prefetch(soon + r * t.y_row + p * t.y_panel);
  }
  const int64_t a_k = AK ? AK : t.a_k, a_row = AR ? AR : t.a_row, b_k = t.b_k, b_panel = t.b_panel, block = t.block;
  for (int64_t i = 0; i < t.blocks; ++i) {
    // Rows in threes from pointers of their own: 0, 1 and 2 times a_row are part of an instruction's address. The empty
    // asm keeps the compiler from holding a register for each row, of which there are too few.
    constexpr int threes = (rows + 2) / 3;
    const float* x[threes];
#pragma GCC unroll 8
    for (int q = 0; q < threes; ++q) x[q] = a + i * t.a_block + 3 * q * a_row;
    for (int64_t k = 0; k < block; ++k) {
      V columns[panels];
#pragma GCC unroll 4
      for (int p = 0; p < panels; ++p) columns[p] = hn::LoadU(d, b + p * b_panel);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const V factor = hn::Set(d, x[r / 3][r % 3 * a_row]);
#pragma GCC unroll 4
        for (int p = 0; p < panels; ++p) sum[r][p] = hn::MulAdd(factor, columns[p], sum[r][p]);
      }
#pragma GCC unroll 8
      for (int q = 0; q < threes; ++q) {
        x[q] += a_k;
        if (AR == 0) asm("" : "+r"(x[q]));
      }
      b += b_k;
    }
  }
  if (t.behind != GemmBehind::nothing) finish_tile(t, sum);
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < panels; ++p) hn::StoreU(sum[r][p], d, y + r * t.y_row + p * t.y_panel);
  }
}

using TileFunction = void (*)(const Tile&, const float* a, const float* b, const float* start, float* y);

// [rows - 1]: tiles of 1 to `most` rows.
template <int panels, int AK, int AR, int... r>
constexpr std::array<TileFunction, sizeof...(r)> make_tiles(std::integer_sequence<int, r...>) {
  return {&multiply_tile<r + 1, panels, AK, AR>...};
}
template <int panels, int AK, int AR, int most = tile_rows>
constexpr auto tiles = make_tiles<panels, AK, AR>(std::make_integer_sequence<int, most>());

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
