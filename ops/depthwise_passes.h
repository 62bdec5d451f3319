// The passes of DepthwiseNormalization over blocks of channels, forward and backward. A block goes through all phases
// before the next one begins, so that only x and y, and their gradients, move through memory.
#pragma once

#include <vector>

#include "ops/batch_normalization.h"
#include "ops/channel_statistics.h"
#include "ops/channel_view.h"
#include "ops/depthwise_loops.h"
#include "ops/slices.h"

namespace graft::depthwise {

// What there is beside the convolution of a block.
struct Geometry : DepthwiseGeometry {
  int64_t samples = 0, channels = 0, width = 1, blocks = 0;

  int64_t padded_channels() const { return blocks * width; }
  int64_t offset(const MapExtent& map, int64_t block, int64_t sample) const {
    return (sample * blocks + block) * map.pixels() * width;
  }
  // Values of a channel of x, or of y.
  double values(const MapExtent& map) const { return static_cast<double>(samples * map.pixels()); }
  // Elements of scratch for the rows of a window.
  int64_t rows() const { return checked_mul(covered_rows(), checked_mul(padded_row(), width)); }
  int64_t gradient_rows() const { return checked_mul(covered_rows(), checked_mul(padded_out_row(), width)); }
};

// What is worked on, and in which scratch.
struct Place {
  int64_t block, sample, slot, thread;
  int64_t next_sample = -1;  // of the same block, where there is one
};

// Which threads work on what. Threads take whole blocks as long as the cache holds one of each; they share the others.
class Schedule {
 public:
  Schedule() = default;
  Schedule(const Geometry& g, int64_t block_bytes) : blocks_(g.blocks), samples_(g.samples), threads_(thread_count()) {
    bool fits = block_bytes <= half_cache_bytes / threads_ || samples_ < threads_;
    owned_ = fits ? blocks_ / threads_ * threads_ : 0;
  }

  int64_t threads() const { return threads_; }
  // Blocks that are under way at once.
  int64_t slots() const { return owned_ > 0 ? threads_ : 1; }

  // Work has, for each of its phases in turn: each(phase, place) for every sample, then finish(phase, place). Every
  // other phase goes backwards: what was read last is nearest. Results do not depend on the number of threads.
  template <class Work>
  void run(const Work& work) const {
    for_slices(owned_, threads_, [&](int64_t thread, int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        for (int phase = 0; phase < work.phases(); ++phase) {
          walk(work, phase, 0, samples_, {block, 0, thread, thread});
          work.finish(phase, {block, 0, thread, thread});
        }
      }
    });
    for (int64_t block = owned_; block < blocks_; ++block) {
      for (int phase = 0; phase < work.phases(); ++phase) {
        for_slices(samples_, threads_, [&](int64_t thread, int64_t begin, int64_t end) {
          walk(work, phase, begin, end, {block, 0, 0, thread});
        });
        work.finish(phase, {block, 0, 0, 0});
      }
    }
  }

 private:
  template <class Work>
  static void walk(const Work& work, int phase, int64_t begin, int64_t end, Place place) {
    const bool backwards = phase % 2 != 0;
    for (int64_t n = begin; n < end; ++n) {
      place.sample = backwards ? begin + end - 1 - n : n;
      place.next_sample = n + 1 == end ? -1 : backwards ? place.sample - 1 : place.sample + 1;
      work.each(phase, place);
    }
  }

  int64_t blocks_ = 0, samples_ = 0, threads_ = 1, owned_ = 0;
};

// A normalisation with its activation: what it is made of, and the vectors that a run finds.
template <class T>
struct Half {
  const T *scale, *bias;
  double epsilon, momentum;
  Activation activation;
  T *mean, *factor, *shift;        // t = (x - mean) factor + shift, padding channels included
  T *slope, *slope_x, *offset;     // backward
  T *saved_mean, *inverse, *rest;  // what forward leaves
  const T *running_mean, *running_var;
  T *new_mean, *new_var;  // forward
  T *dscale, *dbias;      // backward

