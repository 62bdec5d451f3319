#include "ops/winograd_loops.h"

#include <algorithm>

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/winograd_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/epilogue-inl.h"
#include "ops/tile-inl.h"

#ifndef GRAFT_OPS_WINOGRAD_BLOCKING
#define GRAFT_OPS_WINOGRAD_BLOCKING
namespace graft {

// Tiles that are convolved together: transformed weights come from L3 and are used by all of them, transformed
// activations should stay in L2. A multiple of the rows of every register tile.
constexpr int64_t tiles_together = 48;
// Distance between points: not a power of two, or all points of a tile would share one set of the cache.
constexpr int64_t point_distance(int64_t channels, int64_t tiles) { return channels * tiles + 16; }

}  // namespace graft
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

constexpr int64_t block_width = panel_width;
constexpr int64_t points = winograd_points;
using V = hn::Vec<TileTag>;
constexpr TileTag d{};

HWY_INLINE V half_sum(V a, V b, V c) { return hn::Mul(hn::Set(d, 0.5F), hn::Add(hn::Add(a, c), b)); }
HWY_INLINE V half_difference(V a, V b, V c) { return hn::Mul(hn::Set(d, 0.5F), hn::Sub(hn::Add(a, c), b)); }

// The one-dimensional transforms, from vectors `step` apart to vectors `step` apart.
struct SourceTransform {  // B^T x
  static constexpr int from = 4, to = 4;
  static HWY_INLINE void run(const V* x, V* y, int step, int to_step) {
    y[0] = hn::Sub(x[0], x[2 * step]);
    y[to_step] = hn::Add(x[step], x[2 * step]);
    y[2 * to_step] = hn::Sub(x[2 * step], x[step]);
    y[3 * to_step] = hn::Sub(x[step], x[3 * step]);
  }
};
struct ResultTransform {  // A^T x
  static constexpr int from = 4, to = 2;
  static HWY_INLINE void run(const V* x, V* y, int step, int to_step) {
    const V sum = hn::Add(x[step], x[2 * step]);
    y[0] = hn::Add(x[0], sum);
    y[to_step] = hn::Sub(hn::Sub(x[step], x[2 * step]), x[3 * step]);
  }
};
struct GradientTransform {  // A x
  static constexpr int from = 2, to = 4;
  static HWY_INLINE void run(const V* x, V* y, int step, int to_step) {
    y[0] = x[0];
    y[to_step] = hn::Add(x[0], x[step]);
    y[2 * to_step] = hn::Sub(x[0], x[step]);
    y[3 * to_step] = hn::Neg(x[step]);
  }
};
struct WeightTransform {  // G x
  static constexpr int from = 3, to = 4;
  static HWY_INLINE void run(const V* x, V* y, int step, int to_step) {
    y[0] = x[0];
    y[to_step] = half_sum(x[0], x[step], x[2 * step]);
    y[2 * to_step] = half_difference(x[0], x[step], x[2 * step]);
    y[3 * to_step] = x[2 * step];
  }
};
struct WeightGradientTransform {  // G^T x
  static constexpr int from = 4, to = 3;
  static HWY_INLINE void run(const V* x, V* y, int step, int to_step) {
    const V half = hn::Set(d, 0.5F);
    const V sum = hn::Mul(half, hn::Add(x[step], x[2 * step]));
    y[0] = hn::Add(x[0], sum);
    y[to_step] = hn::Mul(half, hn::Sub(x[step], x[2 * step]));
    y[2 * to_step] = hn::Add(sum, x[3 * step]);
  }
};

// T along both axes: x is from x from vectors, y is to x to, row after row.
template <class T>
HWY_INLINE void transform(const V* x, V* y) {
  V half[T::to * T::from];
#pragma GCC unroll 4
  for (int column = 0; column < T::from; ++column) T::run(x + column, half + column, T::from, T::from);
#pragma GCC unroll 4
  for (int row = 0; row < T::to; ++row) T::run(half + row * T::from, y + row * T::to, 1, 1);
}

