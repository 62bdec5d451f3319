// Time for measuring: it never jumps.
#pragma once

#include <chrono>

namespace graft {

// Seconds since some moment of the past.
inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace graft
