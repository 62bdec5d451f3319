// Convolutions with 3x3 windows and stride 1, forward and both gradients, by ops/winograd_loops.
#include <algorithm>

#include "ops/channel_view.h"
#include "ops/conv.h"
#include "ops/slices.h"
#include "ops/winograd_loops.h"

namespace graft {
namespace {

constexpr int64_t points = winograd_points;

// The way `data` convolves dy with the turned weights.
WinogradShape shape_of(const ConvProblem& p) {
  const bool data = p.slots.way == ConvWay::data;
  const Dims &source = data ? p.y : p.x, &result = data ? p.x : p.y;
  const int64_t width = channel_block();
  auto pad = [&](size_t axis) { return data ? 2 - p.window.begin[axis] : p.window.begin[axis]; };
  return {source[0], source[1] / width, result[1] / width, source[2], source[3], result[2], result[3], pad(0), pad(1)};
}

struct Settled {
  int64_t threads = 1;
  int64_t chunk = 0;  // tiles whose transformed activations lie side by side, of weight gradients
};

// Transformed activations of a chunk should stay in the last cache.
int64_t chunk_of(const WinogradShape& s) {
  constexpr int64_t floats = 3 << 19;
  constexpr int64_t least = 256;
  const int64_t channels = (s.source_blocks + s.result_blocks) * channel_block();
  const int64_t most = std::max(least, floats / (points * channels));
  const int64_t chunks = (s.tiles() + most - 1) / most;
  return (s.tiles() + chunks - 1) / chunks;
}

struct WinogradConvolution {
  WinogradShape shape;
  bool turned;
  int64_t threads, per_thread;
  const float *source, *w;
  Finish<float> finish;
  float *result, *u, *scratch;

  void operator()(Stream&) const {
    const int64_t width = channel_block();
    for_slices(shape.result_blocks, threads, [&](int64_t, int64_t begin, int64_t end) {
      if (turned) winograd_turned_weights(w, shape.result_blocks * width, shape.source_blocks, begin, end, u);
      else winograd_weights(w, shape.source_blocks * width, shape.result_blocks, begin, end, u);
    });
    for_slices(shape.tiles(), threads, [&](int64_t thread, int64_t begin, int64_t end) {
      winograd_convolve(shape, source, u, finish, result, begin, end, scratch + thread * per_thread);
    });
  }
};

struct WinogradWeightGradient {
  WinogradShape shape;
  int64_t threads, chunk;
  const float *source, *gradient;
  float *dw, *du, *sources, *gradients;

  void operator()(Stream&) const {
    const int64_t width = channel_block();
    const int64_t channels = shape.source_blocks * width, features = shape.result_blocks * width;
    for (int64_t first = 0; first < shape.tiles(); first += chunk) {
      const int64_t count = std::min(chunk, shape.tiles() - first);
      for_slices(shape.source_blocks + shape.result_blocks, threads, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          if (b < shape.source_blocks) winograd_source(shape, source, b, first, count, sources);
          else winograd_gradient(shape, gradient, b - shape.source_blocks, first, count, gradients);
        }
      });
      for_slices(points, threads, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
          winograd_multiply(shape, sources + p * winograd_point(channels, count),
                            gradients + p * winograd_point(features, count), count, 0, shape.result_blocks, first > 0,
                            du + p * channels * features);
        }
      });
    }
    for_slices(shape.result_blocks, threads, [&](int64_t, int64_t begin, int64_t end) {
      winograd_weight_gradient(du, channels, shape.result_blocks, begin, end, dw);
    });
  }
};

int64_t float_bytes(int64_t floats) { return checked_mul(floats, int64_t{sizeof(float)}); }

}  // namespace

