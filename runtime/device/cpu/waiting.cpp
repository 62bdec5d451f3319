#include "runtime/device/cpu/waiting.h"

#include <cstdlib>
#include <string>

#if defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#include <unistd.h>
#endif

namespace graft {

void limit_busy_waiting([[maybe_unused]] char** arguments) {
#if defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
  constexpr const char* variable = "GOMP_SPINCOUNT";
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv(variable)) return;
  // Measured: the shortest wait that costs small kernels nothing on an idle machine.
  constexpr int spins = 1000;
  if (::setenv(variable, std::to_string(spins).c_str(), 1) == 0) ::execv("/proc/self/exe", arguments);
#endif
}

}  // namespace graft
