// Work on all threads whose scratch is by thread.
#pragma once

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

}  // namespace graft
