#include "importers/data/zip.h"

#include <arrow/util/compression.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>

#include "graph/dtype.h"
#include "graph/error.h"
#include "runtime/device/device.h"

namespace graft {
namespace {

constexpr uint32_t local_signature = 0x04034b50;
constexpr uint32_t entry_signature = 0x02014b50;
constexpr uint32_t end_signature = 0x06054b50;
constexpr uint32_t end64_signature = 0x06064b50;
constexpr uint32_t locator64_signature = 0x07064b50;
constexpr int64_t local_bytes = 30;
constexpr int64_t entry_bytes = 46;
constexpr int64_t end_bytes = 22;
constexpr int64_t end64_bytes = 56;
constexpr int64_t locator64_bytes = 20;
constexpr uint16_t extra64 = 1;
constexpr uint32_t full32 = 0xffffffff;
constexpr uint16_t full16 = 0xffff;
constexpr int64_t largest_directory = int64_t{64} << 20;
// Deflate spends at least two bits on 258 bytes.
constexpr int64_t largest_ratio = 1040;

template <class T>
T load(const uint8_t* bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value | static_cast<T>(static_cast<T>(bytes[i]) << (8 * i)));
  return value;
}

template <class T>
void store(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

template <class... Parts>
[[noreturn]] void broken(const InputFile& file, const Parts&... parts) {
  throw DataError("\"", file.path(), "\" is not a sound .npz file: ", cat(parts...));
}

int64_t as_size(const InputFile& file, uint64_t value) {
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) broken(file, "size ", value, " is too large");
  return static_cast<int64_t>(value);
}

std::vector<uint8_t> read_bytes(const InputFile& file, int64_t offset, int64_t bytes) {
  std::vector<uint8_t> out(static_cast<size_t>(bytes));
  file.read(offset, out.data(), bytes);
  return out;
}

struct Directory {
  int64_t offset = 0;
  int64_t bytes = 0;
  uint64_t count = 0;
};

Directory read_end64(const InputFile& file, int64_t end) {
  if (end < locator64_bytes) broken(file, "the zip64 locator is missing");
  auto locator = read_bytes(file, end - locator64_bytes, locator64_bytes);
  if (load<uint32_t>(locator.data()) != locator64_signature) broken(file, "the zip64 locator is missing");
  int64_t at = as_size(file, load<uint64_t>(&locator[8]));
  if (at > end - locator64_bytes - end64_bytes) broken(file, "the zip64 end record lies outside the file");
  auto record = read_bytes(file, at, end64_bytes);
  if (load<uint32_t>(record.data()) != end64_signature) broken(file, "the zip64 end record is missing");
  return {as_size(file, load<uint64_t>(&record[48])), as_size(file, load<uint64_t>(&record[40])),
          load<uint64_t>(&record[32])};
}

Directory find_directory(const InputFile& file) {
  if (file.size() < end_bytes) broken(file, "it has ", file.size(), " bytes");
  int64_t tail = std::min<int64_t>(file.size(), end_bytes + full16);
  auto bytes = read_bytes(file, file.size() - tail, tail);
  for (int64_t at = tail - end_bytes; at >= 0; --at) {
    const uint8_t* record = &bytes[static_cast<size_t>(at)];
    if (load<uint32_t>(record) != end_signature) continue;
    if (at + end_bytes + load<uint16_t>(record + 20) != tail) continue;
    int64_t end = file.size() - tail + at;
    Directory directory{load<uint32_t>(record + 16), load<uint32_t>(record + 12), load<uint16_t>(record + 10)};
    bool large = directory.offset == full32 || directory.bytes == full32 || directory.count == full16;
    if (large) directory = read_end64(file, end);
    if (directory.offset > end || directory.bytes > end - directory.offset) {
      broken(file, "its directory of ", directory.bytes, " bytes at ", directory.offset, " lies outside the file");
    }
    if (directory.bytes > largest_directory) broken(file, "its directory has ", directory.bytes, " bytes");
    return directory;
  }
  broken(file, "it is no zip archive, or it is cut off");
}

// The 64-bit sizes of an entry, in the order that the format gives them, for those fields that are full.
void read_extra64(const InputFile& file, const uint8_t* extra, size_t bytes, ZipMember& member,
                  const std::array<uint32_t, 3>& fields) {
  bool wanted = std::find(fields.begin(), fields.end(), full32) != fields.end();
  for (size_t at = 0; wanted && at + 4 <= bytes;) {
    size_t length = load<uint16_t>(extra + at + 2);
    if (length > bytes - at - 4) break;
    if (load<uint16_t>(extra + at) == extra64) {
      std::array<int64_t*, 3> targets{&member.unpacked, &member.packed, &member.header};
      size_t next = 0;
      for (size_t i = 0; i < targets.size(); ++i) {
        if (fields[i] != full32) continue;
        if (next + 8 > length) broken(file, "member \"", member.name, "\" lacks its 64-bit sizes");
        *targets[i] = as_size(file, load<uint64_t>(extra + at + 4 + next));
        next += 8;
      }
      return;
    }
    at += 4 + length;
  }
  if (wanted) broken(file, "member \"", member.name, "\" lacks its 64-bit sizes");
}

ZipMember parse_entry(const InputFile& file, const std::vector<uint8_t>& bytes, size_t& at) {
  if (bytes.size() - at < static_cast<size_t>(entry_bytes)) broken(file, "its directory is cut off");
  const uint8_t* entry = &bytes[at];
  if (load<uint32_t>(entry) != entry_signature) broken(file, "its directory has garbage at byte ", at);
  size_t name = load<uint16_t>(entry + 28);
  size_t extra = load<uint16_t>(entry + 30);
  size_t whole = static_cast<size_t>(entry_bytes) + name + extra + load<uint16_t>(entry + 32);
  if (whole > bytes.size() - at) broken(file, "its directory is cut off");
  ZipMember member;
  member.name.assign(reinterpret_cast<const char*>(entry) + entry_bytes, name);
  member.method = load<uint16_t>(entry + 10);
  member.crc = load<uint32_t>(entry + 16);
  std::array<uint32_t, 3> fields{load<uint32_t>(entry + 24), load<uint32_t>(entry + 20), load<uint32_t>(entry + 42)};
  member.unpacked = fields[0];
  member.packed = fields[1];
  member.header = fields[2];
  read_extra64(file, entry + entry_bytes + name, extra, member, fields);
  if (load<uint16_t>(entry + 8) & 1)
    throw UnsupportedError("\"", file.path(), "\": member \"", member.name, "\" is encrypted");
  if (member.method != 0 && member.method != 8) {
    throw UnsupportedError("\"", file.path(), "\": member \"", member.name, "\" has compression method ", member.method,
                           ", supported are stored (0) and deflated (8)");
  }
  at += whole;
  return member;
}

void check_sizes(const InputFile& file, const std::vector<ZipMember>& members) {
  int64_t packed = 0;
  int64_t unpacked = 0;
  for (const auto& member : members) {
    if (member.header > file.size() - local_bytes || member.packed > file.size() - local_bytes - member.header) {
      broken(file, "member \"", member.name, "\" lies outside the file");
    }
    bool plausible =
        member.method == 0 ? member.unpacked == member.packed : member.unpacked / largest_ratio <= member.packed;
    if (!plausible) {
      broken(file, "member \"", member.name, "\" claims ", member.unpacked, " bytes out of ", member.packed);
    }
    packed += member.packed;  // each at most the size of the file, and at most 2^26 / 46 members
    unpacked += member.unpacked;
    if (packed > file.size()) broken(file, "its members overlap");
    if (unpacked > physical_memory()) broken(file, "its arrays do not fit into the memory of this machine");
  }
}

}  // namespace

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