bool winograd_fits(const Node& node, const ConvProblem& p) {
  constexpr int64_t few = 16;  // channels that are not worth the transforms
  if (p.dtype != DType::f32 || p.group != 1 || p.x.size() != 4 || p.empty() || node.integer("winograd", 1) == 0)
    return false;
  const int64_t width = channel_block();
  const Window& win = p.window;
  auto padded = [](int64_t pad) { return pad >= 0 && pad <= 2; };
  return win.kernel == Dims{3, 3} && win.strides == Dims{1, 1} && win.dilations == Dims{1, 1} &&
         std::all_of(win.begin.begin(), win.begin.end(), padded) &&
         std::all_of(win.end.begin(), win.end.end(), padded) && p.w[0] % width == 0 && p.w[1] % width == 0 &&
         std::min(p.w[0], p.w[1]) >= few;
}

// [M/W][C][3][3][W]
Layout winograd_weights_layout(const ConvProblem& p) { return blocked_axis(p.w, 0, channel_block()); }

Candidate propose_winograd(const Node& node, const ConvProblem& p) {
  Candidate candidate = propose_plain(node)[0];
  set_blocks(p, candidate);
  set_layout(candidate, p.slots.w, winograd_weights_layout(p));
  // As for direct convolutions, with the traffic of transformed activations in cache and of transformed weights.
  const auto tiles = static_cast<double>(shape_of(p).tiles());
  const auto channels = static_cast<double>(p.w[1]), features = static_cast<double>(p.w[0]);
  candidate.cost =
      points * (0.25 * tiles * channels * features + 4 * tiles * (channels + features) + 8 * channels * features);
  return candidate;
}

bool takes_winograd(const Node& node, const ConvProblem& p) {
  return winograd_fits(node, p) && lies_in_blocks(node, p);
}

Settlement settle_winograd(const Node& node, const ConvProblem& p) {
  const WinogradShape shape = shape_of(p);
  const int64_t width = channel_block();
  Settled settled{thread_count(), chunk_of(shape)};
  Settlement settlement;
  int64_t u = points * p.w[0] * p.w[1];
  if (p.slots.way == ConvWay::weights) {
    settlement.scratch_bytes = float_bytes(u + points * (winograd_point(shape.source_blocks * width, settled.chunk) +
                                                         winograd_point(shape.result_blocks * width, settled.chunk)));
    settlement.scratch_bytes += bias_gradient_scratch(node, p);
  } else {
    settlement.scratch_bytes = float_bytes(u + settled.threads * winograd_scratch(shape));
    if (p.adds) settlement.in_place = {{0, static_cast<int>(conv_beside)}};
  }
  settlement.descriptor = settled;
  return settlement;
}

Kernel prepare_winograd(const Node& node, const ConvProblem& p, const Binding& binding) {
  const auto& settled = std::any_cast<const Settled&>(binding.settlement->descriptor);
  const WinogradShape shape = shape_of(p);
  auto* scratch = static_cast<float*>(binding.scratch);
  auto* x = static_cast<float*>(conv_address(binding, p.slots.x));
  auto* y = static_cast<float*>(conv_address(binding, p.slots.y));
  auto* w = static_cast<float*>(conv_address(binding, p.slots.w));
  float* after_weights = scratch + points * p.w[0] * p.w[1];
  if (p.slots.way != ConvWay::weights) {
    const bool data = p.slots.way == ConvWay::data;
    return WinogradConvolution{
        shape,        data,    settled.threads, winograd_scratch(shape), data ? y : x, w, finish_of<float>(p, binding),
        data ? x : y, scratch, after_weights};
  }
  const int64_t width = channel_block();
  float* gradients = after_weights + points * winograd_point(shape.source_blocks * width, settled.chunk);
  Kernel kernel =
      WinogradWeightGradient{shape, settled.threads, settled.chunk, x, y, w, scratch, after_weights, gradients};
  float* after_all = gradients + points * winograd_point(shape.result_blocks * width, settled.chunk);
  return then_sum_bias(node, p, binding, after_all, kernel);
}

}  // namespace graft