// size x size vectors of a map (height, width) from (top, left); zeros outside.
template <int size>
HWY_INLINE void load_square(const float* map, int64_t height, int64_t width, int64_t top, int64_t left, V* x) {
  if (top >= 0 && left >= 0 && top + size <= height && left + size <= width) {
#pragma GCC unroll 4
    for (int i = 0; i < size; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < size; ++j) x[i * size + j] = hn::LoadU(d, map + ((top + i) * width + left + j) * block_width);
    }
    return;
  }
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) {
      const int64_t row = top + i, column = left + j;
      const bool inside = row >= 0 && row < height && column >= 0 && column < width;
      x[i * size + j] = inside ? hn::LoadU(d, map + (row * width + column) * block_width) : hn::Zero(d);
    }
  }
}

// Where a tile is.
struct TilePlace {
  TilePlace(const WinogradShape& shape, int64_t tile)
      : sample(tile / (shape.down() * shape.across())),
        row(tile / shape.across() % shape.down()),
        column(tile % shape.across()) {}
  void advance(const WinogradShape& shape) {
    if (++column < shape.across()) return;
    column = 0;
    if (++row < shape.down()) return;
    row = 0;
    ++sample;
  }
  int64_t sample, row, column;
};

// Tiles from `first`, one block of channels: 16 vectors each, `point` apart.
void source_block(const WinogradShape& s, const float* source, int64_t block, int64_t first, int64_t count, float* v,
                  int64_t point) {
  TilePlace at(s, first);
  for (int64_t t = 0; t < count; ++t, at.advance(s)) {
    const float* map = source + (at.sample * s.source_blocks + block) * s.height * s.width * block_width;
    V x[points], y[points];
    load_square<4>(map, s.height, s.width, 2 * at.row - s.top, 2 * at.column - s.left, x);
    transform<SourceTransform>(x, y);
#pragma GCC unroll 16
    for (int p = 0; p < points; ++p) hn::StoreU(y[p], d, v + p * point + t * block_width);
  }
}

void gradient_block(const WinogradShape& s, const float* gradient, int64_t block, int64_t first, int64_t count,
                    float* v, int64_t point) {
  TilePlace at(s, first);
  for (int64_t t = 0; t < count; ++t, at.advance(s)) {
    const float* map = gradient + (at.sample * s.result_blocks + block) * s.out_height * s.out_width * block_width;
    V x[4], y[points];
    load_square<2>(map, s.out_height, s.out_width, 2 * at.row, 2 * at.column, x);
    transform<GradientTransform>(x, y);
#pragma GCC unroll 16
    for (int p = 0; p < points; ++p) hn::StoreU(y[p], d, v + p * point + t * block_width);
  }
}

void result_block(const WinogradShape& s, const float* products, int64_t point, const Finish<float>& finish,
                  int64_t block, int64_t first, int64_t count, float* result) {
  const V offset = finish.bias ? hn::LoadU(d, finish.bias + block * block_width) : hn::Zero(d);
  TilePlace at(s, first);
  for (int64_t t = 0; t < count; ++t, at.advance(s)) {
    const int64_t map = (at.sample * s.result_blocks + block) * s.out_height * s.out_width * block_width;
    V x[points], y[4];
#pragma GCC unroll 16
    for (int p = 0; p < points; ++p) x[p] = hn::LoadU(d, products + p * point + t * block_width);
    transform<ResultTransform>(x, y);
    const int64_t rows = std::min<int64_t>(2, s.out_height - 2 * at.row);
    const int64_t columns = std::min<int64_t>(2, s.out_width - 2 * at.column);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t to = map + ((2 * at.row + i) * s.out_width + 2 * at.column + j) * block_width;
        hn::StoreU(finished(d, hn::Add(y[i * 2 + j], offset), finish, to), d, result + to);
      }
    }
  }
}

void weights(const float* w, int64_t channels, int64_t blocks, int64_t begin, int64_t end, float* u) {
  const int64_t point = blocks * channels * block_width;
  for (int64_t i = begin * channels; i < end * channels; ++i) {
    V x[9], y[points];
#pragma GCC unroll 9
    for (int k = 0; k < 9; ++k) x[k] = hn::LoadU(d, w + (i * 9 + k) * block_width);
    transform<WeightTransform>(x, y);
#pragma GCC unroll 16
    for (int p = 0; p < points; ++p) hn::StoreU(y[p], d, u + p * point + i * block_width);
  }
}

// Turning w by 180 degrees exchanges points 0 and 3 of each axis and leaves 1 and 2.
constexpr int turned(int p) {
  constexpr int axis[] = {3, 1, 2, 0};
  return axis[p / 4] * 4 + axis[p % 4];
}

