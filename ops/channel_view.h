// Tensors (N, C, ...) as kernels that work channel by channel see them, whether plain, channels-last or in blocks of
// channels: [N][blocks][spatial][width], where channel c is number c % width of block c / width.
#pragma once

#include <algorithm>
#include <optional>

#include "ops/op.h"

namespace graft {

struct ChannelView {
  int64_t batch = 0, channels = 0;
  int64_t blocks = 0, spatial = 0, width = 1;

  // Offset of the first element of a block.
  int64_t offset(int64_t n, int64_t block) const { return (n * blocks + block) * spatial * width; }
  // Channels with those that pad the last block.
  int64_t padded_channels() const { return blocks * width; }
  int64_t storage_count() const { return batch * blocks * spatial * width; }
};

// nullopt where `layout` is none of the three.
std::optional<ChannelView> channel_view(const Dims& dims, const Layout& layout);
// The view of a value that a kernel settled on. UnsupportedError where there is none.
ChannelView channel_view(const Node& node, const Value& value);

// About half of a last-level cache.
constexpr int64_t half_cache_bytes = int64_t{16} << 20;

// Blocks of `width` indices of an axis, the last one padded.
Layout blocked_axis(const Dims& dims, size_t axis, int64_t width);
// Of channels.
Layout blocked_channels(const Dims& dims, int64_t width);
// The layout of a tensor of other dims that lies as `layout` does on `dims`: plain, channels-last or as wide blocks.
Layout layout_alike(const Layout& layout, const Dims& dims, const Dims& other);

// Calls f with the width as a compile-time constant where that lets the compiler unroll, 0 for any other.
template <class F>
void with_width(int64_t width, F&& f) {
  switch (width) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 8: return f(std::integral_constant<int, 8>{});
    case 16: return f(std::integral_constant<int, 16>{});
    default: return f(std::integral_constant<int, 0>{});
  }
}

// Layouts for kernels that take any ChannelView: operands of the first input's dims lie as one of them lies now, all
// others are plain.
std::vector<Candidate> propose_channelwise(const Node& node);

// A piece of a block: rows of `width` channels that one thread works on at a time.
struct ChannelPiece {
  int64_t offset = 0;   // of the first element
  int64_t channel = 0;  // of the block's first channel
  int64_t rows = 0;
  int64_t sample = 0;
};

class ChannelPieces {
 public:
  explicit ChannelPieces(const ChannelView& view) : view_(view) {
    constexpr int64_t elements = 4096;
    rows_ = std::clamp<int64_t>(elements / std::max<int64_t>(view.width, 1), 16, elements);
    per_block_ = (view.spatial + rows_ - 1) / rows_;
  }
  int64_t count() const { return view_.batch * view_.blocks * per_block_; }
  // Those of one block, over all samples.
  int64_t count_of_block() const { return view_.batch * per_block_; }
  ChannelPiece of_block(int64_t block, int64_t i) const {
    return (*this)[(i / per_block_ * view_.blocks + block) * per_block_ + i % per_block_];
  }
  int64_t elements() const { return rows_ * view_.width; }
  ChannelPiece operator[](int64_t i) const {
    int64_t row = i % per_block_ * rows_;
    int64_t block = i / per_block_;
    return {block * view_.spatial * view_.width + row * view_.width, block % view_.blocks * view_.width,
            std::min(rows_, view_.spatial - row), block / view_.blocks};
  }

 private:
  ChannelView view_;
  int64_t rows_ = 0;
  int64_t per_block_ = 0;
};

// f(i, c) for every element i of every channel c, padding channels included.
template <class F>
void for_each_channel_element(const ChannelView& view, F f) {
  ChannelPieces pieces(view);
  parallel_for(pieces.count(), pieces.elements(), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      ChannelPiece piece = pieces[p];
      auto rows_of = [&](int64_t width) {
        for (int64_t r = 0; r < piece.rows; ++r) {
#pragma omp simd
          for (int64_t v = 0; v < width; ++v) f(piece.offset + r * width + v, piece.channel + v);
        }
      };
      // Constant widths let the compiler unroll.
      if (view.width == 1) {
#pragma omp simd
        for (int64_t r = 0; r < piece.rows; ++r) f(piece.offset + r, piece.channel);
      } else if (view.width == 8) {
        rows_of(8);
      } else if (view.width == 16) {
        rows_of(16);
      } else {
        rows_of(view.width);
      }
    }
  });
}

