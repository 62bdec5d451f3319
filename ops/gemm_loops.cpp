// Blocked as in Goto & van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): a panel of b stays in
// L1, a block of a in L2. b is packed into panels; a only where its k are not neighbours.
#include "ops/gemm_loops.h"

#include <algorithm>

#include "ops/gemm_tiles.h"

// What lies between AVX2 and the baseline is not worth the code.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/tile-inl.h"

#ifndef GRAFT_OPS_GEMM_BLOCKING
#define GRAFT_OPS_GEMM_BLOCKING
namespace graft {

constexpr int64_t k_block = 384, n_block = 1024, m_block = 48;
constexpr int64_t widest_panel = 16;
// Of b, that are packed at a time.
constexpr int64_t packed_columns(int64_t n) {
  return std::min(n_block, (n + widest_panel - 1) / widest_panel * widest_panel);
}

}  // namespace graft
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

constexpr int64_t widest = 2 * panel_width;
constexpr int64_t line = 64 / sizeof(float);  // of a cache

// Eight columns of b, whose k are neighbours, side by side: to[i * W + c] = factor * from[c * stride + i], i < 8.
using Eight = hn::CappedTag<float, 8>;
constexpr bool has_eight = hn::MaxLanes(Eight()) == 8;

HWY_INLINE void transpose_eight([[maybe_unused]] const float* from, [[maybe_unused]] int64_t stride,
                                [[maybe_unused]] float factor, [[maybe_unused]] float* to) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (has_eight) {
    const Eight d;
    const hn::Repartition<double, Eight> pairs;
    using V = hn::Vec<Eight>;
    V x[8], y[8];
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) x[c] = hn::Mul(hn::Set(d, factor), hn::LoadU(d, from + c * stride));
#pragma GCC unroll 4
    for (int c = 0; c < 8; c += 2) {
      y[c] = hn::InterleaveLower(d, x[c], x[c + 1]);
      y[c + 1] = hn::InterleaveUpper(d, x[c], x[c + 1]);
    }
    // y: of two columns, k 0 1 | 4 5 and k 2 3 | 6 7; x: of four columns, one k in each half.
#pragma GCC unroll 2
    for (int c = 0; c < 8; c += 4) {
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        const auto low = hn::BitCast(pairs, y[c + k]), high = hn::BitCast(pairs, y[c + 2 + k]);
        x[c + 2 * k] = hn::BitCast(d, hn::InterleaveLower(pairs, low, high));
        x[c + 2 * k + 1] = hn::BitCast(d, hn::InterleaveUpper(pairs, low, high));
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      hn::StoreU(hn::ConcatLowerLower(d, x[4 + k], x[k]), d, to + k * panel_width);
      hn::StoreU(hn::ConcatUpperUpper(d, x[4 + k], x[k]), d, to + (4 + k) * panel_width);
    }
  }
#endif
}

// b's rows [0, k) and columns [0, n) times alpha as [panel][k][W]; columns beyond n are zero.
void pack_panels(const MatrixView& b, int64_t k, int64_t n, float alpha, float* packed) {
  const TileTag d;
  const auto factor = hn::Set(d, alpha);
  int64_t j = 0;
  if (b.column == 1) {
    constexpr int64_t together = 4;  // panels: whole cache lines of b
    constexpr int64_t ahead = 16;    // rows; as they lie apart, processors do not see them coming
    for (; j + panel_width <= n;) {
      const int64_t panels = std::min(together, (n - j) / panel_width);
      const float* from = b.data + j;
      float* to = packed + j * k;
      for (int64_t i = 0; i < k; ++i, from += b.row, to += panel_width) {
        for (int64_t p = 0; p < panels; ++p) {
          hwy::Prefetch(from + ahead * b.row + p * panel_width);
          hn::StoreU(hn::Mul(factor, hn::LoadU(d, from + p * panel_width)), d, to + p * k * panel_width);
        }
      }
      j += panels * panel_width;
    }
  }
  for (; j < n; j += panel_width) {
    const int64_t columns = std::min(panel_width, n - j);
    float* to = packed + j * k;
    if (columns < panel_width) std::fill(to, to + k * panel_width, 0.0F);
    const float* from = b.data + j * b.column;
    int64_t i0 = 0;
    if (has_eight && columns == panel_width && b.row == 1) {
      for (; i0 + 8 <= k; i0 += 8) {
        if (i0 % line == 0) {  // of the next panel
          for (int64_t c = 0; c < panel_width; ++c) hwy::Prefetch(from + (panel_width + c) * b.column + i0);
        }
        for (int64_t c = 0; c < panel_width; c += 8)
          transpose_eight(from + c * b.column + i0, b.column, alpha, to + i0 * panel_width + c);
      }
    }
    constexpr int64_t step = 16;  // lines of b that are read together
    for (; i0 < k; i0 += step) {
      const int64_t end = std::min(i0 + step, k);
      for (int64_t c = 0; c < columns; ++c) {
        const float* column = from + c * b.column;
        for (int64_t i = i0; i < end; ++i) to[i * panel_width + c] = alpha * column[i * b.row];
      }
    }
  }
}

