// Windows of a pooling operator over planes of channels: [depth][height][width][lanes].
#pragma once

#include <array>

#include "ops/channel_view.h"
#include "ops/window.h"

namespace graft {

struct PoolWindow {
  static constexpr int64_t most_lanes = 64;  // of a plane that for_each_plane gives at once

  ChannelView x, y;
  std::array<int64_t, 3> in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1};
  std::array<int64_t, 3> begin{0, 0, 0}, end{0, 0, 0};
  bool counts_padding = false;

  struct Range {
    int64_t first = 0, count = 0, step = 1;  // input positions of one axis
    int64_t with_padding = 0;                // taps that lie in the padded input
  };
  Range range(size_t axis, int64_t o) const {
    int64_t start = o * stride[axis] - begin[axis], d = dilation[axis];
    int64_t low = start < 0 ? (-start + d - 1) / d : 0;
    auto taps_below = [&](int64_t limit) {
      return limit <= start ? 0 : std::min(kernel[axis], (limit - 1 - start) / d + 1);
    };
    return {start + low * d, std::max<int64_t>(taps_below(in[axis]) - low, 0), d, taps_below(in[axis] + end[axis])};
  }

  // Output positions of one axis whose windows may hold an input position.
  Range windows_at(size_t axis, int64_t i) const {
    int64_t last = std::min((i + begin[axis]) / stride[axis], out[axis] - 1);
    int64_t before = std::max<int64_t>(i + begin[axis] - (kernel[axis] - 1) * dilation[axis], 0);
    int64_t first = (before + stride[axis] - 1) / stride[axis];
    return {first, std::max<int64_t>(last - first + 1, 0)};
  }

  // f(output position, depth range, height range, width range)
  template <class F>
  void for_each_output(F&& f) const {
    int64_t o = 0;
    for (int64_t a = 0; a < out[0]; ++a) {
      Range depth = range(0, a);
      for (int64_t b = 0; b < out[1]; ++b) {
        Range height = range(1, b);
        for (int64_t c = 0; c < out[2]; ++c, ++o) f(o, depth, height, range(2, c));
      }
    }
  }
  // f(first input position, count, step) for every row of a window.
  template <class F>
  void for_each_row(const Range& depth, const Range& height, const Range& width, F&& f) const {
    for (int64_t a = 0; a < depth.count; ++a) {
      for (int64_t b = 0; b < height.count; ++b) {
        int64_t row = (depth.first + a * depth.step) * in[1] + height.first + b * height.step;
        f(row * in[2] + width.first, width.count, width.step);
      }
    }
  }
  // What an average divides by.
  int64_t divisor(const Range& depth, const Range& height, const Range& width) const {
    if (counts_padding) return depth.with_padding * height.with_padding * width.with_padding;
    return depth.count * height.count * width.count;
  }

  // f(plane of x, plane of y, first lane, lanes) for every plane; planes of many channels are split.
  template <class F>
  void for_each_plane(int64_t cost, F&& f) const {
    int64_t parts = (x.width + most_lanes - 1) / most_lanes;
    parallel_for(x.batch * x.blocks * parts, cost * std::min(x.width, most_lanes), [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        int64_t plane = item / parts, lane = item % parts * most_lanes;
        f(plane, lane, std::min(most_lanes, x.width - lane));
      }
    });
  }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t outputs() const { return out[0] * out[1] * out[2]; }
  int64_t inputs() const { return in[0] * in[1] * in[2]; }
};

// ModelError where windows lie in the padding alone or none fits into x. Before memory is planned for y.
void check_pool(const Node& node, const Dims& x, const Dims& y);
// The window of a pooling node between x and y, which may be its operands in either order; Global... ones have a single
// window. ModelError where the shapes do not fit.
PoolWindow pool_window(const Node& node, const Value& x, const Value& y);
// Explicit attributes of the same window.
Attributes pool_attributes(const Node& node, const Dims& x);

// Candidates whose x and y lie alike: as the input does, or as `like`, the layout of a value of dims `dims`, where
// given.
std::vector<Candidate> propose_pool(const Node& node, const Value* like);

}  // namespace graft
