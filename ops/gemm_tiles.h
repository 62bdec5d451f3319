// The float32 matrix product of one thread on the CPU's matrix tiles (AMX).
#pragma once

#include "ops/bfloat16_gemm.h"
#include "ops/gemm_loops.h"

namespace graft {

// Whether the CPU has tiles, and they pay for a product of that size: its operands have to be brought into them.
bool gemm_fits_tiles(int64_t m, int64_t n, int64_t k);

// Rows and columns that tiles are worked on together, which a part of a product should have a multiple of.
constexpr int64_t gemm_tiles_step = 32;

// Floats of scratch that it wants, for products of up to that size.
int64_t gemm_tiles_scratch(int64_t m, int64_t n, int64_t k);
// As gemm(), at least as exact as one multiply-add after the other. There are tiles only where has_matrix_tiles().
void gemm_on_tiles(const GemmBlock& block, float* scratch);

}  // namespace graft
