#include "runtime/device/cpu/system.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#ifdef __linux__
#include <sys/vfs.h>
#endif
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace graft {
namespace {

// Of the first core, by place in the system's list of caches: data, instructions, second level, third level. 0: there
// is none, or the system does not say.
int64_t cache_bytes_of_sysfs(int index) {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
  int64_t size = 0;
  char unit = 0;
  if (!(file >> size)) return 0;
  file >> unit;
  return size << (unit == 'M' ? 20 : unit == 'K' ? 10 : 0);
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
  constexpr int most = 8;
  for (int index = most; index-- > 0;) {
    if (int64_t bytes = cache_bytes_of_sysfs(index); bytes > 0) return bytes;
  }
#ifdef _SC_LEVEL3_CACHE_SIZE
  for (int level : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE}) {
    if (int64_t bytes = sysconf(level); bytes > 0) return bytes;
  }
#endif
  return otherwise;
}

int64_t second_level_cache_bytes() {
  constexpr int64_t otherwise = int64_t{1} << 20;
  constexpr int second = 2;
  if (int64_t bytes = cache_bytes_of_sysfs(second); bytes > 0) return bytes;
  return otherwise;
}

std::string processor_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
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

bool lies_in_memory(const std::string& folder) {
#ifdef __linux__
  constexpr auto tmpfs = 0x01021994, ramfs = static_cast<int>(0x858458f6);
  struct statfs found {};
  if (::statfs(folder.c_str(), &found) != 0) return false;
  const auto type = static_cast<int>(found.f_type);
  return type == tmpfs || type == ramfs;
#else
  return folder.empty();
#endif
}

void return_large_buffers() {
#ifdef __GLIBC__
  constexpr int large = 1 << 20;
  mallopt(M_MMAP_THRESHOLD, large);
#endif
}

void return_small_buffers() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace graft
