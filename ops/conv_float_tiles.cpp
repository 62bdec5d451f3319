// Convolutions in float32 with windows of one pixel and activations in blocks of channels, forward and both gradients,
// as products on the CPU's matrix tiles.
#include <algorithm>

#include "ops/channel_view.h"
#include "ops/conv.h"
#include "ops/gemm_tiles.h"
#include "ops/slices.h"
#include "ops/winograd_loops.h"

namespace graft {
namespace {

// Of y, whose windows are the pixels of x with strides between them.
int64_t pixels_of(const ConvProblem& p) { return checked_mul(p.y[0], element_count(spatial_dims(p.y))); }

bool has_strides(const ConvProblem& p) { return !p.is_pointwise(); }

// Without addresses.
TilesBlock product_of(const ConvProblem& p) {
  const int64_t pixels = pixels_of(p), from = p.x[1], to = p.y[1];
  TilesBlock g;
  switch (p.slots.way) {
    case ConvWay::forward: g.m = pixels, g.n = to, g.k = from; break;
    case ConvWay::data: g.m = pixels, g.n = from, g.k = to; break;
    case ConvWay::weights: g.m = from, g.n = to, g.k = pixels; break;
  }
  g.whole_n = g.n;
  return g;
}

TilesView pixels_at(const Node& node, int slot, const Binding& binding) {
  const ChannelView view = channel_view(node, *conv_value(node, slot));
  TilesView pixels;
  pixels.data = static_cast<const float*>(conv_address(binding, slot));
  pixels.row = view.width;
  pixels.column = 1;
  pixels.panel = view.spatial * view.width;
  pixels.sample_rows = view.spatial;
  pixels.sample = view.blocks * pixels.panel;
  return pixels;
}

// Those of x that windows are at.
TilesView sources_at(const Node& node, const ConvProblem& p, const Binding& binding) {
  TilesView x = pixels_at(node, p.slots.x, binding);
  if (!has_strides(p)) return x;
  x.line_rows = p.y[3];
  x.line = p.window.strides[0] * p.x[3] * x.row;
  x.row *= p.window.strides[1];
  x.sample_rows = p.y[2] * p.y[3];
  return x;
}

// (C, M), as float_tiles_weights_layout has it.
TilesView weights_at(const ConvProblem& p, const Binding& binding) {
  TilesView w;
  w.data = static_cast<const float*>(conv_address(binding, p.slots.w));
  w.row = tile_side;
  w.column = 1;
  w.panel = p.x[1] * tile_side;
  return w;
}

// Each thread with its own rows or columns of the result.
struct ThreadedTiles {
  TilesBlock whole;
  int64_t threads, scratch_floats;  // of a thread
  float* scratch;
  // What the result is a part of, and all else of it zeros.
  float* zeros = nullptr;
  int64_t zero_count = 0;