// a's rows [0, m) and k as [panel][k][rows]. As many as `there` rows may be read.
void pack_rows(const MatrixView& a, int64_t m, int64_t there, int64_t k, float* packed) {
  const hn::CappedTag<float, tile_rows <= 8 ? 8 : 16> d;
  const auto vector = static_cast<int64_t>(hn::Lanes(d));
  const int64_t panel = k * tile_rows;
  // Where a vector is as wide as a panel or wider, what it writes too much is written again with the next k.
  const bool fits = a.row == 1 && vector >= tile_rows && there >= vector;
  const int64_t whole = fits ? std::min(m / tile_rows, (there - vector) / tile_rows + 1) : 0;
  for (int64_t j = 0; j + 1 < k && whole > 0; ++j) {
    const float* from = a.data + j * a.column;
    float* to = packed + j * tile_rows;
    for (int64_t p = 0; p < whole; ++p) hn::StoreU(hn::LoadU(d, from + p * tile_rows), d, to + p * panel);
  }
  for (int64_t p = 0; p * tile_rows < m; ++p) {
    const int64_t rows = std::min<int64_t>(tile_rows, m - p * tile_rows);
    const float* from = a.data + p * tile_rows * a.row;
    float* to = packed + p * panel;
    for (int64_t j = p < whole ? k - 1 : 0; j < k; ++j) {
      for (int64_t r = 0; r < rows; ++r) to[j * tile_rows + r] = from[j * a.column + r * a.row];
    }
  }
}

// Tiles of y at columns [j, j + columns) and rows [0, m): one panel of b, or two next to each other.
class ColumnOfTiles {
 public:
  ColumnOfTiles(const GemmBlock& g, int64_t columns, const float* b, int64_t b_k, int64_t b_panel, int64_t k)
      : g_(g), columns_(columns), panels_(columns > panel_width ? 2 : 1), b_(b) {
    tile_.block = k;
    tile_.b_k = b_k;
    tile_.b_panel = b_panel;
    tile_.start_panel = tile_.y_panel = panel_width;
    partly_ = columns % panel_width != 0 || g.y_column != 1 || (g.start.data && g.start.column != 1);
  }

  // What is done behind the sums: `beside` and `sums` are of the first row.
  void set_behind(const MatrixView& beside, float* sums) {
    tile_.behind = g_.behind;
    tile_.beside_row = beside.row;
    beside_ = beside;
    sums_ = sums;
    partly_ = partly_ || (beside.data && beside.column != 1);
  }

