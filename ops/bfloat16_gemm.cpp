#include "ops/bfloat16_gemm.h"

#include <algorithm>

#include "ops/bfloat16_loops.h"
#include "ops/gemm_loops.h"
#include "runtime/device/device.h"

// What lies between AVX2 and the baseline is not worth the code.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/bfloat16_gemm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/matrix_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

#ifdef GRAFT_TILES

// A part of a matrix, copied where it is smaller than `rows` x `columns`, with zeros behind it.
template <int64_t rows, int64_t columns>
class Whole {
 public:
  Whole(const BFloat16* from, int64_t stride, int64_t there_rows, int64_t there_columns) : data(from), stride(stride) {
    if (there_rows >= rows && there_columns >= columns) return;
    std::fill_n(copy_, rows * columns, BFloat16{});
    for (int64_t r = 0; r < std::min(rows, there_rows); ++r)
      std::copy_n(from + r * stride, std::min(columns, there_columns), copy_ + r * columns);
    data = copy_;
    this->stride = columns;
  }
  const BFloat16* data;
  int64_t stride;

 private:
  BFloat16 copy_[rows * columns];
};

// Pairs of rows side by side: to[r / 2][c][r % 2] = from[r][c] for 32 x 16 elements.
HWY_INLINE void interleave(const Whole<tile_k, tile_side>& from, BFloat16* to) {
  for (int r = 0; r < tile_side; ++r) keep_row(to, r, interleaved(from.data + 2 * r * from.stride, from.stride));
}

// Tiles of b as [columns][k][k / 2][16][2].
HWY_NOINLINE void pack_b(const LowMatrix& b, int64_t k, int64_t n, BFloat16* to) {
  for (int64_t j = 0; j < n; j += tile_side) {
    for (int64_t i = 0; i < k; i += tile_k, to += tile_size) {
      if (b.column == 1) {
        interleave({b.data + i * b.row + j / tile_side * b.panel, b.row, k - i, n - j}, to);
      } else {
        const BFloat16* from = b.data + i + j * b.column;
        const Whole<tile_side, tile_k> whole(from, b.column, n - j, k - i);
        transpose_tile<false>(whole.data, whole.stride, to);
      }
    }
  }
}

// Tiles of a's rows as [rows][k][16][32].
HWY_NOINLINE void pack_a(const LowMatrix& a, int64_t m, int64_t k, BFloat16* to) {
  for (int64_t i = 0; i < m; i += tile_side) {
    for (int64_t j = 0; j < k; j += tile_k, to += tile_size) {
      if (a.column == 1) {
        const Whole<tile_side, tile_k> whole(a.data + i * a.row + j, a.row, m - i, k - j);
        for (int64_t r = 0; r < tile_side; ++r) std::copy_n(whole.data + r * whole.stride, tile_k, to + r * tile_k);
      } else {
        const BFloat16* from = a.data + i / tile_side * a.panel + j * a.column;
        const Whole<tile_k, tile_side> whole(from, a.column, k - j, m - i);
        transpose_tile<true>(whole.data, whole.stride, to);
      }
    }
  }
}

class TileProduct {
 public:
  TileProduct(const LowGemmBlock& g, BFloat16* scratch) : g_(g), k_tiles_(tiles_over(g.k, tile_k)), b_(scratch) {
    pack_b(g.b, g.k, g.n, b_);
    // Whole tiles of a are read as they lie where its k are neighbours.
    lying_ = g.a.column == 1 && g.k % tile_k == 0 ? g.m / tile_side : 0;
    packed_ = b_ + tiles_over(g.n, tile_side) * k_tiles_ * tile_size;
    LowMatrix rest = g.a;
    rest.data += lying_ * tile_side * g.a.row;
    if (lying_ * tile_side < g.m) pack_a(rest, g.m - lying_ * tile_side, g.k, packed_);
  }

  GRAFT_TILES void run() const {
    static constexpr TileShapes shapes;
    _tile_loadconfig(&shapes);
    for (int64_t i = 0; i < g_.m; i += 2 * tile_side) {
      for (int64_t j = 0; j < g_.n; j += 2 * tile_side) block(i, j);
    }
    _tile_release();
  }

