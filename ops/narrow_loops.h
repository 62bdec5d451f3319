// 1x1 convolutions of few channels over many pixels, where memory is the limit, in float32: products of matrices that
// are too thin for kernels made for square ones. Activations lie in blocks of W channels, [C/W][pixels][W], as many as
// a vector has elements; compiled for several instruction sets and chosen at run time. One thread.
#pragma once

#include <cstdint>

namespace graft {

// One of the two activations of a sample.
struct NarrowMap {
  int64_t channels;  // without padding
  int64_t block;     // elements from a block to the next one
};

// Pixels that are worked on together, so that what all blocks read of them stays in a near cache.
constexpr int64_t narrow_pixels = 128;

// Of a result r: sums over pixels of r - about, and of its square, [blocks][W] each, to which those of more pixels are
// added.
struct NarrowSums {
  const float* about;
  double *sums, *squares;
};

// result[b][pixel][lane] = sum over c of source[c][pixel] * w[b][c][lane] for `pixels` pixels and all blocks of the
// result, of which w has [C][W] each. `streams`: past the caches; the result is aligned to a vector. `sums`: nullptr
// where none are wanted.
void narrow_product(const float* source, const NarrowMap& from, const float* w, float* result, const NarrowMap& to,
                    int64_t pixels, bool streams, const NarrowSums* sums = nullptr);

// dw[b][c][lane] += sum over `pixels` pixels of source[c][pixel] * gradient[b][pixel][lane].
void narrow_weight_gradient(const float* source, const NarrowMap& from, const float* gradient, const NarrowMap& to,
                            int64_t pixels, float* dw);

}  // namespace graft
