#include "importers/data/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "graph/error.h"

namespace graft {

InputFile::InputFile(std::string path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) throw DataError("cannot open \"", path_, "\": ", std::generic_category().message(errno));
  struct stat status {};
  bool regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular) {
    ::close(descriptor_);
    throw DataError("\"", path_, "\" is not a regular file");
  }
  size_ = status.st_size;
}

InputFile::~InputFile() { ::close(descriptor_); }

void InputFile::read(int64_t offset, void* out, int64_t bytes) const {
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    ssize_t got = ::pread(descriptor_, to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw DataError("cannot read \"", path_, "\": ", std::generic_category().message(errno));
    if (got == 0) throw DataError("\"", path_, "\" ends at byte ", offset, ", ", bytes, " more are wanted");
    to += got;
    offset += got;
    bytes -= got;
  }
}

std::vector<uint8_t> InputFile::read_all(int64_t largest) const {
  if (size_ > largest) throw DataError("\"", path_, "\" has ", size_, " bytes, allowed are ", largest);
  std::vector<uint8_t> bytes(static_cast<size_t>(size_));
  read(0, bytes.data(), size_);
  return bytes;
}

}  // namespace graft