void turned_weights(const float* w, int64_t channels, int64_t blocks, int64_t begin, int64_t end, float* u) {
  const int64_t features = blocks * block_width;
  const int64_t point = channels * features;
  float square[points * block_width * block_width];  // [16][c][m]
  for (int64_t block = begin; block < end; ++block) {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t c = 0; c < block_width; ++c) {
        V x[9], y[points];
        const float* from = w + (b * channels + block * block_width + c) * 9 * block_width;
#pragma GCC unroll 9
        for (int k = 0; k < 9; ++k) x[k] = hn::LoadU(d, from + k * block_width);
        transform<WeightTransform>(x, y);
#pragma GCC unroll 16
        for (int p = 0; p < points; ++p) hn::StoreU(y[p], d, square + (p * block_width + c) * block_width);
      }
      for (int p = 0; p < points; ++p) {
        float* to = u + turned(p) * point + (block * features + b * block_width) * block_width;
        const float* from = square + p * block_width * block_width;
        for (int64_t m = 0; m < block_width; ++m) {
          for (int64_t c = 0; c < block_width; ++c) to[m * block_width + c] = from[c * block_width + m];
        }
      }
    }
  }
}

void convolve(const WinogradShape& s, const float* source, const float* u, const Finish<float>& finish, float* result,
              int64_t begin, int64_t end, float* scratch) {
  const int64_t channels = s.source_blocks * block_width;
  float* sources = scratch;
  float* products = scratch + points * point_distance(channels, tiles_together);
  static constexpr auto one = tiles<1, 1, block_width>, two = tiles<2, 1, block_width>;
  for (int64_t first = begin; first < end; first += tiles_together) {
    const int64_t count = std::min(tiles_together, end - first);
    const int64_t source_point = point_distance(channels, count);
    const int64_t product_point = point_distance(s.result_blocks * block_width, count);
    for (int64_t b = 0; b < s.source_blocks; ++b)
      source_block(s, source, b, first, count, sources + b * count * block_width, source_point);
    Tile tile;
    tile.blocks = s.source_blocks;
    tile.block = block_width;
    tile.a_block = tile.y_panel = count * block_width;
    tile.b_panel = channels * block_width;
    tile.y_row = block_width;
    for (int64_t p = 0; p < points; ++p) {
      for (int64_t b = 0; b < s.result_blocks; b += 2) {
        const auto& multiply = b + 1 < s.result_blocks ? two : one;
        const float* panel = u + (p * s.result_blocks + b) * channels * block_width;
        for (int64_t t = 0; t < count; t += tile_rows) {
          const auto rows = static_cast<size_t>(std::min<int64_t>(tile_rows, count - t));
          multiply[rows - 1](tile, sources + p * source_point + t * block_width, panel, nullptr,
                             products + p * product_point + (b * count + t) * block_width);
        }
      }
    }
    for (int64_t b = 0; b < s.result_blocks; ++b)
      result_block(s, products + b * count * block_width, product_point, finish, b, first, count, result);
  }
}

int64_t scratch_floats(const WinogradShape& s) {
  return points * (point_distance(s.source_blocks * block_width, tiles_together) +
                   point_distance(s.result_blocks * block_width, tiles_together));
}

void source_point_blocks(const WinogradShape& s, const float* source, int64_t block, int64_t first, int64_t count,
                         float* v) {
  source_block(s, source, block, first, count, v + block * count * block_width,
               point_distance(s.source_blocks * block_width, count));
}

void gradient_point_blocks(const WinogradShape& s, const float* gradient, int64_t block, int64_t first, int64_t count,
                           float* v) {
  gradient_block(s, gradient, block, first, count, v + block * count * block_width,
                 point_distance(s.result_blocks * block_width, count));
}