  void give(int64_t channel, bool real) const {
    mean[channel] = real ? saved_mean[channel] : T{0};
    factor[channel] = real ? live_factor(scale[channel], inverse[channel]) : T{0};
    shift[channel] = real ? bias[channel] : T{0};
  }
};

// What both directions work with.
template <class T, class S>
struct Context {
  Geometry g;
  Schedule schedule;
  DepthwiseLoops<T, S> depthwise;
  Half<T> first, second;
  const S* x;
  const T* w;
  double* sums;  // [3][width], by slot and sample
  T* rows;       // of u, by thread

  int64_t record(const Place& p) const { return p.slot * g.samples + p.sample; }
  double* sums_of(const Place& p) const { return sums + record(p) * 3 * g.width; }
  AheadMap<S> ahead(const S* tensor, const MapExtent& map, const Place& p) const {
    return {tensor + g.offset(map, p.block, p.sample),
            p.next_sample < 0 ? nullptr : tensor + g.offset(map, p.block, p.next_sample), map.rows,
            map.columns * g.width};
  }

  BlockNormalization<T> block(const Half<T>& half, int64_t block) const {
    const int64_t channel = block * g.width;
    return {half.mean + channel,
            half.factor + channel,
            half.shift + channel,
            half.slope + channel,
            half.slope_x + channel,
            half.offset + channel,
            static_cast<T>(half.activation.low),
            static_cast<T>(half.activation.high),
            half.activation.epilogue};
  }

  DepthwiseMap<T, S> map(const Place& p) const {
    return {.geometry = &g,
            .first = block(first, p.block),
            .second = block(second, p.block),
            .x = ahead(x, g.in, p),
            .w = w + p.block * g.taps() * g.width,
            .rows = rows + p.thread * g.rows(),
            .sums = sums_of(p)};
  }

  // From what forward left.
  void give_saved() const {
    for (int64_t c = 0; c < g.padded_channels(); ++c) {
      first.give(c, c < g.channels);
      second.give(c, c < g.channels);
    }
  }

  // f(channel, lane) for the channels of a block that are no padding; padding(channel) for the others.
  template <class F, class P>
  void for_channels(int64_t block, F f, P padding) const {
    for (int64_t v = 0; v < g.width; ++v) {
      const int64_t c = block * g.width + v;
      if (c < g.channels) f(c, v);
      else padding(c);
    }
  }
};

// --- Forward ---

template <class T, class S>
struct Forward : Context<T, S> {
  using Base = Context<T, S>;
  using Base::first, Base::g, Base::second, Base::sums_of;
  S* y;
  T* unsaved;  // what backward would want, where there is none
  enum Phase : uint8_t { statistics, inner_statistics, result };
  Phase begin;  // what comes before is known

  int phases() const { return result + 1 - begin; }

  void each(int phase, const Place& p) const {
    phase += begin;
    if (phase == statistics) return this->depthwise.statistics(this->ahead(this->x, g.in, p), sums_of(p));
    DepthwiseMap<T, S> map = this->map(p);
    if (phase == inner_statistics) return this->depthwise.inner_statistics(map);
    map.y = y + g.offset(g.out, p.block, p.sample);
    map.streams = g.offset(g.out, 0, g.samples) * int64_t{sizeof(S)} > half_cache_bytes;
    this->depthwise.convolve(map);
  }

  void finish(int phase, const Place& p) const {
    phase += begin;
    if (phase == statistics) give(first, p, g.values(g.in), static_cast<double>(g.in.pixels()));
    if (phase == inner_statistics) give(second, p, g.values(g.out), static_cast<double>(g.out.pixels()));
  }

  // Instead of the first phase.
  void give_known(const ChannelStatistics& known) const {
    for (int64_t c = 0; c < g.padded_channels(); ++c) {
      if (c < g.channels) give(first, c, known.about[c], known.sums[c], known.squares[c], g.values(g.in));
      else first.give(c, false);
    }
  }

