// The part of the zip format that .npz files use: members stored or deflated, zip64, no encryption.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "importers/data/input_file.h"
#include "runtime/durable_file.h"

namespace graft {

struct ZipMember {
  std::string name;
  uint16_t method = 0;  // 0 stored, 8 deflated
  uint32_t crc = 0;
  int64_t packed = 0;
  int64_t unpacked = 0;
  int64_t header = 0;  // offset of the local header
};

// The central directory, checked against the file: members lie inside it, do not overlap and unpack to plausible sizes.
std::vector<ZipMember> read_zip_directory(const InputFile& file);

// Reads one member from its beginning to its end. `file` and `member` must outlive it.
class ZipStream {
 public:
  ZipStream(const InputFile& file, const ZipMember& member);
  int64_t remaining() const { return remaining_; }
  void read(void* out, int64_t bytes);
  // Checks that all was read and that the checksum fits.
  void finish();

 private:
  struct Inflater;
  void inflate(uint8_t* out, int64_t bytes);

  const InputFile& file_;
  const ZipMember& member_;
  int64_t offset_ = 0;
  int64_t packed_left_ = 0;
  int64_t remaining_ = 0;
  uint32_t crc_ = 0;
  std::shared_ptr<Inflater> inflater_;  // of a deflated member; it reads buffer_
  std::vector<uint8_t> buffer_;
};

// Writes stored members one after the other. The checksum comes first in the format, so each member is given whole,
// as a list of byte ranges.
class ZipWriter {
 public:
  struct Bytes {
    const void* data = nullptr;
    int64_t size = 0;
  };
  explicit ZipWriter(const std::string& path) : file_(path) {}
  void add(const std::string& name, const std::vector<Bytes>& parts);
  // Writes the directory and makes the file durable.
  void commit();

 private:
  DurableFile file_;
  std::vector<ZipMember> members_;
};

// CRC-32 as zip has it (reflected 0xEDB88320), going on from `crc`.
uint32_t zip_crc(uint32_t crc, const void* data, int64_t bytes);

}  // namespace graft
