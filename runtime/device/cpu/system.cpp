#include "runtime/device/cpu/system.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace graft {
namespace {

// The kernel's list of caches, the last level last.
int64_t cache_bytes_of_sysfs() {
  int64_t bytes = 0;
  for (int index = 0; index < 8; ++index) {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
    int64_t size = 0;
    char unit = 0;
    if (!(file >> size)) break;
    file >> unit;
    bytes = size << (unit == 'M' ? 20 : unit == 'K' ? 10 : 0);
  }
  return bytes;
}

// A line "KEY:  N kB" of /proc/self/status, in bytes.
int64_t status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    int64_t kilobytes = 0;
    if (word == key + ":" && file >> kilobytes) return kilobytes << 10;
  }
  return 0;
}

}  // namespace

// sysconf comes second: it adds up what several caches of a package have, and in a virtual machine those of other
// cores.
int64_t last_level_cache_bytes() {
  constexpr int64_t otherwise = int64_t{8} << 20;
  if (int64_t bytes = cache_bytes_of_sysfs(); bytes > 0) return bytes;
#ifdef _SC_LEVEL3_CACHE_SIZE
  for (int level : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE}) {
    if (int64_t bytes = sysconf(level); bytes > 0) return bytes;
  }
#endif
  return otherwise;
}

std::optional<double> load_average() {
  double load = 0;
  if (::getloadavg(&load, 1) != 1) return std::nullopt;
  return load;
}

int core_count() {
  unsigned cores = std::thread::hardware_concurrency();
  return cores > 0 ? static_cast<int>(cores) : 1;
}

int64_t resident_bytes() { return status_bytes("VmRSS"); }

int64_t peak_resident_bytes() { return status_bytes("VmHWM"); }

bool reset_peak_resident() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

void return_large_buffers() {
#ifdef __GLIBC__
  constexpr int large = 1 << 20;
  mallopt(M_MMAP_THRESHOLD, large);
#endif
}

}  // namespace graft