std::vector<ZipMember> read_zip_directory(const InputFile& file) {
  Directory directory = find_directory(file);
  auto bytes = read_bytes(file, directory.offset, directory.bytes);
  std::vector<ZipMember> members;
  for (size_t at = 0; at < bytes.size();) members.push_back(parse_entry(file, bytes, at));
  if (members.size() != directory.count) {
    broken(file, "its directory lists ", members.size(), " members and claims ", directory.count);
  }
  check_sizes(file, members);
  return members;
}

ZipStream::ZipStream(const InputFile& file, const ZipMember& member)
    : file_(file), member_(member), packed_left_(member.packed), remaining_(member.unpacked) {
  auto header = read_bytes(file, member.header, local_bytes);
  if (load<uint32_t>(header.data()) != local_signature) broken(file, "member \"", member.name, "\" has no header");
  offset_ = member.header + local_bytes + load<uint16_t>(&header[26]) + load<uint16_t>(&header[28]);
  if (offset_ > file.size() - member.packed) broken(file, "member \"", member.name, "\" lies outside the file");
  if (member.method == 8) {
    arrow::util::GZipCodecOptions options;
    options.gzip_format = arrow::util::GZipFormat::DEFLATE;
    auto codec = arrow::util::Codec::Create(arrow::Compression::GZIP, options);
    if (!codec.ok()) throw UnsupportedError("this build of Arrow cannot inflate: ", codec.status().ToString());
    auto decompressor = (*codec)->MakeDecompressor();
    if (!decompressor.ok()) throw DeviceError("cannot inflate: ", decompressor.status().ToString());
    decompressor_ = *decompressor;
  }
}

