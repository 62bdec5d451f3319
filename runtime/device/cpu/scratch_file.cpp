#include "runtime/device/cpu/scratch_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "graph/error.h"

namespace graft {

ScratchFile::ScratchFile(std::string folder, int64_t bytes) : folder_(std::move(folder)) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) throw DeviceError("cannot make the folder \"", folder_, "\": ", error.message());
  std::string name = (std::filesystem::path(folder_) / ".scratch.XXXXXX").string();
  descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (descriptor_ < 0) fail("cannot create a file in", errno);
  ::unlink(name.c_str());
  // Said now, and not when the disk is full after hours. Some file systems can only promise.
  int refused = bytes > 0 ? ::posix_fallocate(descriptor_, 0, bytes) : 0;
  if (refused == EOPNOTSUPP || refused == EINVAL) refused = ::ftruncate(descriptor_, bytes) == 0 ? 0 : errno;
  if (refused == 0) return;
  ::close(descriptor_);
  descriptor_ = -1;
  throw DeviceError("cannot take ", bytes, " bytes in \"", folder_, "\": ", std::generic_category().message(refused));
}

ScratchFile::~ScratchFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void ScratchFile::fail(const char* what, int error) const {
  throw DeviceError(what, " \"", folder_, "\": ", std::generic_category().message(error));
}

void ScratchFile::write(int64_t offset, const void* data, int64_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t written = ::pwrite(descriptor_, from, static_cast<size_t>(bytes), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("cannot write a file in", written < 0 ? errno : ENOSPC);
    from += written;
    offset += written;
    bytes -= written;
  }
}

void ScratchFile::read(int64_t offset, void* data, int64_t bytes) const {
  auto* to = static_cast<char*>(data);
  while (bytes > 0) {
    ssize_t got = ::pread(descriptor_, to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("cannot read a file in", errno);
    if (got == 0) throw DeviceError("a file in \"", folder_, "\" ends before it should");
    to += got;
    offset += got;
    bytes -= got;
  }
}

}  // namespace graft
