#include "runtime/training/feature_store.h"

#include <cstring>

#include "graph/tensor.h"

namespace graft {
namespace {

uint64_t sum_of(const std::byte* bytes, int64_t count) {
  constexpr uint64_t odd = 0x9e3779b97f4a7c15;
  uint64_t sum = static_cast<uint64_t>(count);
  auto mix = [&](uint64_t word) {
    sum = (sum ^ word) * odd;
    sum ^= sum >> 32;
  };
  constexpr int64_t width = sizeof(uint64_t);
  for (; count >= width; count -= width, bytes += width) {
    uint64_t word = 0;
    std::memcpy(&word, bytes, width);
    mix(word);
  }
  uint64_t last = 0;
  std::memcpy(&last, bytes, static_cast<size_t>(count));
  mix(last);
  return sum;
}

}  // namespace

MemoryFeatures::MemoryFeatures(int64_t records, int64_t bytes)
    : bytes_(bytes), all_(allocate_bytes(checked_mul(records, bytes), false)) {}

void MemoryFeatures::write(int64_t record, const std::byte* bytes) {
  std::memcpy(all_.get() + record * bytes_, bytes, static_cast<size_t>(bytes_));
}

void MemoryFeatures::read(int64_t record, std::byte* bytes) const {
  std::memcpy(bytes, all_.get() + record * bytes_, static_cast<size_t>(bytes_));
}

DiskFeatures::DiskFeatures(const std::string& folder, int64_t records, int64_t bytes)
    : bytes_(bytes), file_(folder, checked_mul(records, bytes)), sums_(static_cast<size_t>(records)) {}

void DiskFeatures::write(int64_t record, const std::byte* bytes) {
  sums_.at(static_cast<size_t>(record)) = sum_of(bytes, bytes_);
  file_.write(record * bytes_, bytes, bytes_);
}

void DiskFeatures::read(int64_t record, std::byte* bytes) const {
  file_.read(record * bytes_, bytes, bytes_);
  if (sum_of(bytes, bytes_) != sums_.at(static_cast<size_t>(record)))
    throw DeviceError("features on the disk are damaged: what is read is not what was written");
}

}  // namespace graft
