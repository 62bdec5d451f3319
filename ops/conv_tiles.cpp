// 1x1 convolutions in bfloat16 of activations in blocks of channels, forward and both gradients, on the CPU's matrix
// tiles: for such blocks oneDNN has kernels that do without.
#include <algorithm>

#include "ops/channel_view.h"
#include "ops/conv.h"
#include "ops/pointwise_tiles.h"
#include "ops/slices.h"
#include "ops/winograd_loops.h"
#include "runtime/device/device.h"

namespace graft {
namespace {

PixelMap map_of(const Node& node, int slot, const Binding* binding = nullptr) {
  const ChannelView view = channel_view(node, *conv_value(node, slot));
  auto* data = binding ? static_cast<BFloat16*>(conv_address(*binding, slot)) : nullptr;
  return {data, view.blocks, view.spatial, view.channels};
}

struct TilesProduct {
  PixelMap source, result;
  const BFloat16* w;
  Finish<BFloat16> finish;
  int64_t pixels, threads, scratch_bytes;  // of all samples; of a thread
  std::byte* scratch;

  void operator()(Stream&) const {
    const int64_t tiles = tiles_over(pixels, tile_side);
    for_slices(tiles, threads, [&](int64_t thread, int64_t begin, int64_t end) {
      pointwise_product(source, w, finish, result, begin * tile_side, std::min(end * tile_side, pixels),
                        scratch + thread * scratch_bytes);
    });
  }
};

// dw[m][c] = sum over pixels of dy[pixel][m] x[pixel][c], some hundred pixels at a time. Where dw is small, parts of
// the pixels have sums of their own, else threads have parts of dw: results do not depend on how many there are.
class TilesWeightGradient {
 public:
  TilesWeightGradient(const Node& node, const ConvProblem& p, int64_t threads)
      : dy_(map_of(node, p.slots.y)), x_(map_of(node, p.slots.x)), m_(p.y[1]), n_(p.x[1]), samples_(p.x[0]) {
    constexpr int64_t most = 512, small = 16 * 1024;  // pixels, weights
    const int64_t pixels = x_.pixels;
    together_ = std::clamp<int64_t>(most / pixels, 1, samples_);
    pieces_ = tiles_over(pixels, most);
    piece_ = tiles_over(tiles_over(pixels, pieces_), tile_k) * tile_k;
    pieces_ = tiles_over(pixels, piece_);
    chunks_ = tiles_over(samples_, together_) * pieces_;
    by_pixels_ = checked_mul(m_, n_) <= small;
    threads_ = by_pixels_ ? std::min(threads, sum_parts) : threads;
    gathered_ = together_ > 1 ? (dy_.blocks + x_.blocks) * tile_side * together_ * pixels : 0;
    const int64_t k = together_ > 1 ? together_ * pixels : std::min(piece_, pixels);
    packed_ = tiles_over(low_gemm_scratch(m_, n_, k), tile_side) * tile_side;
  }

  // Scratch: by thread, what is brought together and what is packed; sums of parts.
  int64_t scratch_bytes() const {
    const int64_t sums = by_pixels_ ? sum_parts * m_ * n_ : 0;
    return checked_mul(checked_add(checked_mul(threads_, thread_floats()), sums), int64_t{sizeof(float)});
  }

  void bind(const BFloat16* dy, const BFloat16* x, float* dw, void* scratch) {
    dy_.data = const_cast<BFloat16*>(dy);
    x_.data = const_cast<BFloat16*>(x);
    dw_ = dw;
    scratch_ = static_cast<float*>(scratch);
  }

  void operator()(Stream&) const {
    if (by_pixels_) split_pixels();
    else split_weights();
  }

 private:
  // Blocks of channels.
  struct Range {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
    int64_t channels(int64_t all) const { return std::min(end * tile_side, all) - begin * tile_side; }
  };

  int64_t thread_floats() const { return gathered_ / 2 + packed_; }

  void split_pixels() const {
    auto add = [&](int64_t thread, int64_t begin, int64_t end, float* mine) {
      for (int64_t i = begin; i < end; ++i) multiply(i, {0, dy_.blocks}, {0, x_.blocks}, mine, true, thread);
    };
    sum_in_parts(chunks_, m_ * n_, threads_, scratch_ + threads_ * thread_floats(), dw_, add);
  }

  // The longer side of dw.
  void split_weights() const {
    const bool by_rows = m_ >= n_;
    const int64_t blocks = by_rows ? dy_.blocks : x_.blocks, pairs = tiles_over(blocks, 2);
    for_slices(pairs, threads_, [&](int64_t thread, int64_t begin, int64_t end) {
      const Range mine{2 * begin, std::min(2 * end, blocks)};
      if (mine.count() <= 0) return;
      const Range rows = by_rows ? mine : Range{0, dy_.blocks}, columns = by_rows ? Range{0, x_.blocks} : mine;
      float* dw = dw_ + rows.begin * tile_side * n_ + columns.begin * tile_side;
      for (int64_t i = 0; i < chunks_; ++i) multiply(i, rows, columns, dw, i > 0, thread);
    });
  }