  // `packed`: rows of a as pack_rows leaves them; nullptr: as they lie. `start`, y: of the first row.
  void run(int64_t m, const MatrixView& a, const float* packed, const MatrixView& start, float* y) {
    tile_.a_row = a.row;
    tile_.a_k = a.column;
    for (int64_t i = 0; i < m; i += tile_rows) {
      const auto rows = static_cast<int>(std::min<int64_t>(tile_rows, m - i));
      const float* x = packed ? packed + i * tile_.block : a.data + i * a.row;
      TileFunction multiply = packed             ? (panels_ == 2 ? packed2[rows - 1] : packed1[rows - 1])
                              : tile_.a_k == 1   ? (panels_ == 2 ? near2[rows - 1] : near1[rows - 1])
                              : tile_.a_row == 1 ? (panels_ == 2 ? along2[rows - 1] : along1[rows - 1])
                                                 : (panels_ == 2 ? far2[rows - 1] : far1[rows - 1]);
      float* sums = sums_ ? sums_ + i / tile_rows * g_.sums_row : nullptr;
      if (partly_) {
        run_partly(multiply, rows, x, start.from(i, 0), beside_.from(i, 0), sums, y + i * g_.y_row);
        continue;
      }
      tile_.beside = beside_.from(i, 0).data;
      tile_.sums = sums;
      tile_.start_row = start.row;
      tile_.y_row = g_.y_row;
      tile_.next_y = i + rows < m ? y + (i + rows) * g_.y_row : y + columns_;
      multiply(tile_, x, b_, start.data ? start.data + i * start.row : nullptr, y + i * g_.y_row);
    }
  }

 private:
  static constexpr auto packed1 = tiles<1, tile_rows, 1>, packed2 = tiles<2, tile_rows, 1>;
  static constexpr auto near1 = tiles<1, 1, 0>, near2 = tiles<2, 1, 0>;
  static constexpr auto along1 = tiles<1, 0, 1>, along2 = tiles<2, 0, 1>;
  static constexpr auto far1 = tiles<1, 0, 0>, far2 = tiles<2, 0, 0>;

  // By way of a whole tile, of which only a part is y's or whose columns are not neighbours.
  void run_partly(TileFunction multiply, int rows, const float* a, const MatrixView& start, const MatrixView& beside,
                  float* sums, float* y) {
    float whole[tile_rows * widest], whole_beside[tile_rows * widest], whole_sums[widest];
    tile_.next_y = whole;
    tile_.start_row = tile_.y_row = tile_.beside_row = widest;
    if (start.data) widen(start, rows, whole);
    if (beside.data) widen(beside, rows, whole_beside);
    tile_.beside = whole_beside;
    tile_.sums = sums ? whole_sums : nullptr;
    multiply(tile_, a, b_, start.data ? whole : nullptr, whole);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns_; ++c) y[r * g_.y_row + c * g_.y_column] = whole[r * widest + c];
    }
    if (sums) std::copy_n(whole_sums, columns_, sums);
  }

  // The columns that there are, and zeros.
  void widen(const MatrixView& x, int64_t rows, float* whole) const {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns_; ++c) whole[r * widest + c] = x.data[r * x.row + c * x.column];
      std::fill(whole + r * widest + columns_, whole + (r + 1) * widest, 0.0F);
    }
  }

  const GemmBlock& g_;
  int64_t columns_;
  int panels_;
  const float* b_;
  Tile tile_;
  MatrixView beside_;
  float* sums_ = nullptr;
  bool partly_;
};

// Into the second cache; the first has a panel of b.
HWY_INLINE void fetch_rows(const MatrixView& a, int64_t rows, int64_t k) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < k; i += line) __builtin_prefetch(a.data + r * a.row + i, 0, 2);
  }
}

