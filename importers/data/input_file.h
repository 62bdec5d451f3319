// Reading of untrusted files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace graft {

// A regular file for reading at any place; never blocks on a pipe. DataError where it cannot be read.
class InputFile {
 public:
  explicit InputFile(std::string path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }
  void read(int64_t offset, void* out, int64_t bytes) const;
  // The whole file; DataError where it has more than `largest` bytes.
  std::vector<uint8_t> read_all(int64_t largest) const;

 private:
  std::string path_;
  int64_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace graft
