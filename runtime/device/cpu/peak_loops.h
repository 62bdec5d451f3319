// Loops that do nothing but use one part of the machine up: its limits are measured with them. One thread each.
#pragma once

#include <cstdint>
#include <functional>

namespace graft {

// Multiply-adds in registers, enough of them at a time to hide their latency. Return the FLOPs done, two for each.
double multiply_add_f32(int64_t rounds);
double multiply_add_f64(int64_t rounds);

// The same of bfloat16 in matrix tiles, with float32 sums, where has_matrix_tiles().
double multiply_add_tiles(int64_t rounds);

// A product of bfloat16 matrices that fit in the cache, on all threads: what vector instructions for it reach. Made
// once, run as often as wanted; where has_bfloat16() only.
std::function<double()> bfloat16_product();

// a = b + s * c. `streaming` writes past the caches; `a` is then aligned to 64 bytes and `count` a multiple of 64.
void triad(float* a, const float* b, const float* c, int64_t count, bool streaming);

}  // namespace graft