  void operator()(Stream&) const {
    for_slices(zero_count, threads,
               [&](int64_t, int64_t begin, int64_t end) { std::fill(zeros + begin, zeros + end, 0.0F); });
    constexpr GemmSteps steps{gemm_tiles_step, gemm_tiles_step};
    for_slices(threads, threads, [&](int64_t thread, int64_t, int64_t) {
      const auto [row, column, m, n] = gemm_range(whole.m, whole.n, steps, whole.n > whole.m, thread, threads);
      if (m == 0 || n == 0) return;
      TilesBlock part = whole;
      part.m = m;
      part.n = n;
      part.a = part.a.from(row, 0);
      part.b = part.b.from(0, column);
      part.start = part.start.from(row, column);
      part.y = part.y.from(row, column);
      gemm_on_tiles(part, scratch + thread * scratch_floats);
    });
  }
};

}  // namespace

bool float_tiles_fit(const ConvProblem& p) {
  const bool whole_blocks = p.group == 1 && !p.empty() && p.x.size() > 2 && p.x[1] % tile_side == 0 &&
                            p.y[1] % tile_side == 0 && channel_block() == tile_side;
  const bool takes_pixels = p.is_pointwise() || (p.picks_pixels() && p.window.rank() == 2);
  if (p.dtype != DType::f32 || !whole_blocks || !takes_pixels) return false;
  if (p.slots.way == ConvWay::data && p.bias && has_strides(p)) return false;  // pixels without a window have it too
  const TilesBlock g = product_of(p);
  // Where activations are long and thin, bringing them into tiles takes as long as all else does.
  constexpr int64_t least_channels = 128, least_in_gradient = 256;
  const int64_t least = p.slots.way == ConvWay::weights ? least_in_gradient : least_channels;
  return gemm_fits_tiles(g.m, g.n, g.k) && std::min(p.x[1], p.y[1]) >= least;
}

void propose_float_tiles(const ConvProblem& p, Candidate& candidate) {
  set_blocks(p, candidate);
  set_layout(candidate, p.slots.w, float_tiles_weights_layout(p));
}

bool takes_float_tiles(const Node& node, const ConvProblem& p) { return float_tiles_fit(p) && lies_in_blocks(node, p); }

// As oneDNN's kernels have them too: [blocks of M][blocks of C][16 C][16 M].
Layout float_tiles_weights_layout(const ConvProblem& p) {
  Layout layout = Layout::plain(p.w);
  std::fill(layout.strides.begin(), layout.strides.end(), tile_side * tile_side);
  layout.strides[0] = p.w[1] * tile_side;
  layout.blocks = {{1, tile_side}, {0, tile_side}};
  return layout;
}

Settlement settle_float_tiles(const Node& node, const ConvProblem& p) {
  const TilesBlock g = product_of(p);
  Settlement settlement;
  const int64_t threads = thread_count();
  settlement.descriptor = threads;
  settlement.scratch_bytes =
      checked_mul(threads, checked_mul(gemm_tiles_scratch(g.m, g.n, g.k), int64_t{sizeof(float)}));
  if (p.slots.way == ConvWay::weights)
    settlement.scratch_bytes = checked_add(settlement.scratch_bytes, bias_gradient_scratch(node, p));
  return settlement;
}

Kernel prepare_float_tiles(const Node& node, const ConvProblem& p, const Binding& binding) {
  TilesBlock g = product_of(p);
  const auto threads = std::any_cast<int64_t>(binding.settlement->descriptor);
  const TilesView x = sources_at(node, p, binding), y = pixels_at(node, p.slots.y, binding);
  const TilesView w = weights_at(p, binding);
  auto* scratch = static_cast<float*>(binding.scratch);
  const int64_t scratch_floats = gemm_tiles_scratch(g.m, g.n, g.k);
  switch (p.slots.way) {
    case ConvWay::forward: g.a = x, g.b = w, g.y = y; break;
    case ConvWay::data: g.a = y, g.b = w.transposed(), g.y = x; break;
    case ConvWay::weights: g.a = x.transposed(), g.b = y, g.y = w; break;
  }
  if (p.slots.way == ConvWay::weights) {
    ThreadedTiles multiply{g, threads, scratch_floats, scratch};
    return then_sum_bias(node, p, binding, scratch + threads * scratch_floats, multiply);
  }
  const bool relu = !p.adds && p.activation.is_relu();  // which products finish themselves
  if (relu) g.behind = GemmBehind::relu;
  if (p.bias) g.start = {static_cast<const float*>(conv_address(binding, p.slots.bias)), 0, 1};
  ThreadedTiles multiply{g, threads, scratch_floats, scratch};
  if (p.slots.way == ConvWay::data && has_strides(p)) {
    multiply.zeros = const_cast<float*>(x.data);
    multiply.zero_count = conv_value(node, p.slots.x)->layout.storage_count();
  }
  if (relu) return multiply;
  return then_finish(node, p, binding, multiply);
}

}  // namespace graft
