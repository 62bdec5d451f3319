// The sums over each channel of a result that a kernel can leave beside it, so that a normalisation behind it need not
// read it all for them. Opaque bytes between two nodes.
#pragma once

#include "ops/op.h"

namespace graft {

// Of every channel c, padding included: sums of y - about[c], and of its square.
struct ChannelStatistics {
  double *about, *sums, *squares;

  ChannelStatistics(double* base, int64_t padded_channels)
      : about(base), sums(base + padded_channels), squares(base + 2 * padded_channels) {}
  static int64_t bytes(int64_t padded_channels) {
    return checked_mul(3 * static_cast<int64_t>(sizeof(double)), padded_channels);
  }
};

}  // namespace graft
