// 1x1 convolutions of few channels over many pixels, forward and both gradients, by ops/narrow_loops: memory is their
// limit, and oneDNN's kernels reach a third of it.
#include <algorithm>

#include "ops/channel_view.h"
#include "ops/conv.h"
#include "ops/narrow_loops.h"
#include "ops/slices.h"
#include "ops/winograd_loops.h"

namespace graft {
namespace {

bool is_all(const Dims& values, int64_t value) {
  return std::all_of(values.begin(), values.end(), [&](int64_t v) { return v == value; });
}

// Samples in pieces of a few pixels, as items of work.
struct Pieces {
  int64_t samples = 0, pixels = 0, of_sample = 0;

  explicit Pieces(const ConvProblem& p)
      : samples(p.x[0]),
        pixels(element_count(p.x) / (p.x[0] * p.x[1])),
        of_sample((pixels + narrow_pixels - 1) / narrow_pixels) {}
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

// An activation [N][C/W][pixels][W].
struct Activation {
  NarrowMap map;
  int64_t sample, width;  // elements from a sample to the next one, of a pixel

  Activation(int64_t channels, const Pieces& pieces, int64_t block)
      : map{channels, pieces.pixels * block},
        sample((channels + block - 1) / block * pieces.pixels * block),
        width(block) {}
  int64_t at(int64_t n, int64_t pixel) const { return n * sample + pixel * width; }
};

struct NarrowProduct {
  Pieces pieces;
  Activation from, to;
  bool streams;
  const float *source, *w;
  float* result;

  void operator()(Stream&) const {
    for_slices(pieces.count(), thread_count(), [&](int64_t, int64_t begin, int64_t end) {
      pieces.each(begin, end, [&](int64_t n, int64_t pixel, int64_t count) {
        narrow_product(source + from.at(n, pixel), from.map, w, result + to.at(n, pixel), to.map, count, streams);
      });
    });
  }
};

// So many sums beside each other, whatever the number of threads.
constexpr int64_t parts = 16;

struct NarrowWeightGradient {
  Pieces pieces;
  Activation from, to;
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
          narrow_weight_gradient(x + from.at(n, pixel), from.map, dy + to.at(n, pixel), to.map, pixels, mine);
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

// [M/W][C][1][1][W], or of data [C/W][M][1][1][W]
Layout layout_of(const ConvProblem& p) {
  const int64_t width = channel_block();
  const int axis = p.slots.way == ConvWay::data ? 1 : 0, other = 1 - axis;
  const int64_t blocks = (p.w.at(axis) + width - 1) / width;
  Layout layout;
  layout.padded = p.w;
  layout.padded.at(axis) = checked_mul(blocks, width);
  layout.blocks = {{axis, width}};
  layout.strides.assign(p.w.size(), width);
  layout.strides.at(other) = width;
  layout.strides.at(axis) = checked_mul(p.w.at(other), width);
  return layout;
}

}  // namespace

// Where many channels become few oneDNN's kernels are as fast.
bool narrow_fits(const ConvProblem& p) {
  constexpr int64_t few = 32, many = 4096;  // channels, pixels
  const bool plain = p.dtype == DType::f32 && p.group == 1 && !p.empty() && p.x.size() > 2 &&
                     is_all(p.window.kernel, 1) && is_all(p.window.strides, 1) && is_all(p.window.begin, 0) &&
                     is_all(p.window.end, 0) && (p.slots.way == ConvWay::weights || !p.bias);
  if (!plain) return false;
  const int64_t channels = p.slots.way == ConvWay::data ? p.w[0] : p.w[1];
  return channels <= few && channels >= channel_block() && element_count(p.x) / p.x[1] >= many;
}

void propose_narrow(const ConvProblem& p, Candidate& candidate) {
  auto set = [&](int slot, const Layout& layout) {
    if (slot < 0) candidate.outputs[conv_output(slot)] = layout;
    else candidate.inputs[static_cast<size_t>(slot)] = layout;
  };
  set(p.slots.x, blocked_channels(p.x, channel_block()));
  set(p.slots.y, blocked_channels(p.y, channel_block()));
  set(p.slots.w, layout_of(p));
}

bool takes_narrow(const Node& node, const ConvProblem& p) {
  return narrow_fits(p) && conv_value(node, p.slots.x)->layout == blocked_channels(p.x, channel_block()) &&
         conv_value(node, p.slots.y)->layout == blocked_channels(p.y, channel_block());
}

Layout narrow_weights_layout(const ConvProblem& p) { return layout_of(p); }

Settlement settle_narrow(const Node& node, const ConvProblem& p) {
  Settlement settlement;
  if (p.slots.way != ConvWay::weights) return settlement;
  const int64_t floats = checked_mul(parts, layout_of(p).storage_count());
  settlement.scratch_bytes = checked_add(checked_mul(floats, int64_t{sizeof(float)}), bias_gradient_scratch(node, p));
  return settlement;
}

Kernel prepare_narrow(const Node& node, const ConvProblem& p, const Binding& binding) {
  constexpr int64_t cache_bytes = int64_t{16} << 20;  // about half of a last-level cache
  const Pieces pieces(p);
  const int64_t width = channel_block();
  const Activation of_x(p.w[1], pieces, width), of_y(p.w[0], pieces, width);
  auto* x = static_cast<float*>(conv_address(binding, p.slots.x));
  auto* y = static_cast<float*>(conv_address(binding, p.slots.y));
  auto* w = static_cast<float*>(conv_address(binding, p.slots.w));
  auto large = [&](const Activation& a) { return pieces.samples * a.sample * int64_t{sizeof(float)} > cache_bytes; };
  switch (p.slots.way) {
    case ConvWay::forward: return NarrowProduct{pieces, of_x, of_y, large(of_y), x, w, y};
    case ConvWay::data: return NarrowProduct{pieces, of_y, of_x, large(of_x), y, w, x};
    case ConvWay::weights: break;
  }
  const int64_t weights = layout_of(p).storage_count();
  auto* sums = static_cast<float*>(binding.scratch);
  Kernel kernel = NarrowWeightGradient{pieces, of_x, of_y, weights, x, y, w, sums};
  return then_sum_bias(node, p, binding, sums + parts * weights, kernel);
}

}  // namespace graft
