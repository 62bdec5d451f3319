// Between float32 and bfloat16, compiled for several instruction sets and chosen at run time.
#pragma once

#include <cstdint>

#include "graph/dtype.h"

namespace graft {

void to_float(const BFloat16* from, float* to, int64_t count);
// Rounds to nearest even; NaN stays NaN.
void to_bfloat16(const float* from, BFloat16* to, int64_t count);

}  // namespace graft
