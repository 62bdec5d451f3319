// Work on all threads whose scratch is by thread.
#pragma once

#include <algorithm>

#include "runtime/device/device.h"

namespace graft {

// f(thread, begin, end) for each of `threads` contiguous parts of [0, count), at once. Fewer threads take several
// parts.
template <class F>
void for_slices(int64_t count, int64_t threads, F f) {
  constexpr int64_t whole_thread = 1 << 20;  // the cost of an item that is worth a thread
  parallel_for(threads, whole_thread, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(t, count * t / threads, count * (t + 1) / threads);
  });
}

// Sums that do not depend on the number of threads: so many beside each other.
constexpr int64_t sum_parts = 16;

// total[0..width) = the sum over the parts of what add(thread, begin, end, mine) adds to mine[0..width), from zeros,
// for the items [begin, end) of a part of [0, count). `threads`: sum_parts at most; `sums`: sum_parts times `width`.
template <class F>
void sum_in_parts(int64_t count, int64_t width, int64_t threads, float* sums, float* total, F add) {
  for_slices(sum_parts, threads, [&](int64_t thread, int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      float* mine = sums + part * width;
      std::fill_n(mine, width, 0.0F);
      add(thread, count * part / sum_parts, count * (part + 1) / sum_parts, mine);
    }
  });
  for (int64_t i = 0; i < width; ++i) {
    float sum = 0;
    for (int64_t part = 0; part < sum_parts; ++part) sum += sums[part * width + i];
    total[i] = sum;
  }
}

}  // namespace graft
