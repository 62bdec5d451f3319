#include "ops/pointwise_tiles.h"

#include <algorithm>

// As in bfloat16_gemm.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/pointwise_tiles.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/bfloat16-inl.h"
#include "ops/epilogue-inl.h"
#include "ops/matrix_tiles-inl.h"

#ifndef GRAFT_OPS_POINTWISE_TILES_SIZES
#define GRAFT_OPS_POINTWISE_TILES_SIZES
namespace graft {

constexpr int64_t most_pixels = 256;  // that are worked on together
constexpr int64_t block_side = 2 * tile_side;

constexpr int64_t pairs_of(int64_t blocks) { return tiles_over(blocks, 2); }

// Pixels of a source that are packed together: they stay in the first cache where that holds some dozens of them.
constexpr int64_t pixels_together(int64_t source_blocks) {
  constexpr int64_t elements = 12 * 1024;
  const int64_t fit = elements / (pairs_of(source_blocks) * tile_k) / block_side * block_side;
  return std::clamp(fit, block_side, most_pixels);
}

}  // namespace graft
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

#ifdef GRAFT_TILES

// Pixels from `begin` on, in tiles of 16 rows.
class Group {
 public:
  Group(const PixelMap& source, const PixelMap& result, int64_t begin, int64_t count)
      : source_(source), result_(result), count_(count), tiles_(tiles_over(count, tile_side)) {
    int64_t sample = begin / source.pixels, pixel = begin % source.pixels;
    for (int64_t i = 0; i < count; ++i) {
      from_[i] = source.data + sample * source.sample() + pixel * tile_side;
      to_[i] = result.data + sample * result.sample() + pixel * tile_side;
      if (++pixel == source.pixels) ++sample, pixel = 0;
    }
  }

  int64_t tiles() const { return tiles_; }

  // The source as [tiles][pairs of blocks][16 pixels][32 channels]. Rows without a pixel are left as they are: nobody
  // reads what becomes of them.
  void pack(BFloat16* packed) const {
    const hn::CappedTag<uint16_t, tile_side> d;
    const int64_t pairs = pairs_of(source_.blocks), step = source_.block();
    for (int64_t i = 0; i < count_; ++i) {
      const uint16_t* from = &from_[i]->bits;
      uint16_t* to = &packed[i / tile_side * pairs * tile_size + i % tile_side * tile_k].bits;
      for (int64_t b = 0; b < source_.blocks; ++b, from += step) {
        hn::StoreU(hn::LoadU(d, from), d, to + b / 2 * tile_size + b % 2 * tile_side);
      }
      if (source_.blocks % 2 != 0) hn::StoreU(hn::Zero(d), d, to + source_.blocks / 2 * tile_size + tile_side);
    }
  }

  // What a block of the result has of `rows` pixels from `first` on, from a column of float32 sums.
  void give(const float* sums, int64_t first, int64_t rows, int64_t block, const Finish<BFloat16>& finish) const {
    const hn::CappedTag<float, tile_side> d;
    const int64_t at = block * result_.block(), end = std::min(count_, first + rows), channel = block * tile_side;
    const auto channels = static_cast<size_t>(std::min(tile_side, result_.channels - channel));
    const auto bias = finish.bias ? hn::MaskedLoad(hn::FirstN(d, channels), d, finish.bias + channel) : hn::Zero(d);
    for (int64_t i = first; i < end; ++i, sums += block_side) {
      BFloat16* to = to_[i] + at;
      store(finished(d, hn::Add(hn::LoadU(d, sums), bias), finish, to - result_.data), d, to);
    }
  }

 private:
  const PixelMap &source_, &result_;
  int64_t count_, tiles_;
  BFloat16* from_[most_pixels];
  BFloat16* to_[most_pixels];
};

GRAFT_TILES void product(const PixelMap& source, const BFloat16* w, const Finish<BFloat16>& finish,
                         const PixelMap& result, int64_t begin, int64_t end, BFloat16* packed) {
  static constexpr TileShapes shapes;
  _tile_loadconfig(&shapes);
  alignas(64) float sums[block_side * block_side];
  const int64_t pairs = pairs_of(source.blocks), together = pixels_together(source.blocks);
  const int64_t panel = pairs * tile_size;
  constexpr int64_t row_bytes = tile_k * static_cast<int64_t>(sizeof(BFloat16));
  for (; begin < end; begin += together) {
    const Group group(source, result, begin, std::min(together, end - begin));
    group.pack(packed);
    for (int64_t b = 0; b < result.blocks; b += 2) {
      const bool wide = b + 1 < result.blocks;
      for (int64_t t = 0; t < group.tiles(); t += 2) {
        const bool tall = t + 1 < group.tiles();
        const TilesOfA a[2] = {{packed + t * panel, row_bytes, tile_size},
                               {packed + (t + 1) * panel, row_bytes, tile_size}};
        const TilesFunction run = tiles_function(tall, wide);
        run(a, w + b * panel, pairs, sums, block_side, false);
        const int64_t rows = tall ? block_side : tile_side;
        group.give(sums, t * tile_side, rows, b, finish);
        if (wide) group.give(sums + tile_side, t * tile_side, rows, b + 1, finish);
      }
    }
  }
  _tile_release();
}

#else

void product(const PixelMap&, const BFloat16*, const Finish<BFloat16>&, const PixelMap&, int64_t, int64_t, BFloat16*) {}

#endif

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(product);

int64_t pointwise_scratch_bytes(int64_t source_blocks) {
  return pixels_together(source_blocks) * pairs_of(source_blocks) * tile_k * int64_t{sizeof(BFloat16)};
}

void pointwise_product(const PixelMap& source, const BFloat16* w, const Finish<BFloat16>& finish,
                       const PixelMap& result, int64_t begin, int64_t end, void* scratch) {
  HWY_DYNAMIC_DISPATCH(product)(source, w, finish, result, begin, end, static_cast<BFloat16*>(scratch));
}

}  // namespace graft
#endif
