// 1x1 convolutions in bfloat16 on the CPU's matrix tiles, for activations in blocks of 16 channels. One thread.
#pragma once

#include "ops/bfloat16_gemm.h"
#include "ops/normalization_loops.h"

namespace graft {

// Channel c of pixel p of sample n is at data[n * sample + c / 16 * block + p * 16 + c % 16].
struct PixelMap {
  BFloat16* data = nullptr;
  int64_t blocks = 0;    // of 16 channels, the last one padded with zeros
  int64_t pixels = 0;    // of a sample
  int64_t channels = 0;  // without padding

  int64_t block() const { return pixels * tile_side; }
  int64_t sample() const { return blocks * block(); }
};

// Bytes of scratch that pointwise_product wants.
int64_t pointwise_scratch_bytes(int64_t source_blocks);

// result[pixel][r] = sum over c of source[pixel][c] w[c][r] for pixels [begin, end), counted over all samples. w is in
// tiles, [blocks of result][pairs of blocks of source][16 pairs of c][16 r][2 c], with zeros in place of c that the
// source does not have. The CPU has_matrix_tiles().
void pointwise_product(const PixelMap& source, const BFloat16* w, const Finish<BFloat16>& finish,
                       const PixelMap& result, int64_t begin, int64_t end, void* scratch);

}  // namespace graft
