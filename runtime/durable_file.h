// A file that appears under its name only when it is whole and on the disk.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace graft {

// Writes to a temporary name in the same folder; commit() syncs, renames over `path` and syncs the folder.
// Without commit the temporary is removed and what stood under `path` stays. A symbolic link is followed: its target is
// replaced. UsageError where `path` names something other than a regular file, DeviceError when the system refuses
// (no folder, no permission, full disk).
class DurableFile {
 public:
  explicit DurableFile(std::string path);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(const void* data, int64_t bytes);
  void write(std::string_view text) { write(text.data(), static_cast<int64_t>(text.size())); }
  // Bytes written so far.
  int64_t size() const { return size_; }
  // Everything written so far is on the disk, still under the temporary name. For files that belong together: sync all,
  // then commit all.
  void sync();
  void commit();

 private:
  void flush();
  void discard() noexcept;
  [[noreturn]] void fail(std::string_view what, int error) const;

  std::string path_;
  std::string temporary_;
  std::vector<char> buffer_;
  int64_t size_ = 0;
  int descriptor_ = -1;
};

void write_durable_file(const std::string& path, std::string_view contents);

}  // namespace graft
