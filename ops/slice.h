// Slices as gradient rules write them.
#pragma once

#include "ops/build.h"

namespace graft {

// The range [start, end) of one axis.
Val slice(const Val& x, int64_t axis, int64_t start, int64_t end);

}  // namespace graft
