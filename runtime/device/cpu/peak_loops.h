// Loops that do nothing but use one part of the machine up: its limits are measured with them. One thread each.
#pragma once

#include <cstdint>

namespace graft {

// Multiply-adds in registers, enough of them at a time to hide their latency. Return the FLOPs done, two for each.
double multiply_add_f32(int64_t rounds);
double multiply_add_f64(int64_t rounds);

// a = b + s * c. `streaming` writes past the caches; `a` is then aligned to 64 bytes and `count` a multiple of 64.
void triad(float* a, const float* b, const float* c, int64_t count, bool streaming);

}  // namespace graft