 private:
  TilesOfA tiles_of_a(int64_t panel) const {
    if (panel < lying_)
      return {g_.a.data + panel * tile_side * g_.a.row, static_cast<int64_t>(sizeof(BFloat16)) * g_.a.row, tile_k};
    return {packed_ + (panel - lying_) * k_tiles_ * tile_size, sizeof(BFloat16) * tile_k, tile_size};
  }

  // Two tiles by two, at the edges by way of a copy.
  void block(int64_t i, int64_t j) const {
    const int64_t m = std::min(2 * tile_side, g_.m - i), n = std::min(2 * tile_side, g_.n - j);
    const BFloat16* b = b_ + j / tile_side * k_tiles_ * tile_size;
    const bool tall = m > tile_side, wide = n > tile_side;
    const TilesOfA a[2] = {tiles_of_a(i / tile_side), tall ? tiles_of_a(i / tile_side + 1) : TilesOfA{}};
    const TilesFunction run = tiles_function(tall, wide);
    float* y = g_.y + i * g_.y_row + j;
    if (m % tile_side == 0 && n % tile_side == 0) return run(a, b, k_tiles_, y, g_.y_row, g_.adds);
    constexpr int64_t side = 2 * tile_side;
    float whole[side * side];
    run(a, b, k_tiles_, whole, side, false);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        float& to = y[r * g_.y_row + c];
        to = g_.adds ? to + whole[r * side + c] : whole[r * side + c];
      }
    }
  }

  const LowGemmBlock& g_;
  int64_t k_tiles_;
  BFloat16 *b_, *packed_;
  int64_t lying_;  // tiles of rows
};

void on_tiles(const LowGemmBlock& g, BFloat16* scratch) { TileProduct(g, scratch).run(); }

#else

void on_tiles(const LowGemmBlock&, BFloat16*) {}

#endif

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(on_tiles);

namespace {

// The matrix as floats, neighbours as they were.
MatrixView as_floats(const LowMatrix& matrix, int64_t rows, int64_t columns, float* to) {
  if (matrix.column != 1) return as_floats(matrix.transposed(), columns, rows, to).transposed();
  const bool panels = matrix.panel != tile_side;
  const int64_t piece = panels ? tile_side : columns;
  for (int64_t r = 0; r < rows; ++r) {
    const BFloat16* from = matrix.data + r * matrix.row;
    for (int64_t c = 0; c < columns; c += piece, from += panels ? matrix.panel : 0)
      to_float(from, to + r * columns + c, std::min(piece, columns - c));
  }
  return {to, columns, 1};
}

}  // namespace

int64_t low_gemm_scratch(int64_t m, int64_t n, int64_t k) {
  const int64_t tiles = tiles_over(m, tile_side) + tiles_over(n, tile_side);
  const int64_t packed = tiles * tiles_over(k, tile_k) * tile_size / 2 + line_floats;
  return std::max(packed, has_matrix_tiles() ? 0 : (m + n) * k + gemm_scratch(m, n, k));
}

void low_gemm_on_tiles(const LowGemmBlock& block, float* scratch) {
  HWY_DYNAMIC_DISPATCH(on_tiles)(block, reinterpret_cast<BFloat16*>(at_line(scratch)));
}

void low_gemm_in_floats(const LowGemmBlock& g, float* scratch) {
  const MatrixView a = as_floats(g.a, g.m, g.k, scratch), b = as_floats(g.b, g.k, g.n, scratch + g.m * g.k);
  gemm({.m = g.m,
        .n = g.n,
        .k = g.k,
        .a = a,
        .b = b,
        .start = g.adds ? MatrixView{g.y, g.y_row, 1} : MatrixView{},
        .y = g.y,
        .y_row = g.y_row},
       scratch + (g.m + g.n) * g.k);
}

void low_gemm(const LowGemmBlock& block, float* scratch) {
  static const auto run = has_matrix_tiles() ? low_gemm_on_tiles : low_gemm_in_floats;
  run(block, scratch);
}

}  // namespace graft
#endif
