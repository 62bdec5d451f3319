// Tiles multiply bfloat16, with float32 sums. A float32 is the sum of three bfloat16 without any rounding, x = x0 + x1
// + x2 with 8 bits of the significand in each; of the nine products of the parts of a and b, x1 y2, x2 y1 and x2 y2 are
// below 2^-26 of a b and left out. Six products on tiles take about two thirds of the time of one in vector registers,
// and round less often. See Henry, Tang & Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
// Higher-Precision Computations" (2019).
#include "ops/gemm_tiles.h"

#include <algorithm>

#include "runtime/device/device.h"

// As in bfloat16_gemm.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm_tiles.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/float_parts-inl.h"
#include "ops/matrix_tiles-inl.h"
#include "ops/tile-inl.h"

#ifndef GRAFT_OPS_GEMM_TILES_SIZES
#define GRAFT_OPS_GEMM_TILES_SIZES
namespace graft {

constexpr int64_t side = gemm_tiles_step;
constexpr int64_t steps_together = 4;  // whose tiles of a stay in the first cache
constexpr int64_t kept = 160 * 1024;   // of b, as parts in the second cache: floats
constexpr int64_t longest_k = 2048;
// Rows of a that are brought into tiles together: where rows are neighbours, whole cache lines and more.
constexpr int64_t near_rows = side, along_rows = 2 * side;

// Scratch for some rows of a, columns of b and k at a time: where each of its pieces begins, in floats.
struct Room {
  // At most: whole tiles.
  Room(int64_t m, int64_t n, int64_t k) {
    constexpr int64_t halves = 2;  // bfloat16 in a float
    const int64_t turned_tiles = std::max(k / tile_k, m / tile_side);
    turned = side * n;
    a = turned + turned_tiles * float_parts * tile_size / halves;
    b = a + m * k * float_parts / halves;
    plain = b + std::min(kept, n * k) * float_parts / halves;
    end = plain + 2 * side * k + gemm_registers_scratch(side, side, k);
  }
  int64_t floats() const { return end + line_floats; }  // with what aligns it

  // Behind the sums of 32 rows.
  int64_t turned, a, b, plain, end;
};

}  // namespace graft
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

#ifdef GRAFT_TILES

// Whether parts of values up to these can be multiplied as if they were whole. What is infinite or NaN has no parts,
// and tiles take what is below 2^-126 for zero: the last bits of values below 2^-102.
bool fit_parts(float a, float b) {
  constexpr float smallest = 0x1p-80F, largest = 0x1p120F;
  const bool finite = a <= largest && b <= largest && a * b <= largest;
  return finite && (a == 0 || b == 0 || (a >= smallest && b >= smallest && a * b >= smallest));
}

constexpr int64_t row_bytes = tile_k * sizeof(BFloat16);

template <bool tall>
GRAFT_TILES HWY_INLINE void load_a(const BFloat16* a) {
  _tile_loadd(4, a, row_bytes);
  if constexpr (tall) _tile_loadd(5, a + tile_size, row_bytes);
}
template <bool wide>
GRAFT_TILES HWY_INLINE void load_b(const BFloat16* b) {
  _tile_loadd(6, b, row_bytes);
  if constexpr (wide) _tile_loadd(7, b + tile_size, row_bytes);
}
template <bool tall, bool wide>
GRAFT_TILES HWY_INLINE void add_product() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (wide) _tile_dpbf16ps(1, 4, 7);
  if constexpr (tall) _tile_dpbf16ps(2, 5, 6);
  if constexpr (tall && wide) _tile_dpbf16ps(3, 5, 7);
}

// Lines of the caches that are wanted soon, row by row.
class Soon {
 public:
  Soon() = default;
  // Of `rows` rows of `columns` floats each.
  Soon(const float* data, int64_t row, int64_t rows, int64_t columns)
      : row_(data), at_(data), end_(data + columns), step_(row), rows_(rows), columns_(columns) {}

  // The next line, if there is one.
  HWY_INLINE void fetch() {
    if (rows_ <= 0) return;
    __builtin_prefetch(at_, 0, 2);
    at_ += line_floats;
    if (at_ < end_) return;
    --rows_;
    row_ += step_;
    at_ = row_;
    end_ = row_ + columns_;
  }