void ZipStream::read(void* out, int64_t bytes) {
  if (bytes < 0 || bytes > remaining_) {
    broken(file_, "member \"", member_.name, "\" has ", remaining_, " bytes left, ", bytes, " are wanted");
  }
  if (decompressor_) {
    inflate(static_cast<uint8_t*>(out), bytes);
  } else {
    file_.read(offset_, out, bytes);
    offset_ += bytes;
  }
  crc_ = zip_crc(crc_, out, bytes);
  remaining_ -= bytes;
}

void ZipStream::inflate(uint8_t* out, int64_t bytes) {
  constexpr int64_t chunk = int64_t{1} << 18;
  while (bytes > 0) {
    if (buffer_begin_ == buffer_.size() && packed_left_ > 0) {
      int64_t size = std::min(chunk, packed_left_);
      buffer_.resize(static_cast<size_t>(size));
      file_.read(offset_, buffer_.data(), size);
      offset_ += size;
      packed_left_ -= size;
      buffer_begin_ = 0;
    }
    auto result = decompressor_->Decompress(static_cast<int64_t>(buffer_.size() - buffer_begin_),
                                            buffer_.data() + buffer_begin_, std::min(bytes, chunk * 64), out);
    if (!result.ok()) broken(file_, "member \"", member_.name, "\": ", result.status().message());
    bool stuck = result->bytes_read == 0 && result->bytes_written == 0;
    if (stuck || (result->bytes_written < bytes && decompressor_->IsFinished())) {
      broken(file_, "the compressed data of member \"", member_.name, "\" ends early");
    }
    buffer_begin_ += static_cast<size_t>(result->bytes_read);
    out += result->bytes_written;
    bytes -= result->bytes_written;
  }
}

void ZipStream::finish() {
  if (remaining_ != 0) broken(file_, "member \"", member_.name, "\" has ", remaining_, " bytes too many");
  if (crc_ != member_.crc) broken(file_, "the checksum of member \"", member_.name, "\" is wrong");
}

uint32_t zip_crc(uint32_t crc, const void* data, int64_t bytes) {
  // Eight tables take eight bytes a turn.
  using Tables = std::array<std::array<uint32_t, 256>, 8>;
  static const auto tables = [] {
    Tables t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? 0xedb88320U : 0U);
      t[0][i] = value;
    }
    for (size_t k = 1; k < 8; ++k) {
      for (size_t i = 0; i < 256; ++i) t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 0xff];
    }
    return t;
  }();
  const auto* at = static_cast<const uint8_t*>(data);
  crc = ~crc;
  for (; bytes >= 8; bytes -= 8, at += 8) {
    uint32_t low = load<uint32_t>(at) ^ crc;
    uint32_t high = load<uint32_t>(at + 4);
    crc = 0;
    for (size_t k = 0; k < 4; ++k) {
      crc ^= tables[7 - k][(low >> (8 * k)) & 0xff] ^ tables[3 - k][(high >> (8 * k)) & 0xff];
    }
  }
  for (; bytes > 0; --bytes, ++at) crc = (crc >> 8) ^ tables[0][(crc ^ *at) & 0xff];
  return ~crc;
}