  // What a chunk of pixels gives to a part of dw.
  void multiply(int64_t chunk, const Range& rows, const Range& columns, float* dw, bool adds, int64_t thread) const {
    const int64_t sample = chunk / pieces_ * together_, samples = std::min(together_, samples_ - sample);
    const int64_t first = chunk % pieces_ * piece_, count = std::min(piece_, x_.pixels - first);
    float* scratch = scratch_ + thread * thread_floats();
    auto* gathered = reinterpret_cast<BFloat16*>(scratch);
    const LowMatrix dy = bring(dy_, rows, sample, samples, first, gathered);
    const LowMatrix x = bring(x_, columns, sample, samples, first, gathered + rows.count() * samples * dy_.block());
    low_gemm({.m = rows.channels(m_),
              .n = columns.channels(n_),
              .k = samples > 1 ? samples * x_.pixels : count,
              .a = dy.transposed(),
              .b = x,
              .y = dw,
              .y_row = n_,
              .adds = adds},
             scratch + gathered_ / 2);
  }

  // Blocks of some samples as (pixels, channels), side by side where there are several samples.
  LowMatrix bring(const PixelMap& map, const Range& blocks, int64_t sample, int64_t samples, int64_t first,
                  BFloat16* to) const {
    const BFloat16* from = map.data + sample * map.sample() + blocks.begin * map.block();
    if (samples == 1) return {from + first * tile_side, tile_side, 1, map.block()};
    for (int64_t b = 0; b < blocks.count(); ++b) {
      for (int64_t n = 0; n < samples; ++n)
        std::copy_n(from + n * map.sample() + b * map.block(), map.block(), to + (b * samples + n) * map.block());
    }
    return {to, tile_side, 1, samples * map.block()};
  }

  PixelMap dy_, x_;
  int64_t m_, n_, samples_;
  int64_t together_, pieces_, piece_, chunks_;  // samples of a chunk, or pieces of a sample and their pixels
  bool by_pixels_;
  int64_t threads_, gathered_, packed_;
  float* dw_ = nullptr;
  float* scratch_ = nullptr;
};

}  // namespace

bool tiles_fit(const ConvProblem& p) {
  return p.dtype == DType::bf16 && p.x_dtype == p.dtype && p.y_dtype == p.dtype && p.group == 1 && !p.empty() &&
         p.x.size() > 2 && p.is_pointwise() && (p.slots.way != ConvWay::data || !p.bias) && has_matrix_tiles() &&
         channel_block() == tile_side;
}

void propose_tiles(const ConvProblem& p, Candidate& candidate) {
  set_blocks(p, candidate);
  set_layout(candidate, p.slots.w, tiles_weights_layout(p));
}

bool takes_tiles(const Node& node, const ConvProblem& p) { return tiles_fit(p) && lies_in_blocks(node, p); }

// See pointwise_product; gradients of weights lie plain.
Layout tiles_weights_layout(const ConvProblem& p) {
  if (p.slots.way == ConvWay::weights) return Layout::plain(p.w);
  const int result = p.slots.way == ConvWay::data ? 1 : 0, source = 1 - result;
  const auto r = static_cast<size_t>(result), s = static_cast<size_t>(source);
  Layout layout = Layout::plain(p.w);
  layout.padded[r] = tiles_over(p.w[r], tile_side) * tile_side;
  layout.padded[s] = tiles_over(p.w[s], tile_k) * tile_k;
  std::fill(layout.strides.begin(), layout.strides.end(), tile_size);
  layout.strides[r] = layout.padded[s] / tile_k * tile_size;
  layout.blocks = {{source, tile_side}, {result, tile_side}, {source, 2}};
  return layout;
}

Settlement settle_tiles(const Node& node, const ConvProblem& p) {
  Settlement settlement;
  const int64_t threads = thread_count();
  settlement.descriptor = threads;
  if (p.slots.way == ConvWay::weights) {
    const int64_t bytes = TilesWeightGradient(node, p, threads).scratch_bytes();
    settlement.scratch_bytes = checked_add(bytes, bias_gradient_scratch(node, p));
  } else {
    const int source = p.slots.way == ConvWay::forward ? p.slots.x : p.slots.y;
    settlement.scratch_bytes = checked_mul(threads, pointwise_scratch_bytes(map_of(node, source).blocks));
    if (p.adds) settlement.in_place = {{0, static_cast<int>(conv_beside)}};
  }
  return settlement;
}

Kernel prepare_tiles(const Node& node, const ConvProblem& p, const Binding& binding) {
  const auto threads = std::any_cast<int64_t>(binding.settlement->descriptor);
  auto* scratch = static_cast<std::byte*>(binding.scratch);
  const PixelMap x = map_of(node, p.slots.x, &binding), y = map_of(node, p.slots.y, &binding);
  if (p.slots.way == ConvWay::weights) {
    TilesWeightGradient gradient(node, p, threads);
    gradient.bind(y.data, x.data, static_cast<float*>(conv_address(binding, p.slots.w)), scratch);
    return then_sum_bias(node, p, binding, scratch + gradient.scratch_bytes(), gradient);
  }
  const bool forward = p.slots.way == ConvWay::forward;
  const PixelMap &source = forward ? x : y, &result = forward ? y : x;
  const auto* w = static_cast<const BFloat16*>(conv_address(binding, p.slots.w));
  return TilesProduct{source,
                      result,
                      w,
                      finish_of<BFloat16>(p, binding),
                      checked_mul(p.x[0], x.pixels),
                      threads,
                      pointwise_scratch_bytes(source.blocks),
                      scratch};
}

}  // namespace graft