 private:
  const float *row_ = nullptr, *at_ = nullptr, *end_ = nullptr;
  int64_t step_ = 0, rows_ = 0, columns_ = 0;
};

// y (32 x 32, tiles of it where there are fewer rows or columns) [+]= a b over `steps` of 32 k.
template <bool tall, bool wide>
GRAFT_TILES HWY_NOINLINE void multiply_parts(const BFloat16* a, const BFloat16* b, int64_t steps, float* y, bool adds,
                                             Soon& soon) {
  constexpr int64_t part = 2 * tile_size;
  begin_sums<tall, wide>(y, side, adds);
  // The smaller products first, each step with one operand of the last.
  for (int64_t t = 0; t < steps; ++t, a += step_size, b += step_size) {
    load_a<tall>(a + 2 * part), load_b<wide>(b), add_product<tall, wide>(), soon.fetch();
    load_a<tall>(a + part), add_product<tall, wide>(), soon.fetch();
    load_b<wide>(b + part), add_product<tall, wide>(), soon.fetch();
    load_a<tall>(a), add_product<tall, wide>(), soon.fetch();
    load_b<wide>(b + 2 * part), add_product<tall, wide>(), soon.fetch();
    load_b<wide>(b), add_product<tall, wide>(), soon.fetch();
  }
  end_sums<tall, wide>(y, side);
}

using MultiplyParts = void (*)(const BFloat16*, const BFloat16*, int64_t, float*, bool, Soon&);
MultiplyParts multiply_function(bool tall, bool wide) {
  if (tall) return wide ? multiply_parts<true, true> : multiply_parts<true, false>;
  return wide ? multiply_parts<false, true> : multiply_parts<false, false>;
}

class SplitProduct {
 public:
  SplitProduct(const TilesBlock& g, float* scratch) : g_(g), blocking_(std::max(g.whole_n, g.n), g.k) {
    const Room room(m_step(), std::min(blocking_.n, tiles_over(g.n, side) * side), blocking_.k);
    sums_ = at_line(scratch);
    turned_ = reinterpret_cast<BFloat16*>(sums_ + room.turned);
    a_ = reinterpret_cast<BFloat16*>(sums_ + room.a);
    b_ = reinterpret_cast<BFloat16*>(sums_ + room.b);
    plain_ = sums_ + room.plain;
  }

  GRAFT_TILES void run() {
    static constexpr TileShapes shapes;
    _tile_loadconfig(&shapes);
    for (n0_ = 0; n0_ < g_.n; n0_ += blocking_.n) {
      n_ = std::min(blocking_.n, g_.n - n0_);
      for (k0_ = 0; k0_ < g_.k; k0_ += blocking_.k) {
        k_ = std::min(blocking_.k, g_.k - k0_);
        Packing<false>(g_.b.from(k0_, n0_).transposed(), n_, k_, g_.alpha, b_, turned_).run(largest_b_);
        for (int64_t i = 0; i < g_.m; i += m_step()) {
          const int64_t m = std::min(m_step(), g_.m - i);
          Packing<true>(g_.a.from(i, k0_), m, k_, 1, a_, turned_).run(largest_a_);
          soon_ = soon(i + m, std::min(m_step(), g_.m - i - m));
          for (int64_t r = 0; r < m; r += side) multiply_rows(i, r, std::min(side, m - r));
        }
      }
    }
    _tile_release();
  }

 private:
  // How many columns and k at a time: b's parts stay in the cache, a has to be brought into tiles again for other
  // columns, y to be read again for other k.
  struct Blocking {
    int64_t n = 0, k = 0;
    Blocking(int64_t all_n, int64_t all_k) {
      constexpr int64_t most_blocks = 8, cost_of_a = 2, cost_of_y = 3;
      int64_t best = 0;
      for (int64_t blocks = tiles_over(all_k, longest_k), end = blocks + most_blocks; blocks < end; ++blocks) {
        const int64_t k_step = tiles_over(tiles_over(all_k, blocks), tile_k) * tile_k;
        const int64_t most = std::min(most_float_lines, kept / k_step / side * side),
                      n_blocks = tiles_over(all_n, most);
        const int64_t cost = cost_of_a * n_blocks * all_k + cost_of_y * blocks * all_n;
        if (k > 0 && cost >= best) continue;
        best = cost;
        k = k_step;
        n = tiles_over(tiles_over(all_n, n_blocks), side) * side;
      }
    }
  };