// Sums over batch and space of one or two terms a channel. Partial sums of a piece are in T, of a slice of the pieces
// of a block in double. How many slices there are decides the bits, how many threads work does not.
class ChannelSums {
 public:
  // `scratch` has scratch_bytes(view, slices); the number of slices is settled with it.
  ChannelSums(const ChannelView& view, void* scratch, int64_t slices)
      : view_(view), slices_(slices), partial_(static_cast<double*>(scratch)) {}

  static int64_t scratch_bytes(const ChannelView& view, int64_t slices) {
    return checked_mul(slices, checked_mul(view.padded_channels(), 4 * int64_t{sizeof(double)}));
  }

  // Enough for many threads, from the shape alone.
  static int64_t slices(const ChannelView& view) {
    constexpr int64_t parts = 64;
    int64_t most = std::max<int64_t>(ChannelPieces(view).count_of_block(), 1);
    return std::clamp<int64_t>(parts / std::max<int64_t>(view.blocks, 1), 1, most);
  }

  // first[c] = sum f(i, c).first, second[c] = sum f(i, c).second; f gives a std::pair<T, T>.
  template <class T, class F>
  void run(F f) {
    ChannelPieces pieces(view_);
    int64_t channels = view_.padded_channels();
    int64_t count = pieces.count_of_block(), parts = slices_ * view_.blocks;
    int64_t cost = 4 * view_.storage_count() / std::max<int64_t>(parts, 1);
    parallel_for(parts, cost, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        int64_t slice = part / view_.blocks, block = part % view_.blocks, width = view_.width;
        double* total = partial_ + slice * 4 * channels + block * width;
        T* sums = reinterpret_cast<T*>(partial_ + slice * 4 * channels + 2 * channels) + 2 * block * width;
        std::fill(total, total + width, 0.0);
        std::fill(total + channels, total + channels + width, 0.0);
        for (int64_t p = count * slice / slices_; p < count * (slice + 1) / slices_; ++p) {
          add_piece<T>(pieces.of_block(block, p), sums, f);
          for (int64_t v = 0; v < width; ++v) {
            total[v] += static_cast<double>(sums[v]);
            total[channels + v] += static_cast<double>(sums[width + v]);
          }
        }
      }
    });
    for (int64_t slice = 1; slice < slices_; ++slice) {
      const double* more = partial_ + slice * 4 * channels;
      for (int64_t c = 0; c < 2 * channels; ++c) partial_[c] += more[c];
    }
  }

  double first(int64_t c) const { return partial_[c]; }
  double second(int64_t c) const { return partial_[view_.padded_channels() + c]; }

 private:
  template <class T, class F>
  void add_piece(const ChannelPiece& piece, T* sums, F& f) const {
    if (view_.width == 1) {
      T a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
      for (int64_t r = 0; r < piece.rows; ++r) {
        auto [first, second] = f(piece.offset + r, piece.channel);
        a += first;
        b += second;
      }
      sums[0] = a;
      sums[1] = b;
    } else if (view_.width == 16) {
      add_rows<T, 16>(piece, sums, f);
    } else if (view_.width == 8) {
      add_rows<T, 8>(piece, sums, f);
    } else {
      std::fill(sums, sums + 2 * view_.width, T{0});
      for (int64_t r = 0; r < piece.rows; ++r) {
        int64_t at = piece.offset + r * view_.width;
#pragma omp simd
        for (int64_t v = 0; v < view_.width; ++v) {
          auto [first, second] = f(at + v, piece.channel + v);
          sums[v] += first;
          sums[view_.width + v] += second;
        }
      }
    }
  }

  template <class T, int W, class F>
  static void add_rows(const ChannelPiece& piece, T* sums, F& f) {
    T a[W] = {}, b[W] = {};
    for (int64_t r = 0; r < piece.rows; ++r) {
      int64_t at = piece.offset + r * W;
#pragma omp simd
      for (int64_t v = 0; v < W; ++v) {
        auto [first, second] = f(at + v, piece.channel + v);
        a[v] += first;
        b[v] += second;
      }
    }
    std::copy(a, a + W, sums);
    std::copy(b, b + W, sums + W);
  }

  ChannelView view_;
  int64_t slices_;
  double* partial_;
};

}  // namespace graft