void gemm_blocked(const GemmBlock& g, float* scratch) {
  static_assert(m_block % tile_rows == 0, "sums are those of whole tiles");
  float* packed_b = scratch;
  // Where each element of b, or of a, is used by one tile only, packing it would be the whole work again.
  const bool b_as_it_lies = g.m <= tile_rows && g.b.column == 1 && g.alpha == 1;
  const bool a_as_it_lies = g.a.column == 1 || g.m <= tile_rows || (g.a.row == 1 && g.n <= widest);
  const int64_t k_blocks = std::max<int64_t>((g.k + k_block - 1) / k_block, 1);
  const int64_t k_step = std::max<int64_t>((g.k + k_blocks - 1) / k_blocks, 1);
  float* packed_a = scratch + packed_columns(g.n) * k_step;
  for (int64_t n0 = 0; n0 < g.n; n0 += n_block) {
    const int64_t n = std::min(n_block, g.n - n0);
    for (int64_t k0 = 0; k0 == 0 || k0 < g.k; k0 += k_step) {
      const int64_t k = std::min(k_step, g.k - k0);
      const MatrixView b = g.b.from(k0, n0);
      // Vectors must not reach beyond b's end.
      const int64_t direct = b_as_it_lies ? n / panel_width * panel_width : 0;
      if (direct < n) pack_panels(b.from(0, direct), k, n - direct, g.alpha, packed_b);
      const MatrixView start = k0 > 0 ? MatrixView{g.y + n0 * g.y_column, g.y_row, g.y_column} : g.start.from(0, n0);
      for (int64_t m0 = 0; m0 < g.m; m0 += m_block) {
        const int64_t m = std::min(m_block, g.m - m0);
        const MatrixView a = g.a.from(m0, k0);
        if (!a_as_it_lies) pack_rows(a, m, g.m - m0, k, packed_a);
        for (int64_t j = 0; j < n;) {
          const bool lies = j < direct;
          const int64_t columns = std::min(widest, (lies ? direct : n) - j);
          // The next rows of a are on their way while these are multiplied.
          const int64_t next = std::min(m_block, g.m - m0 - m);
          if (a.column == 1) fetch_rows(a.from(m + next * j / n, 0), next * (j + columns) / n - next * j / n, k);
          const float* panels = lies ? b.data + j : packed_b + (j - direct) * k;
          ColumnOfTiles column(g, columns, panels, lies ? b.row : panel_width, lies ? panel_width : k * panel_width, k);
          if (g.behind != GemmBehind::nothing && k0 + k_step >= g.k) {
            column.set_behind(g.beside.from(m0, n0 + j),
                              g.sums ? g.sums + m0 / tile_rows * g.sums_row + n0 + j : nullptr);
          }
          column.run(m, a, a_as_it_lies ? nullptr : packed_a, start.from(m0, j),
                     g.y + m0 * g.y_row + (n0 + j) * g.y_column);
          j += columns;
        }
      }
    }
  }
}

// y[i, j] = start + alpha sum_k a[i, k] b[k, j] with neighbouring k in both: a few rows of a along vectors of k.
template <int rows, int columns>
void dot_tile(const GemmBlock& g, int64_t i, int64_t j) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  using V = hn::Vec<decltype(d)>;
  V sum[rows][columns];
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) sum[r][c] = hn::Zero(d);
  }
  const float* a = g.a.data + i * g.a.row;
  const float* b = g.b.data + j * g.b.column;
  int64_t k = 0;
  for (; k + lanes <= g.k; k += lanes) {
    for (int r = 0; r < rows; ++r) {
      const V x = hn::LoadU(d, a + r * g.a.row + k);
      for (int c = 0; c < columns; ++c) sum[r][c] = hn::MulAdd(x, hn::LoadU(d, b + c * g.b.column + k), sum[r][c]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      float total = hn::GetLane(hn::SumOfLanes(d, sum[r][c]));
      for (int64_t rest = k; rest < g.k; ++rest) total += a[r * g.a.row + rest] * b[c * g.b.column + rest];
      const float start = g.start.data ? g.start.data[(i + r) * g.start.row + (j + c) * g.start.column] : 0;
      g.y[(i + r) * g.y_row + (j + c) * g.y_column] = start + g.alpha * total;
    }
  }
}

// What is done behind the sums, where tiles did not.
void finish_rows(const GemmBlock& g) {
  if (g.behind == GemmBehind::nothing) return;
  const hn::CappedTag<float, 1> one;
  for (int64_t i = 0; i < g.m; ++i) {
    float* sums = g.sums ? g.sums + i / tile_rows * g.sums_row : nullptr;
    for (int64_t j = 0; j < g.n; ++j) {
      float& y = g.y[i * g.y_row + j * g.y_column];
      y = hn::GetLane(finished(one, g.behind, hn::Set(one, y), g.beside.from(i, j).data));
      if (sums) sums[j] = i % tile_rows == 0 ? y : sums[j] + y;
    }
  }
}

template <int rows>
void dot_row(const GemmBlock& g, int64_t i) {
  int64_t j = 0;
  for (; j + 4 <= g.n; j += 4) dot_tile<rows, 4>(g, i, j);
  for (; j < g.n; ++j) dot_tile<rows, 1>(g, i, j);
}

