// 1x1 convolutions of few channels over many pixels, forward and both gradients, by ops/narrow_loops: memory is their
// limit, and oneDNN's kernels reach a third of it.
#include <algorithm>
#include <numeric>

#include "ops/channel_statistics.h"
#include "ops/channel_view.h"
#include "ops/conv.h"
#include "ops/narrow_loops.h"
#include "ops/slices.h"
#include "ops/winograd_loops.h"

namespace graft {
namespace {

// Samples in pieces of a few pixels, as items of work.
struct Pieces {
  int64_t samples, pixels, length, of_sample;

  explicit Pieces(const ChannelView& view, int64_t most_pixels = narrow_pixels)
      : samples(view.batch), pixels(view.spatial), length(most_pixels), of_sample((pixels + length - 1) / length) {}
  int64_t count() const { return samples * of_sample; }

  // f(sample, first pixel, pixels) for items [begin, end), those of a sample together.
  template <class F>
  void each(int64_t begin, int64_t end, F f) const {
    while (begin < end) {
      const int64_t sample = begin / of_sample, piece = begin % of_sample;
      const int64_t take = std::min(end - begin, of_sample - piece), first = piece * length;
      f(sample, first, std::min(take * length, pixels - first));
      begin += take;
    }
  }
};

NarrowMap map_of(const ChannelView& view) { return {view.channels, view.spatial * view.width}; }
int64_t at(const ChannelView& view, int64_t sample, int64_t pixel) {
  return view.offset(sample, 0) + pixel * view.width;
}

struct NarrowProduct {
  Pieces pieces;
  ChannelView from, to;
  bool streams;
  const float *source, *w;
  float* result;

  void run(int64_t begin, int64_t end, const NarrowSums* sums) const {
    pieces.each(begin, end, [&](int64_t n, int64_t pixel, int64_t count) {
      narrow_product(source + at(from, n, pixel), map_of(from), w, result + at(to, n, pixel), map_of(to), count,
                     streams, sums);
    });
  }
  void operator()(Stream&) const {
    for_slices(pieces.count(), thread_count(), [&](int64_t, int64_t begin, int64_t end) { run(begin, end, nullptr); });
  }
};

// The same, and the sums of the result over each channel: first of each piece, about the first pixel of all.
struct NarrowProductWithStatistics {
  NarrowProduct product;
  float* about;   // [blocks][W]
  double* sums;   // by piece: [2][blocks][W]
  double* found;  // ChannelStatistics

  // More pixels than are worked on together: the sums of all pieces should be few beside the pixels.
  static Pieces pieces_of(const ChannelView& view) { return Pieces(view, 8 * narrow_pixels); }
  static int64_t sums_bytes(const ChannelView& to) {
    return checked_mul(checked_mul(pieces_of(to).count(), 2 * static_cast<int64_t>(sizeof(double))),
                       to.padded_channels());
  }
  static int64_t scratch_bytes(const ChannelView& to) {
    return checked_add(sums_bytes(to), checked_mul(static_cast<int64_t>(sizeof(float)), to.padded_channels()));
  }

  void operator()(Stream&) const {
    const Pieces& pieces = product.pieces;
    const ChannelView& to = product.to;
    const int64_t channels = to.padded_channels();
    narrow_product(product.source, map_of(product.from), product.w, about, {to.channels, to.width}, 1, false);
    for_slices(pieces.count(), thread_count(), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        double* here = sums + piece * 2 * channels;
        std::fill_n(here, 2 * channels, 0.0);
        const NarrowSums of_piece{about, here, here + channels};
        product.run(piece, piece + 1, &of_piece);
      }
    });
    ChannelStatistics all(found, channels);
    std::copy_n(about, channels, all.about);
    std::fill_n(all.sums, 2 * channels, 0.0);
    for (int64_t piece = 0; piece < pieces.count(); ++piece) {
      for (int64_t i = 0; i < 2 * channels; ++i) all.sums[i] += sums[piece * 2 * channels + i];
    }
  }
};

struct NarrowWeightGradient {
  Pieces pieces;
  ChannelView from, to;
  int64_t weights;  // with padding
  const float *x, *dy;
  float *dw, *sums;

