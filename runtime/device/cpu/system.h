// What the operating system says of the machine and of this process.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace graft {

// Size of the last-level cache; 8 MiB where the system does not say.
int64_t last_level_cache_bytes();
// That of a core's second cache; 1 MiB where the system does not say.
int64_t second_level_cache_bytes();

// What the maker calls the processor; "unknown" where the system does not say.
std::string processor_name();
// The instruction sets that oneDNN and our own kernels use on it, and oneDNN's version.
std::string instruction_sets();
std::string dnnl_version_text();

// Processes that want to run, on average over the last minute; nothing where the system does not say.
std::optional<double> load_average();
int core_count();

// Main memory that this process holds now, and the most that it held since its start or the last reset; 0 where the
// system does not say.
int64_t resident_bytes();
int64_t peak_resident_bytes();
// false where the system does not allow it: the peak is then that since the start.
bool reset_peak_resident();

// Whether files in this folder are kept in main memory: in tmpfs or ramfs.
bool lies_in_memory(const std::string& folder);

// From now on large buffers go back to the system when they are freed: where the C library would keep them, the process
// holds more than its plan says. Of the whole process: for the command, not for the library.
void return_large_buffers();
// Small ones that are free by now do so at once.
void return_small_buffers();

}  // namespace graft
