// Tiles of float32 in three bfloat16 parts, which the CPU's matrix units (AMX) multiply: see ops/gemm_tiles.cpp.
// Included once for every instruction set, from files that Highway's foreach_target.h compiles again and again.
#if defined(GRAFT_OPS_FLOAT_PARTS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GRAFT_OPS_FLOAT_PARTS_INL_H
#undef GRAFT_OPS_FLOAT_PARTS_INL_H
#else
#define GRAFT_OPS_FLOAT_PARTS_INL_H
#endif

#include <hwy/highway.h>

#include <algorithm>

#include "ops/gemm_tiles.h"
#include "ops/matrix_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

#ifdef GRAFT_TILES

constexpr int64_t panel_lines = gemm_tiles_step;
constexpr int64_t step_size = float_parts * 2 * tile_size;  // of a panel of lines and 32 k: elements

using Floats = hn::CappedTag<float, tile_side>;
using V = hn::Vec<Floats>;

// The parts of 32 floats: those of `first` in the lower halves of pairs, of `second` in the upper ones.
struct Parts {
  PairsOf16 part[float_parts];
};

HWY_INLINE V high_half(V x) {
  const Pairs d;
  const auto rounded = hn::Add(hn::BitCast(d, x), hn::Set(d, 0x8000));
  return hn::BitCast(Floats(), hn::And(rounded, hn::Set(d, 0xffff0000)));
}

HWY_INLINE Parts split(V first, V second) {
  const Pairs d;
  Parts to;
#pragma GCC unroll 4
  for (int64_t p = 0; p < float_parts; ++p) {
    // What is left for the last part has no more than 8 bits.
    const V low = p + 1 < float_parts ? high_half(first) : first,
            high = p + 1 < float_parts ? high_half(second) : second;
    to.part[p] = hn::Or(hn::ShiftRight<16>(hn::BitCast(d, low)), hn::BitCast(d, high));
    first = hn::Sub(first, low);
    second = hn::Sub(second, high);
  }
  return to;
}

HWY_INLINE PairsOf16 without_sign(V x) { return hn::And(hn::BitCast(Pairs(), x), hn::Set(Pairs(), 0x7fffffff)); }

// Brings lines, which are rows of a or columns of b, and `k` of each into tiles, [panels of 32 lines][steps of 32
// k][float_parts][2][tile]. In a tile of a each line is a row, in one of b a column of pairs; pairs are of k and k
// + 16.
template <bool of_a>
class Packing {
 public:
  // `turned`: scratch.
  Packing(const TilesView& from, int64_t lines, int64_t k, float factor, BFloat16* to, BFloat16* turned)
      : from_(from), lines_(lines), k_(k), factor_(factor), to_(to), turned_(turned) {}

  // `largest`: of each panel the largest value without its sign; NaN is larger than all others.
  HWY_NOINLINE void run(float* largest) {
    if (from_.near_columns()) along(largest);
    else near(largest);
  }

 private:
  static constexpr int64_t part_step = 2 * tile_size;

  int64_t steps() const { return tiles_over(k_, tile_k); }
  BFloat16* tile(int64_t group, int64_t step) const {
    return to_ + (group / 2 * steps() + step) * step_size + group % 2 * tile_size;
  }
  static HWY_INLINE void keep(const Parts& x, BFloat16* to, int64_t step) {
#pragma GCC unroll 4
    for (int64_t p = 0; p < float_parts; ++p)
      hn::StoreU(x.part[p], Pairs(), reinterpret_cast<uint32_t*>(to + p * step));
  }
  static HWY_INLINE void turn(const BFloat16* from, BFloat16* to) {
    for (int64_t p = 0; p < float_parts; ++p) transpose_tile<false>(from + p * tile_size, tile_k, to + p * part_step);
  }
  static void give(PairsOf16 bits, float* largest) {
    const float x = hn::GetLane(hn::BitCast(Floats(), hn::MaxOfLanes(Pairs(), bits)));
    if (!(x <= *largest)) *largest = x;
  }

  // Line by line, as they lie in memory.
  void near(float* largest) {
    const Floats d;
    const auto scale = hn::Set(d, factor_);
    for (int64_t i = 0; i < lines_; ++i) {
      const int64_t group = i / tile_side, row = i % tile_side * tile_k;
      PairsOf16 bits = hn::Zero(Pairs());
      const float* line = from_.at(i, 0);
      for (int64_t t = 0; t < steps(); ++t) {
        const int64_t there = k_ - t * tile_k;
        V first, second;
        if (HWY_LIKELY(from_.near_rows() && there >= tile_k)) {
          first = hn::LoadU(d, line + 2 * t * from_.panel);
          second = hn::LoadU(d, line + (2 * t + 1) * from_.panel);
        } else {
          float copy[tile_k] = {};
          for (int64_t j = 0; j < std::min(there, tile_k); ++j) copy[j] = *from_.at(i, t * tile_k + j);
          first = hn::LoadU(d, copy);
          second = hn::LoadU(d, copy + tile_side);
        }
        first = hn::Mul(scale, first), second = hn::Mul(scale, second);
        bits = hn::Max(bits, hn::Max(without_sign(first), without_sign(second)));
        if constexpr (of_a) keep(split(first, second), tile(group, t) + row, part_step);
        else keep(split(first, second), turned_ + t * float_parts * tile_size + row, tile_size);
      }
      if (i % panel_lines == 0) largest[i / panel_lines] = 0;
      give(bits, largest + i / panel_lines);
      if (!of_a && (i + 1 == lines_ || (i + 1) % tile_side == 0)) {
        for (int64_t t = 0; t < steps(); ++t) turn(turned_ + t * float_parts * tile_size, tile(group, t));
      }
    }
  }

  // k by k.
  void along(float* largest) {
    const Floats d;
    const auto scale = hn::Set(d, factor_);
    const int64_t groups = tiles_over(lines_, tile_side);
    PairsOf16 bits[most_float_lines / tile_side];
    for (int64_t g = 0; g < groups; ++g) bits[g] = hn::Zero(Pairs());
    for (int64_t t = 0; t < steps(); ++t) {
      for (int64_t i = 0; i < tile_side; ++i) {
        const int64_t k = t * tile_k + i;
        const bool there = k < k_, both = k + tile_side < k_;
        const float *low = from_.at(0, k), *high = from_.at(0, k + tile_side);
        for (int64_t g = 0; g < groups; ++g) {
          const auto lines = static_cast<size_t>(std::min(lines_ - g * tile_side, tile_side));
          V first = there ? hn::MaskedLoad(hn::FirstN(d, lines), d, low + g * from_.panel) : hn::Zero(d);
          V second = both ? hn::MaskedLoad(hn::FirstN(d, lines), d, high + g * from_.panel) : hn::Zero(d);
          first = hn::Mul(scale, first), second = hn::Mul(scale, second);
          bits[g] = hn::Max(bits[g], hn::Max(without_sign(first), without_sign(second)));
          if constexpr (of_a) keep(split(first, second), turned_ + g * float_parts * tile_size + i * tile_k, tile_size);
          else keep(split(first, second), tile(g, t) + i * tile_k, part_step);
        }
      }
      if constexpr (of_a) {
        for (int64_t g = 0; g < groups; ++g) turn(turned_ + g * float_parts * tile_size, tile(g, t));
      }
    }
    for (int64_t g = 0; g < groups; ++g) {
      if (g % 2 == 0) largest[g / 2] = 0;
      give(bits[g], largest + g / 2);
    }
  }

  TilesView from_;
  int64_t lines_, k_;
  float factor_;
  BFloat16 *to_, *turned_;
};

#endif

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