  void operator()(Stream&) const {
    auto add = [&](int64_t, int64_t begin, int64_t end, float* mine) {
      pieces.each(begin, end, [&](int64_t n, int64_t pixel, int64_t pixels) {
        narrow_weight_gradient(x + at(from, n, pixel), map_of(from), dy + at(to, n, pixel), map_of(to), pixels, mine);
      });
    };
    sum_in_parts(pieces.count(), weights, std::min<int64_t>(sum_parts, thread_count()), sums, dw, add);
  }
};

}  // namespace

// Where many channels become few oneDNN's kernels are as fast.
bool narrow_fits(const ConvProblem& p) {
  constexpr int64_t few = 32, many = 4096;  // channels, pixels
  const bool plain = p.dtype == DType::f32 && p.group == 1 && !p.empty() && p.x.size() > 2 && p.is_pointwise() &&
                     (p.slots.way == ConvWay::weights || !p.bias);
  if (!plain) return false;
  const int64_t channels = p.slots.way == ConvWay::data ? p.w[0] : p.w[1];
  return channels <= few && channels >= channel_block() && element_count(p.x) / p.x[1] >= many;
}

void propose_narrow(const ConvProblem& p, Candidate& candidate) {
  set_blocks(p, candidate);
  set_layout(candidate, p.slots.w, narrow_weights_layout(p));
}

bool takes_narrow(const Node& node, const ConvProblem& p) { return narrow_fits(p) && lies_in_blocks(node, p); }

// [M/W][C][1][1][W], or of data [C/W][M][1][1][W]
Layout narrow_weights_layout(const ConvProblem& p) {
  if (p.slots.way != ConvWay::data) return blocked_axis(p.w, 0, channel_block());
  Dims turned = p.w;
  std::vector<int64_t> order(p.w.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::swap(turned[0], turned[1]);
  std::swap(order[0], order[1]);
  return blocked_axis(turned, 0, channel_block()).transposed(order);
}

Settlement settle_narrow(const Node& node, const ConvProblem& p) {
  Settlement settlement;
  if (node.output(conv_statistics) && p.slots.way == ConvWay::forward) {
    const ChannelView of_y = channel_view(node, *conv_value(node, p.slots.y));
    settlement.scratch_bytes = NarrowProductWithStatistics::scratch_bytes(of_y);
    settlement.opaque_bytes = {0, ChannelStatistics::bytes(of_y.padded_channels())};
  }
  if (p.slots.way != ConvWay::weights) return settlement;
  const int64_t floats = checked_mul(sum_parts, narrow_weights_layout(p).storage_count());
  settlement.scratch_bytes = checked_add(checked_mul(floats, int64_t{sizeof(float)}), bias_gradient_scratch(node, p));
  return settlement;
}

Kernel prepare_narrow(const Node& node, const ConvProblem& p, const Binding& binding) {
  const ChannelView of_x = channel_view(node, *conv_value(node, p.slots.x));
  const ChannelView of_y = channel_view(node, *conv_value(node, p.slots.y));
  const Pieces pieces(of_x);
  auto* x = static_cast<float*>(conv_address(binding, p.slots.x));
  auto* y = static_cast<float*>(conv_address(binding, p.slots.y));
  auto* w = static_cast<float*>(conv_address(binding, p.slots.w));
  auto large = [](const ChannelView& a) { return a.storage_count() * int64_t{sizeof(float)} > half_cache_bytes; };
  switch (p.slots.way) {
    case ConvWay::forward: {
      NarrowProduct product{pieces, of_x, of_y, large(of_y), x, w, y};
      auto* found = binding.out<double>(conv_statistics);
      if (!found) return then_finish(node, p, binding, product);
      product.pieces = NarrowProductWithStatistics::pieces_of(of_x);
      auto* scratch = static_cast<std::byte*>(binding.scratch);
      auto* about = reinterpret_cast<float*>(scratch + NarrowProductWithStatistics::sums_bytes(of_y));
      return NarrowProductWithStatistics{product, about, static_cast<double*>(binding.scratch), found};
    }
    case ConvWay::data: return NarrowProduct{pieces, of_y, of_x, large(of_x), y, w, x};
    case ConvWay::weights: break;
  }
  const int64_t weights = narrow_weights_layout(p).storage_count();
  auto* sums = static_cast<float*>(binding.scratch);
  Kernel kernel = NarrowWeightGradient{pieces, of_x, of_y, weights, x, y, w, sums};
  return then_sum_bias(node, p, binding, sums + sum_parts * weights, kernel);
}

}  // namespace graft