// Rows are the channels of half a block of the source, panels are blocks of the result.
void multiply_points(const WinogradShape& s, const float* source, const float* gradient, int64_t count, int64_t begin,
                     int64_t end, bool adds, float* du) {
  constexpr int rows = block_width > 1 ? block_width / 2 : 1;
  constexpr int most = 3;
  constexpr int64_t together = 256;  // tiles whose vectors stay in L1
  static constexpr TileFunction multiply[most] = {&multiply_tile<rows, 1, block_width, 1>,
                                                  &multiply_tile<rows, 2, block_width, 1>,
                                                  &multiply_tile<rows, 3, block_width, 1>};
  const int64_t channels = s.source_blocks * block_width;
  Tile tile;
  tile.b_panel = count * block_width;
  tile.start_row = tile.y_row = block_width;
  tile.start_panel = tile.y_panel = channels * block_width;
  for (int64_t t = 0; t < count; t += together) {
    tile.block = std::min(together, count - t);
    const bool starts = adds || t > 0;
    for (int64_t b = begin; b < end;) {
      // Three at a time, but no single one at the end where two pairs do.
      const int64_t left = end - b;
      const int64_t panels = left == 4 ? 2 : std::min<int64_t>(most, left);
      const float* columns = gradient + (b * count + t) * block_width;
      for (int64_t c = 0; c < channels; c += rows) {
        float* y = du + (b * channels + c) * block_width;
        const float* factors = source + (c / block_width * count + t) * block_width + c % block_width;
        multiply[panels - 1](tile, factors, columns, starts ? y : nullptr, y);
      }
      b += panels;
    }
  }
}

void weight_gradient(const float* du, int64_t channels, int64_t blocks, int64_t begin, int64_t end, float* dw) {
  const int64_t point = blocks * channels * block_width;
  for (int64_t i = begin * channels; i < end * channels; ++i) {
    V x[points], y[9];
#pragma GCC unroll 16
    for (int p = 0; p < points; ++p) x[p] = hn::LoadU(d, du + p * point + i * block_width);
    transform<WeightGradientTransform>(x, y);
#pragma GCC unroll 9
    for (int k = 0; k < 9; ++k) hn::StoreU(y[k], d, dw + (i * 9 + k) * block_width);
  }
}

int64_t vector_width() { return block_width; }

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(vector_width);
HWY_EXPORT(weights);
HWY_EXPORT(turned_weights);
HWY_EXPORT(scratch_floats);
HWY_EXPORT(convolve);
HWY_EXPORT(source_point_blocks);
HWY_EXPORT(gradient_point_blocks);
HWY_EXPORT(multiply_points);
HWY_EXPORT(weight_gradient);

int64_t winograd_point(int64_t channels, int64_t tiles) { return point_distance(channels, tiles); }
int64_t channel_block() { return HWY_DYNAMIC_DISPATCH(vector_width)(); }

void winograd_weights(const float* w, int64_t channels, int64_t blocks, int64_t begin, int64_t end, float* u) {
  HWY_DYNAMIC_DISPATCH(weights)(w, channels, blocks, begin, end, u);
}

void winograd_turned_weights(const float* w, int64_t channels, int64_t blocks, int64_t begin, int64_t end, float* u) {
  HWY_DYNAMIC_DISPATCH(turned_weights)(w, channels, blocks, begin, end, u);
}

int64_t winograd_scratch(const WinogradShape& shape) { return HWY_DYNAMIC_DISPATCH(scratch_floats)(shape); }

void winograd_convolve(const WinogradShape& shape, const float* source, const float* u, const Finish<float>& finish,
                       float* result, int64_t begin, int64_t end, float* scratch) {
  HWY_DYNAMIC_DISPATCH(convolve)(shape, source, u, finish, result, begin, end, scratch);
}

void winograd_source(const WinogradShape& shape, const float* source, int64_t block, int64_t first, int64_t count,
                     float* v) {
  HWY_DYNAMIC_DISPATCH(source_point_blocks)(shape, source, block, first, count, v);
}

void winograd_gradient(const WinogradShape& shape, const float* gradient, int64_t block, int64_t first, int64_t count,
                       float* v) {
  HWY_DYNAMIC_DISPATCH(gradient_point_blocks)(shape, gradient, block, first, count, v);
}

void winograd_multiply(const WinogradShape& shape, const float* source, const float* gradient, int64_t count,
                       int64_t begin, int64_t end, bool adds, float* du) {
  HWY_DYNAMIC_DISPATCH(multiply_points)(shape, source, gradient, count, begin, end, adds, du);
}

void winograd_weight_gradient(const float* du, int64_t channels, int64_t blocks, int64_t begin, int64_t end,
                              float* dw) {
  HWY_DYNAMIC_DISPATCH(weight_gradient)(du, channels, blocks, begin, end, dw);
}

}  // namespace graft
#endif
