#include "runtime/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "graph/error.h"

namespace graft {
namespace fs = std::filesystem;
namespace {

constexpr size_t buffer_bytes = size_t{1} << 20;

std::string reason(int error) { return std::generic_category().message(error); }

std::string folder_of(const std::string& path) {
  std::string folder = fs::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

std::string temporary_name(const std::string& path) {
  static std::atomic<uint64_t> counter{0};
  constexpr size_t longest = 200;  // a name may have 255 bytes
  std::string name = fs::path(path).filename().string().substr(0, longest);
  return (fs::path(folder_of(path)) / cat(".", name, ".", getpid(), ".", counter++, ".tmp")).string();
}

void write_all(int descriptor, const char* data, size_t bytes, int& error) {
  error = 0;
  while (bytes > 0) {
    ssize_t written = ::write(descriptor, data, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      error = written < 0 ? errno : ENOSPC;
      return;
    }
    data += written;
    bytes -= static_cast<size_t>(written);
  }
}

}  // namespace

DurableFile::DurableFile(std::string path) : path_(std::move(path)) {
  if (path_.empty()) throw UsageError("a file name is wanted, got an empty one");
  std::error_code error;
  if (fs::is_symlink(fs::symlink_status(path_, error))) {
    fs::path target = fs::weakly_canonical(path_, error);
    if (error) throw DeviceError("cannot write \"", path_, "\": ", error.message());
    path_ = target.string();
  }
  auto status = fs::status(path_, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    throw UsageError("cannot write \"", path_, "\": it exists and is not a regular file");
  }
  temporary_ = temporary_name(path_);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("cannot create", errno);
  buffer_.reserve(buffer_bytes);
}

DurableFile::~DurableFile() { discard(); }

void DurableFile::fail(std::string_view what, int error) const {
  throw DeviceError(what, " \"", path_, "\": ", reason(error));
}

void DurableFile::discard() noexcept {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  descriptor_ = -1;
  ::unlink(temporary_.c_str());
}

void DurableFile::flush() {
  int error = 0;
  write_all(descriptor_, buffer_.data(), buffer_.size(), error);
  buffer_.clear();
  if (error) {
    discard();
    fail("cannot write", error);
  }
}

void DurableFile::write(const void* data, int64_t bytes) {
  if (descriptor_ < 0) throw UsageError("\"", path_, "\" is written after it was committed or failed");
  if (bytes <= 0) return;
  const auto* source = static_cast<const char*>(data);
  auto wanted = static_cast<size_t>(bytes);
  if (buffer_.size() + wanted > buffer_bytes) flush();
  if (wanted >= buffer_bytes) {
    int error = 0;
    write_all(descriptor_, source, wanted, error);
    if (error) {
      discard();
      fail("cannot write", error);
    }
  } else {
    buffer_.insert(buffer_.end(), source, source + wanted);
  }
  size_ += bytes;
}

void DurableFile::sync() {
  if (descriptor_ < 0) throw UsageError("\"", path_, "\" is committed after it was committed or failed");
  flush();
  // A failed fsync is never tried again: the kernel may have dropped the dirty pages and would then report success.
  if (::fsync(descriptor_) != 0) {
    int error = errno;
    discard();
    fail("cannot sync", error);
  }
}

void DurableFile::commit() {
  sync();
  int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0 && errno != EINTR) {
    int error = errno;
    ::unlink(temporary_.c_str());
    fail("cannot close", error);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    int error = errno;
    ::unlink(temporary_.c_str());
    fail("cannot rename the finished file to", error);
  }
  int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) fail("cannot open the folder of", errno);
  // Some file systems cannot sync a folder and say EINVAL: the rename is as durable there as it gets.
  int synced = ::fsync(folder);
  int error = errno;
  ::close(folder);
  if (synced != 0 && error != EINVAL) fail("cannot sync the folder of", error);
}

void write_durable_file(const std::string& path, std::string_view contents) {
  DurableFile file(path);
  file.write(contents);
  file.commit();
}

}  // namespace graft