namespace {

constexpr uint16_t utf8_flag = 1 << 11;
constexpr uint16_t first_day = (0 << 9) | (1 << 5) | 1;  // 1 January 1980: equal arrays give equal files

uint32_t clamp32(int64_t value) { return value >= full32 ? full32 : static_cast<uint32_t>(value); }

// What local header and directory entry have in common, from the version on.
void store_common(std::string& out, const ZipMember& member, size_t extra) {
  bool large = member.packed >= full32 || member.header >= full32;
  store<uint16_t>(out, large ? 45 : 20);
  store<uint16_t>(out, utf8_flag);
  store<uint16_t>(out, member.method);
  store<uint16_t>(out, 0);
  store<uint16_t>(out, first_day);
  store<uint32_t>(out, member.crc);
  store<uint32_t>(out, clamp32(member.packed));
  store<uint32_t>(out, clamp32(member.unpacked));
  store<uint16_t>(out, static_cast<uint16_t>(member.name.size()));
  store<uint16_t>(out, static_cast<uint16_t>(extra));
}

std::string make_extra64(const std::vector<int64_t>& sizes) {
  std::string extra;
  if (sizes.empty()) return extra;
  store<uint16_t>(extra, extra64);
  store<uint16_t>(extra, static_cast<uint16_t>(8 * sizes.size()));
  for (int64_t size : sizes) store<uint64_t>(extra, static_cast<uint64_t>(size));
  return extra;
}

}  // namespace

void ZipWriter::add(const std::string& name, const std::vector<Bytes>& parts) {
  if (name.size() > full16) throw UsageError("array name of ", name.size(), " bytes, an .npz file allows ", full16);
  ZipMember member;
  member.name = name;
  member.header = file_.size();
  for (const auto& part : parts) {
    member.crc = zip_crc(member.crc, part.data, part.size);
    member.packed += part.size;
  }
  member.unpacked = member.packed;
  // A local header has both sizes or none.
  std::string extra = make_extra64(member.packed >= full32 ? std::vector<int64_t>{member.unpacked, member.packed}
                                                           : std::vector<int64_t>{});
  std::string header;
  store<uint32_t>(header, local_signature);
  store_common(header, member, extra.size());
  file_.write(header + member.name + extra);
  for (const auto& part : parts) file_.write(part.data, part.size);
  members_.push_back(std::move(member));
}

void ZipWriter::commit() {
  int64_t begin = file_.size();
  for (const auto& member : members_) {
    std::vector<int64_t> sizes;
    if (member.packed >= full32) sizes = {member.unpacked, member.packed};
    if (member.header >= full32) sizes.push_back(member.header);
    std::string extra = make_extra64(sizes);
    std::string entry;
    store<uint32_t>(entry, entry_signature);
    store<uint16_t>(entry, (3 << 8) | 45);  // made on Unix
    store_common(entry, member, extra.size());
    store<uint16_t>(entry, 0);  // comment
    store<uint16_t>(entry, 0);  // disk
    store<uint16_t>(entry, 0);  // internal attributes
    store<uint32_t>(entry, 0644U << 16);
    store<uint32_t>(entry, clamp32(member.header));
    file_.write(entry + member.name + extra);
  }
  int64_t end = file_.size();
  auto count = static_cast<int64_t>(members_.size());
  std::string record;
  if (begin >= full32 || end - begin >= full32 || count >= full16) {
    store<uint32_t>(record, end64_signature);
    store<uint64_t>(record, end64_bytes - 12);
    store<uint16_t>(record, (3 << 8) | 45);
    store<uint16_t>(record, 45);
    store<uint64_t>(record, 0);  // disks
    store<uint64_t>(record, static_cast<uint64_t>(count));
    store<uint64_t>(record, static_cast<uint64_t>(count));
    store<uint64_t>(record, static_cast<uint64_t>(end - begin));
    store<uint64_t>(record, static_cast<uint64_t>(begin));
    store<uint32_t>(record, locator64_signature);
    store<uint32_t>(record, 0);
    store<uint64_t>(record, static_cast<uint64_t>(end));
    store<uint32_t>(record, 1);
  }
  store<uint32_t>(record, end_signature);
  store<uint32_t>(record, 0);  // disks
  auto short_count = static_cast<uint16_t>(std::min<int64_t>(count, full16));
  store<uint16_t>(record, short_count);
  store<uint16_t>(record, short_count);
  store<uint32_t>(record, clamp32(end - begin));
  store<uint32_t>(record, clamp32(begin));
  store<uint16_t>(record, 0);
  file_.write(record);
  file_.commit();
}

}  // namespace graft
