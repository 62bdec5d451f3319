// Bytes on the disk for one process: a file without a name, which is gone when the process is, however it ends.
#pragma once

#include <cstdint>
#include <string>

namespace graft {

class ScratchFile {
 public:
  // In `folder`, which is made where need be, with room for `bytes`, all of them zero. DeviceError where the system
  // refuses: no permission, no room.
  ScratchFile(std::string folder, int64_t bytes);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  const std::string& folder() const { return folder_; }
  // From several threads at once.
  void write(int64_t offset, const void* data, int64_t bytes);
  // DeviceError where the file has become shorter.
  void read(int64_t offset, void* data, int64_t bytes) const;

 private:
  [[noreturn]] void fail(const char* what, int error) const;

  std::string folder_;
  int descriptor_ = -1;
};

}  // namespace graft
