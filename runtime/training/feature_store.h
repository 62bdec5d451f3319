// Records of equal size, written one by one and then read in any order, from several threads at once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/device/cpu/scratch_file.h"

namespace graft {

class FeatureStore {
 public:
  virtual ~FeatureStore() = default;
  virtual void write(int64_t record, const std::byte* bytes) = 0;
  virtual void read(int64_t record, std::byte* bytes) const = 0;
};

class MemoryFeatures : public FeatureStore {
 public:
  // DeviceError where memory does not suffice.
  MemoryFeatures(int64_t records, int64_t bytes);
  void write(int64_t record, const std::byte* bytes) override;
  void read(int64_t record, std::byte* bytes) const override;

 private:
  int64_t bytes_;
  std::shared_ptr<std::byte[]> all_;
};

class DiskFeatures : public FeatureStore {
 public:
  // As ScratchFile.
  DiskFeatures(const std::string& folder, int64_t records, int64_t bytes);
  void write(int64_t record, const std::byte* bytes) override;
  // DeviceError where the bytes are not those that were written.
  void read(int64_t record, std::byte* bytes) const override;

 private:
  int64_t bytes_;
  ScratchFile file_;
  std::vector<uint64_t> sums_;  // of each record
};

}  // namespace graft