  // Of a, that are brought into tiles together.
  int64_t m_step() const {
    const int64_t rows = g_.a.near_rows() ? near_rows : along_rows;
    return std::min(rows, tiles_over(g_.m, side) * side);
  }
  // Of a, what is brought into tiles next.
  Soon soon(int64_t i, int64_t m) const {
    if (m <= 0) return {};
    const float* from = g_.a.at(i, k0_);
    const int64_t lines = g_.a.near_rows() ? m : k_, across = g_.a.near_rows() ? k_ : m;
    if (g_.a.panel != tile_side) return {from, g_.a.panel, tiles_over(across, tile_side), lines * tile_side};
    return {from, g_.a.row, lines, across};
  }
  int64_t panel_size() const { return tiles_over(k_, tile_k) * step_size; }

  // `m` rows of y from row i + r on, and columns [n0, n0 + n).
  void multiply_rows(int64_t i, int64_t r, int64_t m) {
    const int64_t panel = panel_size(), steps = tiles_over(k_, tile_k);
    const BFloat16* a = a_ + r / side * panel;
    const bool adds = k0_ > 0;
    if (adds) take(i + r, m, 0, n_);
    for (int64_t t = 0; t < steps; t += steps_together) {
      const int64_t together = std::min(steps_together, steps - t);
      for (int64_t j = 0; j < n_; j += side) {
        const auto multiply = multiply_function(m > tile_side, n_ - j > tile_side);
        multiply(a + t * step_size, b_ + j / side * panel + t * step_size, together, sums_ + j * side, adds || t > 0,
                 soon_);
      }
    }
    for (int64_t j = 0; j < n_; j += side) {
      if (!fit_parts(largest_a_[r / side], largest_b_[j / side])) multiply_whole(i + r, j, m);
    }
    give(i + r, m);
  }

  // Sums without parts.
  HWY_NOINLINE void multiply_whole(int64_t i, int64_t j, int64_t m) {
    const int64_t n = std::min(side, n_ - j);
    float *a = plain_, *b = a + side * k_;
    for (int64_t k = 0; k < k_; ++k) {
      for (int64_t r = 0; r < m; ++r) a[r * k_ + k] = *g_.a.at(i + r, k0_ + k);
      for (int64_t c = 0; c < n; ++c) b[k * n + c] = *g_.b.at(k0_ + k, n0_ + j + c);
    }
    float* sums = sums_ + j * side;
    if (k0_ > 0) take(i, m, j, n);
    gemm_in_registers({.m = m,
                       .n = n,
                       .k = k_,
                       .a = {a, k_, 1},
                       .b = {b, n, 1},
                       .start = k0_ > 0 ? MatrixView{sums, side, 1} : MatrixView{},
                       .y = sums,
                       .y_row = side,
                       .alpha = g_.alpha},
                      b + side * k_);
  }

  float* y(int64_t i, int64_t j) const { return const_cast<float*>(g_.y.at(i, j)); }
  float& sum(int64_t r, int64_t j) const { return sums_[j / side * side * side + r * side + j % side]; }

  // What y has of sums of the k before, from column n0 + j on.
  void take(int64_t i, int64_t m, int64_t j, int64_t n) {
    const Floats d;
    for (int64_t r = 0; r < m; ++r) {
      const float* row = y(i + r, n0_);
      for (int64_t c = j; c < j + n; c += tile_side) {
        if (g_.y.near_rows() && j + n - c >= tile_side) {
          hn::StoreU(hn::LoadU(d, row + c / tile_side * g_.y.panel), d, &sum(r, c));
        } else {
          for (int64_t e = c; e < std::min(c + tile_side, j + n); ++e) sum(r, e) = *y(i + r, n0_ + e);
        }
      }
    }
  }