 private:
  // Puts the samples' sums together, about the first pixel of the first.
  void give(const Half<T>& half, const Place& p, double count, double pixels) const {
    auto real = [&](int64_t c, int64_t v) {
      const double shift = sums_of({p.block, 0, p.slot, p.thread})[v];
      double sum = 0, squares = 0;
      for (int64_t n = 0; n < g.samples; ++n) {
        const double* sums = sums_of({p.block, n, p.slot, p.thread});
        const double offset = sums[v] - shift, sum_here = sums[g.width + v];
        sum += sum_here + pixels * offset;
        squares += sums[2 * g.width + v] + offset * (2 * sum_here + pixels * offset);
      }
      give(half, c, shift, sum, squares, count);
    };
    this->for_channels(p.block, real, [&](int64_t c) { half.give(c, false); });
  }

  static void give(const Half<T>& half, int64_t c, double about, double sum, double squares, double count) {
    auto found = live_statistics<T>(about, sum, squares, count, half.epsilon);
    half.saved_mean[c] = found.mean;
    half.inverse[c] = found.inverse;
    half.rest[c] = found.rest;
    if (half.new_mean) half.new_mean[c] = running_statistic(half.running_mean[c], found.batch_mean, half.momentum);
    if (half.new_var) half.new_var[c] = running_statistic(half.running_var[c], found.batch_var, half.momentum);
    half.give(c, true);
  }
};

// --- Backward ---

template <class T, class S>
struct Backward : Context<T, S> {
  using Base = Context<T, S>;
  using Base::first, Base::g, Base::second, Base::sums_of;
  const S* dy;
  S* dx;
  T* dw;
  T* products;       // [taps][width], by slot and sample
  T* gradient_rows;  // of dz, by thread
  S* single_row;     // of dt, by thread
  std::vector<std::vector<ColumnTap>> columns;

  int phases() const { return dx ? 3 : 2; }

  void each(int phase, const Place& p) const {
    const AheadMap<S> x = this->ahead(this->x, g.in, p);
    S* dt = dx ? dx + g.offset(g.in, p.block, p.sample) : nullptr;
    if (phase == 2) return this->depthwise.input_gradient(this->block(first, p.block), x, dt);
    DepthwiseMap<T, S> map = this->map(p);
    map.dy = this->ahead(dy, g.out, p);
    if (phase == 0) return this->depthwise.gradient_sums(map);
    map.columns = &columns;
    map.gradient_rows = gradient_rows + p.thread * g.gradient_rows();
    map.dt = dt;
    map.single_row = single_row + p.thread * g.in.columns * g.width;
    map.products = dw ? products_of(p) : nullptr;
    this->depthwise.convolve_back(map);
  }

  void finish(int phase, const Place& p) const {
    if (phase == 0) give(second, p, g.values(g.out));
    if (phase != 1) return;
    give(first, p, g.values(g.in));
    if (!dw) return;
    for (int64_t i = 0; i < g.taps() * g.width; ++i) {
      double sum = 0;
      for (int64_t n = 0; n < g.samples; ++n)
        sum += static_cast<double>(products_of({p.block, n, p.slot, p.thread})[i]);
      dw[p.block * g.taps() * g.width + i] = static_cast<T>(sum);
    }
  }

 private:
  T* products_of(const Place& p) const { return products + this->record(p) * g.taps() * g.width; }

  void give(const Half<T>& half, const Place& p, double count) const {
    auto real = [&](int64_t c, int64_t v) {
      double sum = 0, sum_x = 0;
      for (int64_t n = 0; n < g.samples; ++n) {
        const double* sums = sums_of({p.block, n, p.slot, p.thread});
        sum += sums[v];
        sum_x += sums[g.width + v];
      }
      const auto inverse = static_cast<double>(half.inverse[c]);
      if (half.dscale) half.dscale[c] = static_cast<T>(sum_x * inverse);
      if (half.dbias) half.dbias[c] = static_cast<T>(sum);
      auto factors = grad_factors(half.scale[c], inverse, static_cast<double>(half.rest[c]), sum, sum_x, count);
      half.slope[c] = factors.slope;
      half.slope_x[c] = factors.slope_x;
      half.offset[c] = factors.offset;
    };
    this->for_channels(p.block, real, [&](int64_t c) { half.slope[c] = half.slope_x[c] = half.offset[c] = 0; });
  }
};

}  // namespace graft::depthwise
