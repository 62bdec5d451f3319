// Tensors in files beside the model. The model file is untrusted: whatever it names, only regular files inside its own
// folder are read.
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <system_error>

#include "importers/onnx/contents.h"
#include "importers/onnx/tensors.h"
#include "runtime/descriptor.h"

namespace graft {
namespace fs = std::filesystem;
namespace {

struct Extent {
  std::string location;
  int64_t offset = 0;
  int64_t length = -1;  // -1: not given
};

int64_t parse_size(const std::string& text, const char* key, const std::string& where) {
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0) {
    throw ModelError(where, " external data ", key, " is \"", shortened(text),
                     "\": allowed is a number from 0 to 2^63-1");
  }
  return value;
}

Extent parse_extent(const onnx::TensorProto& proto, const std::string& where) {
  Extent extent;
  bool located = false;
  for (const auto& entry : proto.external_data()) {
    if (entry.key() == "location") {
      if (located) throw ModelError(where, " names two external data locations");
      located = true;
      extent.location = entry.value();
    } else if (entry.key() == "offset") {
      extent.offset = parse_size(entry.value(), "offset", where);
    } else if (entry.key() == "length") {
      extent.length = parse_size(entry.value(), "length", where);
    }
  }
  if (extent.location.empty()) throw ModelError(where, " names no external data location");
  return extent;
}

// The location as a path of plain names.
fs::path checked_location(const std::string& location, const std::string& where) {
  auto refuse = [&](const char* why) -> ModelError {
    return ModelError(where, " external data location \"", shortened(location), "\" ", why,
                      ": allowed is a regular file inside the model's folder");
  };
  if (location.find('\0') != std::string::npos) throw refuse("has a zero byte");
  constexpr size_t longest = 4096;
  if (location.size() > longest) throw refuse("is too long");
  fs::path path(location);
  if (path.is_absolute() || location.front() == '\\' || (location.size() > 1 && location[1] == ':'))
    throw refuse("is absolute");
  fs::path plain;
  for (const auto& part : path) {
    if (part == "..") throw refuse("leaves the folder");
    if (part != "." && !part.empty()) plain /= part;
  }
  if (plain.empty() || location.back() == '/') throw refuse("is a folder");
  return plain;
}

// Opens component by component, never through a symbolic link; -1 with errno.
int open_by_component(int folder, const fs::path& location, int flags) {
  Descriptor current(::dup(folder));
  auto last = std::prev(location.end());
  for (auto part = location.begin(); part != last; ++part) {
    Descriptor next(::openat(current.get(), part->c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next.valid()) return -1;
    current = std::move(next);
  }
  return ::openat(current.get(), last->c_str(), flags | O_NOFOLLOW);
}

int open_beneath(int folder, const fs::path& location) {
  constexpr int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;  // a FIFO must not block
  open_how how{};
  how.flags = flags;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  auto opened = static_cast<int>(::syscall(SYS_openat2, folder, location.c_str(), &how, sizeof how));
  // Old kernels lack the call, and sandboxes forbid it.
  if (opened < 0 && (errno == ENOSYS || errno == EPERM)) return open_by_component(folder, location, flags);
  return opened;
}

Descriptor open_in(const fs::path& folder, const fs::path& location, int& error) {
  Descriptor base(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  error = errno;
  if (!base.valid()) return base;
  Descriptor file(open_beneath(base.get(), location));
  error = file.valid() ? 0 : errno;
  return file;
}

// A model in a content-addressed cache is a symbolic link, and so are its data files: both then end in one folder.
fs::path cached_target(const fs::path& link, const fs::path& canonical_folder) {
  std::error_code error;
  if (!fs::is_symlink(fs::symlink_status(link, error))) return {};
  fs::path target = fs::canonical(link, error);
  return !error && target.parent_path() == canonical_folder ? target.filename() : fs::path{};
}

Descriptor open_data(const fs::path& model, const std::string& location, const std::string& where) {
  fs::path plain = checked_location(location, where);
  int error = 0;
  Descriptor file = open_in(model.parent_path(), plain, error);
  std::error_code ignored;
  if (!file.valid() && fs::is_symlink(fs::symlink_status(model, ignored))) {
    fs::path canonical = fs::canonical(model, ignored).parent_path();
    int second = 0;
    fs::path target = cached_target(model.parent_path() / plain, canonical);
    file = open_in(canonical, target.empty() ? plain : target, second);
  }
  if (file.valid()) return file;
  std::string why =
      error == ELOOP || error == EXDEV ? "is or passes a symbolic link" : std::generic_category().message(error);
  throw ModelError(where, " external data \"", shortened(location), "\" cannot be read: ", why,
                   ": allowed is a regular file inside the model's folder ", model.parent_path());
}

int64_t checked_size(const Descriptor& file, const Extent& extent, const std::string& where) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw DeviceError(where, " cannot stat \"", shortened(extent.location), '"');
  const char* wrong = !S_ISREG(status.st_mode) ? "is no regular file"
                      : status.st_nlink > 1    ? "is a hard link"
                                               : nullptr;
  if (wrong)
    throw ModelError(where, " external data \"", shortened(extent.location), "\" ", wrong,
                     ": allowed is a regular file with one name");
  return status.st_size;
}

}  // namespace

Tensor ExternalData::read(const onnx::TensorProto& proto, const std::string& where) {
  DType dtype = checked_dtype(proto, where);
  Dims dims = checked_dims(proto, dtype, where);
  if (dtype == DType::string) throw ModelError(where, " is a string tensor in external data");
  if (proto.has_raw_data() && !proto.raw_data().empty()) throw ModelError(where, " has raw bytes beside external data");
  Extent extent = parse_extent(proto, where);
  int64_t wanted = byte_count(dtype, dims);
  if (extent.length >= 0 && extent.length != wanted) {
    throw ModelError(where, " external data length is ", extent.length, ", its dims ", dims, " of ", dtype, " want ",
                     wanted);
  }
  std::string key = cat(extent.offset, ' ', dtype, dims, extent.location);
  if (auto known = known_.find(key); known != known_.end()) return known->second;
  Descriptor file = open_data(model_, extent.location, where);
  int64_t size = checked_size(file, extent, where);
  if (extent.offset > size || wanted > size - extent.offset) {
    throw ModelError(where, " wants ", wanted, " bytes at offset ", extent.offset, " of \"", shortened(extent.location),
                     "\", which has ", size);
  }
  int64_t& taken = taken_[extent.location];
  taken = checked_add(taken, wanted);
  if (taken > size)
    throw ModelError(where, " overlaps other tensors in external data \"", shortened(extent.location), '"');
  Tensor out = Tensor::uninitialized(dtype, dims);
  int64_t done = 0;
  while (done < wanted) {
    ssize_t got = ::pread(file.get(), static_cast<char*>(out.raw()) + done, static_cast<size_t>(wanted - done),
                          extent.offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      throw DeviceError(where, " external data \"", shortened(extent.location), "\" ends at byte ",
                        extent.offset + done);
    done += got;
  }
  check_bools(out, where);
  known_[key] = out;
  return out;
}

}  // namespace graft