  // y = sums [+ start, and what is done behind that].
  void give(int64_t i, int64_t m) const {
    const bool last = k0_ + k_ == g_.k, sums_rows = last && g_.sums;
    const GemmBehind behind = last ? g_.behind : GemmBehind::nothing;
    const auto near = [](const TilesView& x) { return !x.data || x.near_rows(); };
    const bool vectors = near(g_.y) && near(g_.beside) && (!g_.start.data || g_.start.column == 1);
    const int64_t whole = vectors ? n_ / tile_side * tile_side : 0;
    float* total = sums_rows ? g_.sums + i / side * g_.sums_row + n0_ : nullptr;
    if (total) std::fill_n(total, n_, 0.0F);
    for (int64_t r = 0; r < m; ++r) {
      const MatrixView start = last ? g_.start.from(i + r, n0_) : MatrixView{};
      const float* beside = g_.beside.data ? g_.beside.at(i + r, n0_) : nullptr;
      float* row = y(i + r, n0_);
      for (int64_t j = 0; j < whole; j += tile_side) {
        const int64_t panel = j / tile_side;
        give<Floats>(&sum(r, j), start.from(0, j).data, behind, beside ? beside + panel * g_.beside.panel : nullptr,
                     row + panel * g_.y.panel, total ? total + j : nullptr);
      }
      for (int64_t j = whole; j < n_; ++j) {
        float* to = y(i + r, n0_ + j);
        give<hn::CappedTag<float, 1>>(&sum(r, j), start.from(0, j).data, behind,
                                      beside ? g_.beside.at(i + r, n0_ + j) : nullptr, to, total ? total + j : nullptr);
      }
    }
  }

  // One vector, which is added to `total` where there is one.
  template <class D>
  static HWY_INLINE void give(const float* sums, const float* start, GemmBehind behind, const float* beside, float* y,
                              float* total) {
    const D d;
    auto x = hn::LoadU(d, sums);
    if (start) x = hn::Add(x, hn::LoadU(d, start));
    x = finished(d, behind, x, beside);
    hn::StoreU(x, d, y);
    if (total) hn::StoreU(hn::Add(hn::LoadU(d, total), x), d, total);
  }

  const TilesBlock& g_;
  Blocking blocking_;
  float* sums_;  // of 32 rows, in panels of 32 columns
  BFloat16 *turned_, *a_, *b_;
  float* plain_;  // scratch of multiply_whole
  Soon soon_;     // what a_ is filled with next
  int64_t n0_ = 0, n_ = 0, k0_ = 0, k_ = 0;
  float largest_a_[along_rows / side], largest_b_[most_float_lines / side];
};

void on_tiles(const TilesBlock& g, float* scratch) { SplitProduct(g, scratch).run(); }

#else

void on_tiles(const TilesBlock&, float*) {}

#endif

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(on_tiles);

bool gemm_fits_tiles(int64_t m, int64_t n, int64_t k) {
  constexpr int64_t least_k = 2 * tile_k, least_side = 64;
  constexpr double least_uses = 80;  // of each value of a and b, on average
  if (!has_matrix_tiles() || std::min(m, n) < least_side || k < least_k) return false;
  return 1 / least_uses >= 1 / static_cast<double>(m) + 1 / static_cast<double>(n);
}

int64_t gemm_tiles_scratch(int64_t m, int64_t n, int64_t k) {
  const auto whole = [](int64_t extent, int64_t most) { return std::min(tiles_over(extent, side) * side, most); };
  return Room(whole(m, along_rows), whole(n, most_float_lines), whole(k, longest_k)).floats();
}

TilesBlock::TilesBlock(const GemmBlock& g)
    : m(g.m),
      n(g.n),
      k(g.k),
      a(g.a),
      b(g.b),
      start(g.start),
      y(MatrixView{g.y, g.y_row, g.y_column}),
      alpha(g.alpha),
      whole_n(g.whole_n),
      behind(g.behind),
      beside(g.beside),
      sums(g.sums),
      sums_row(g.sums_row) {}

void gemm_on_tiles(const TilesBlock& block, float* scratch) { HWY_DYNAMIC_DISPATCH(on_tiles)(block, scratch); }

}  // namespace graft
#endif
