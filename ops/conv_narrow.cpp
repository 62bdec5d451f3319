// 1x1 convolutions of few channels over many pixels, forward and both gradients, by ops/narrow_loops: memory is their
// limit, and oneDNN's kernels reach a third of it.
#include <algorithm>
#include <numeric>

#include "ops/channel_view.h"
#include "ops/conv.h"
#include "ops/narrow_loops.h"
#include "ops/slices.h"
#include "ops/winograd_loops.h"

namespace graft {
namespace {

// Samples in pieces of a few pixels, as items of work.
struct Pieces {
  int64_t samples, pixels, of_sample;

  explicit Pieces(const ChannelView& view)
      : samples(view.batch), pixels(view.spatial), of_sample((pixels + narrow_pixels - 1) / narrow_pixels) {}
  int64_t count() const { return samples * of_sample; }

  // f(sample, first pixel, pixels) for items [begin, end), those of a sample together.
  template <class F>
  void each(int64_t begin, int64_t end, F f) const {
    while (begin < end) {
      const int64_t sample = begin / of_sample, piece = begin % of_sample;
      const int64_t take = std::min(end - begin, of_sample - piece), first = piece * narrow_pixels;
      f(sample, first, std::min(take * narrow_pixels, pixels - first));
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

  void operator()(Stream&) const {
    for_slices(pieces.count(), thread_count(), [&](int64_t, int64_t begin, int64_t end) {
      pieces.each(begin, end, [&](int64_t n, int64_t pixel, int64_t count) {
        narrow_product(source + at(from, n, pixel), map_of(from), w, result + at(to, n, pixel), map_of(to), count,
                       streams);
      });
    });
  }
};

// So many sums beside each other, whatever the number of threads.
constexpr int64_t parts = 16;

struct NarrowWeightGradient {
  Pieces pieces;
  ChannelView from, to;
  int64_t weights;  // with padding
  const float *x, *dy;
  float *dw, *sums;

  void operator()(Stream&) const {
    for_slices(parts, std::min<int64_t>(parts, thread_count()), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        float* mine = sums + part * weights;
        std::fill_n(mine, weights, 0.0F);
        const int64_t count = pieces.count();
        pieces.each(count * part / parts, count * (part + 1) / parts, [&](int64_t n, int64_t pixel, int64_t pixels) {
          narrow_weight_gradient(x + at(from, n, pixel), map_of(from), dy + at(to, n, pixel), map_of(to), pixels, mine);
        });
      }
    });
    for (int64_t i = 0; i < weights; ++i) {
      float sum = 0;
      for (int64_t part = 0; part < parts; ++part) sum += sums[part * weights + i];
      dw[i] = sum;
    }
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
  set_layout(candidate, p.slots.x, blocked_channels(p.x, channel_block()));
  set_layout(candidate, p.slots.y, blocked_channels(p.y, channel_block()));
  set_layout(candidate, p.slots.w, narrow_weights_layout(p));
}

bool takes_narrow(const Node& node, const ConvProblem& p) {
  return narrow_fits(p) && conv_value(node, p.slots.x)->layout == blocked_channels(p.x, channel_block()) &&
         conv_value(node, p.slots.y)->layout == blocked_channels(p.y, channel_block());
}

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
  if (p.slots.way != ConvWay::weights) return settlement;
  const int64_t floats = checked_mul(parts, narrow_weights_layout(p).storage_count());
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
    case ConvWay::forward: return NarrowProduct{pieces, of_x, of_y, large(of_y), x, w, y};
    case ConvWay::data: return NarrowProduct{pieces, of_y, of_x, large(of_x), y, w, x};
    case ConvWay::weights: break;
  }
  const int64_t weights = narrow_weights_layout(p).storage_count();
  auto* sums = static_cast<float*>(binding.scratch);
  Kernel kernel = NarrowWeightGradient{pieces, of_x, of_y, weights, x, y, w, sums};
  return then_sum_bias(node, p, binding, sums + parts * weights, kernel);
}

}  // namespace graft
