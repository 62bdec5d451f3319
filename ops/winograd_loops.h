// Convolutions with 3x3 windows of stride 1 by Winograd's minimal filtering F(2x2, 3x3): Lavin & Gray, "Fast algorithms
// for convolutional neural networks" (2016). A tile of 2x2 results takes 16 multiplications a pair of channels instead
// of 36:
//   y = A^T [ sum_c (G w G^T) o (B^T x B) ] A
//   dw = G^T [ sum over tiles (B^T x B) o (A dy A^T) ] G
// and dx is the convolution of dy with w turned by 180 degrees. The 16 products are matrix products over tiles and
// channels. float32, one thread; compiled for several instruction sets and chosen at run time.
#pragma once

#include <cstdint>

#include "ops/normalization_loops.h"

namespace graft {

// Activations lie in blocks of W channels, [N][C/W][H][W][W]: as many as a vector has elements.
int64_t channel_block();

// From a source (N, C, height, width) to a result (N, M, out_height, out_width); tile (n, i, j) gives the results at
// rows 2i, 2i+1 and columns 2j, 2j+1 of sample n.
struct WinogradShape {
  int64_t batch = 0;
  int64_t source_blocks = 0, result_blocks = 0;  // C/W, M/W
  int64_t height = 0, width = 0;                 // of the source
  int64_t out_height = 0, out_width = 0;
  int64_t top = 0, left = 0;  // padding

  int64_t down() const { return (out_height + 1) / 2; }
  int64_t across() const { return (out_width + 1) / 2; }
  int64_t tiles() const { return batch * down() * across(); }
};

constexpr int64_t winograd_points = 16;

// Weights lie as [M/W][C][3][3][W], transformed ones as [16][M/W][C][W]: the result blocks [begin, end).
void winograd_weights(const float* w, int64_t channels, int64_t blocks, int64_t begin, int64_t end, float* u);
// Those of the convolution that gives the gradient of the source: [16][C/W][M][W], of its result blocks [begin, end).
void winograd_turned_weights(const float* w, int64_t channels, int64_t blocks, int64_t begin, int64_t end, float* u);

// Floats of scratch that a thread wants for winograd_convolve.
int64_t winograd_scratch(const WinogradShape& shape);
// The results of tiles [begin, end).
void winograd_convolve(const WinogradShape& shape, const float* source, const float* u, const Finish<float>& finish,
                       float* result, int64_t begin, int64_t end, float* scratch);

// Transformed activations of `count` tiles from `first`, as [blocks][count][W] for each of 16 points, which are
// winograd_point(channels, count) floats apart: block `block` of the source, of the
// gradient of the result.
int64_t winograd_point(int64_t channels, int64_t tiles);
void winograd_source(const WinogradShape& shape, const float* source, int64_t block, int64_t first, int64_t count,
                     float* v);
void winograd_gradient(const WinogradShape& shape, const float* gradient, int64_t block, int64_t first, int64_t count,
                       float* v);
// One of the 16 points: du [M/W][C][W] = (or +=, where `adds`) sum over tiles of source [C/W][count][W] times gradient
// [M/W][count][W], for result blocks [begin, end).
void winograd_multiply(const WinogradShape& shape, const float* source, const float* gradient, int64_t count,
                       int64_t begin, int64_t end, bool adds, float* du);
// dw [M/W][C][3][3][W] from du [16][M/W][C][W]: result blocks [begin, end).
void winograd_weight_gradient(const float* du, int64_t channels, int64_t blocks, int64_t begin, int64_t end, float* dw);

}  // namespace graft
