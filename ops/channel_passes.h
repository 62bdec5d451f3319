// Two passes over a tensor, the second of which needs sums a channel from the first. Every block of channels makes both
// before the next one begins, so that the second finds in the cache what the first has read.
#pragma once

#include "ops/channel_view.h"

namespace graft {

class ChannelPasses {
 public:
  // Sums are of `sum_size` bytes. `operands`: how many tensors of the view's size a pass reads. Settled for the number
  // of threads as it is now; the results do not depend on it.
  ChannelPasses(const ChannelView& view, size_t element_size, size_t sum_size, int64_t operands)
      : view_(view), sum_size_(static_cast<int64_t>(sum_size)) {
    if (view.blocks == 1) {  // samples follow each other without a gap
      view_.spatial *= view_.batch;
      view_.batch = 1;
    }
    constexpr int64_t piece = 4096;
    // Sums of a piece of narrow elements should not take more bytes than it does.
    const int64_t fewest = 16 * sum_size_ / static_cast<int64_t>(element_size);
    rows_ = std::clamp<int64_t>(piece / std::max<int64_t>(view_.width, 1), fewest, piece);
    rows_ = std::clamp<int64_t>(rows_, 1, std::max<int64_t>(view_.spatial, 1));
    per_sample_ = (view_.spatial + rows_ - 1) / rows_;
    per_block_ = view_.batch * per_sample_;
    int64_t threads = thread_count();
    int64_t bytes =
        std::max<int64_t>(view_.batch * block_elements() * static_cast<int64_t>(element_size) * operands, 1);
    // Where the cache holds a block of each thread, threads take whole blocks; they share the others, so many at a
    // time.
    owned_ = bytes <= half_cache_bytes / threads ? view_.blocks / threads * threads : 0;
    together_ = std::clamp<int64_t>(half_cache_bytes / bytes, 1, std::max<int64_t>(view_.blocks - owned_, 1));
  }

  const ChannelView& view() const { return view_; }
  int64_t padded_channels() const { return view_.padded_channels(); }
  // Rows of the longest piece, and the number of pieces.
  int64_t rows() const { return rows_; }
  int64_t count() const { return view_.blocks * per_block_; }
  // The number of values that each channel has.
  int64_t values() const { return view_.batch * view_.spatial; }

  int64_t scratch_bytes() const {
    int64_t totals = checked_mul(padded_channels(), 2 * static_cast<int64_t>(sizeof(double)));
    int64_t sums = checked_add(padded_channels(), checked_mul(together_ * per_block_, view_.width));
    return checked_add(totals, checked_mul(sums, 2 * sum_size_));
  }

  // Work has, called in this order for every block:
  //   bool sums()                                                          whether there is a first pass
  //   begin(block)
  //   first(piece, number, T* sums)                                        gives [2][width] sums of the piece
  //   add(const T* sums, int64_t count, double* totals)                    totals[0..count) += sums
  //   middle(block, const double* totals)
  //   bool goes_on()                                                       whether there is a second pass
  //   second(piece, number)
  // The second pass goes backwards: what was read last is nearest.
  template <class T, class Work>
  void run(void* scratch, Work& work) const {
    auto* totals = static_cast<double*>(scratch);
    auto* own_sums = reinterpret_cast<T*>(totals + 2 * padded_channels());
    T* shared_sums = own_sums + 2 * padded_channels();
    const int64_t pair = 2 * view_.width;
    parallel_for(owned_, 2 * view_.batch * block_elements(), [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        double* total = totals + block * pair;
        T* sums = own_sums + block * pair;
        std::fill(total, total + pair, 0.0);
        work.begin(block);
        for (int64_t p = 0; work.sums() && p < per_block_; ++p) {
          work.first(piece(block, p), block * per_block_ + p, sums);
          work.add(sums, pair, total);
        }
        work.middle(block, total);
        for (int64_t p = per_block_; work.goes_on() && p-- > 0;) work.second(piece(block, p), block * per_block_ + p);
      }
    });
    for (int64_t block = owned_; block < view_.blocks; block += together_)
      share<T>(block, std::min(together_, view_.blocks - block), totals, shared_sums, work);
  }

 private:
  int64_t block_elements() const { return view_.spatial * view_.width; }

  ChannelPiece piece(int64_t block, int64_t p) const {
    int64_t sample = p / per_sample_;
    int64_t row = p % per_sample_ * rows_;
    return {view_.offset(sample, block) + row * view_.width, block * view_.width, std::min(rows_, view_.spatial - row),
            sample};
  }

  // All threads on `count` blocks from `first_block` on.
  template <class T, class Work>
  void share(int64_t first_block, int64_t count, double* totals, T* sums, Work& work) const {
    const int64_t pair = 2 * view_.width;
    const int64_t pieces = count * per_block_;
    const int64_t number = first_block * per_block_;
    auto at = [&](int64_t i) { return piece(first_block + i / per_block_, i % per_block_); };
    for (int64_t block = first_block; block < first_block + count; ++block) work.begin(block);
    if (work.sums()) {
      parallel_for(pieces, rows_ * view_.width, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) work.first(at(i), number + i, sums + i * pair);
      });
    }
    parallel_for(count * pair, per_block_, [&](int64_t begin, int64_t end) {
      for (int64_t some; begin < end; begin += some) {
        const int64_t b = begin / pair, from = begin % pair;
        some = std::min(pair - from, end - begin);
        double* total = totals + first_block * pair + begin;
        std::fill(total, total + some, 0.0);
        for (int64_t p = 0; work.sums() && p < per_block_; ++p)
          work.add(sums + (b * per_block_ + p) * pair + from, some, total);
      }
    });
    for (int64_t b = first_block; b < first_block + count; ++b) work.middle(b, totals + b * pair);
    if (!work.goes_on()) return;
    parallel_for(pieces, rows_ * view_.width, [&](int64_t begin, int64_t end) {
      for (int64_t i = end; i-- > begin;) work.second(at(i), number + i);
    });
  }

  ChannelView view_;
  int64_t sum_size_;
  int64_t rows_ = 1, per_sample_ = 1, per_block_ = 1;
  int64_t owned_ = 0, together_ = 1;
};

}  // namespace graft