void gemm_here(const GemmBlock& g, float* scratch) {
  constexpr int64_t few = 3;  // rows
  const int64_t whole_m = std::max(g.whole_m, g.m), whole_n = std::max(g.whole_n, g.n);
  if (whole_m <= few && g.a.column == 1 && g.b.row == 1 && g.b.column != 1) {
    int64_t i = 0;
    for (; i + 2 <= g.m; i += 2) dot_row<2>(g, i);
    if (i < g.m) dot_row<1>(g, i);
    return finish_rows(g);
  }
  // The larger of two transposed operands is read as it lies when it takes the part of a.
  const bool swap = g.b.row == 1 && g.b.column != 1 && 4 * whole_m <= whole_n;
  if (!swap) return gemm_blocked(g, scratch);
  GemmBlock t{g.n, g.m,        g.k,     g.b.transposed(), g.a.transposed(), g.start.transposed(),
              g.y, g.y_column, g.y_row, g.alpha};
  gemm_blocked(t, scratch);
  finish_rows(g);
}

int64_t row_step() { return tile_rows; }
int64_t column_step() { return widest; }

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(gemm_here);
HWY_EXPORT(row_step);
HWY_EXPORT(column_step);

int64_t gemm_registers_scratch(int64_t m, int64_t n, int64_t k) {
  return (packed_columns(std::max(m, n)) + 2 * m_block) * std::min(k, k_block);  // m and n may change places
}
void gemm_in_registers(const GemmBlock& block, float* scratch) { HWY_DYNAMIC_DISPATCH(gemm_here)(block, scratch); }

namespace {

bool fits_tiles(const GemmBlock& g) { return gemm_fits_tiles(std::max(g.whole_m, g.m), std::max(g.whole_n, g.n), g.k); }

}  // namespace

int64_t gemm_scratch(int64_t m, int64_t n, int64_t k) {
  const int64_t tiles = gemm_fits_tiles(m, n, k) ? gemm_tiles_scratch(m, n, k) : 0;
  return std::max(tiles, gemm_registers_scratch(m, n, k));
}

void gemm(const GemmBlock& block, float* scratch) {
  if (fits_tiles(block)) gemm_on_tiles(TilesBlock(block), scratch);
  else gemm_in_registers(block, scratch);
}

GemmSteps gemm_steps(const GemmBlock& whole) {
  if (fits_tiles(whole)) return {gemm_tiles_step, gemm_tiles_step};
  return {HWY_DYNAMIC_DISPATCH(row_step)(), HWY_DYNAMIC_DISPATCH(column_step)()};
}

bool gemm_splits_columns(const GemmBlock& whole, int64_t threads) {
  if (fits_tiles(whole)) return whole.n > whole.m;
  const bool wide = whole.n >= 2 * threads * gemm_steps(whole).columns, near_a = whole.a.column == 1;
  return whole.n >= whole.m || (wide && near_a);
}

GemmRange gemm_range(int64_t m, int64_t n, const GemmSteps& steps, bool splits_columns, int64_t thread,
                     int64_t threads) {
  const int64_t total = splits_columns ? n : m, step = splits_columns ? steps.columns : steps.rows;
  const int64_t count = (total + step - 1) / step;
  const int64_t first = std::min(total, count * thread / threads * step);
  const int64_t last = std::min(total, count * (thread + 1) / threads * step);
  if (splits_columns) return {0, first, m, last - first};
  return {first, 0, last - first, n};
}

GemmBlock gemm_part(const GemmBlock& whole, bool splits_columns, int64_t thread, int64_t threads) {
  const GemmSteps steps = gemm_steps(whole);
  const auto [row, column, m, n] = gemm_range(whole.m, whole.n, steps, splits_columns, thread, threads);
  GemmBlock part = whole;
  part.m = m;
  part.n = n;
  part.a = part.a.from(row, 0);
  part.b = part.b.from(0, column);
  part.start = part.start.from(row, column);
  part.y += row * part.y_row + column * part.y_column;
  part.beside = part.beside.from(row, column);
  if (part.sums) part.sums += row / steps.rows * part.sums_row + column;
  return part;
}

}  // namespace graft
#endif
