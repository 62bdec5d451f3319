#include "importers/data/zip.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <new>

#include "graph/dtype.h"
#include "graph/error.h"
#include "importers/data/zip_format.h"
#include "runtime/device/device.h"

namespace graft {
namespace {

constexpr int64_t largest_directory = int64_t{64} << 20;
// Deflate spends at least two bits on 258 bytes.
constexpr int64_t largest_ratio = 1040;

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
  if (load_little<uint32_t>(locator.data()) != locator64_signature) broken(file, "the zip64 locator is missing");
  int64_t at = as_size(file, load_little<uint64_t>(&locator[8]));
  if (at > end - locator64_bytes - end64_bytes) broken(file, "the zip64 end record lies outside the file");
  auto record = read_bytes(file, at, end64_bytes);
  if (load_little<uint32_t>(record.data()) != end64_signature) broken(file, "the zip64 end record is missing");
  return {as_size(file, load_little<uint64_t>(&record[48])), as_size(file, load_little<uint64_t>(&record[40])),
          load_little<uint64_t>(&record[32])};
}

Directory find_directory(const InputFile& file) {
  if (file.size() < end_bytes) broken(file, "it has ", file.size(), " bytes");
  int64_t tail = std::min<int64_t>(file.size(), end_bytes + full16);
  auto bytes = read_bytes(file, file.size() - tail, tail);
  for (int64_t at = tail - end_bytes; at >= 0; --at) {
    const uint8_t* record = &bytes[static_cast<size_t>(at)];
    if (load_little<uint32_t>(record) != end_signature) continue;
    if (at + end_bytes + load_little<uint16_t>(record + 20) != tail) continue;
    int64_t end = file.size() - tail + at;
    Directory directory{load_little<uint32_t>(record + 16), load_little<uint32_t>(record + 12),
                        load_little<uint16_t>(record + 10)};
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
    size_t length = load_little<uint16_t>(extra + at + 2);
    if (length > bytes - at - 4) break;
    if (load_little<uint16_t>(extra + at) == extra64) {
      std::array<int64_t*, 3> targets{&member.unpacked, &member.packed, &member.header};
      size_t next = 0;
      for (size_t i = 0; i < targets.size(); ++i) {
        if (fields[i] != full32) continue;
        if (next + 8 > length) broken(file, "member \"", member.name, "\" lacks its 64-bit sizes");
        *targets[i] = as_size(file, load_little<uint64_t>(extra + at + 4 + next));
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
  if (load_little<uint32_t>(entry) != entry_signature) broken(file, "its directory has garbage at byte ", at);
  size_t name = load_little<uint16_t>(entry + 28);
  size_t extra = load_little<uint16_t>(entry + 30);
  size_t whole = static_cast<size_t>(entry_bytes) + name + extra + load_little<uint16_t>(entry + 32);
  if (whole > bytes.size() - at) broken(file, "its directory is cut off");
  ZipMember member;
  member.name.assign(reinterpret_cast<const char*>(entry) + entry_bytes, name);
  member.method = load_little<uint16_t>(entry + 10);
  member.crc = load_little<uint32_t>(entry + 16);
  std::array<uint32_t, 3> fields{load_little<uint32_t>(entry + 24), load_little<uint32_t>(entry + 20),
                                 load_little<uint32_t>(entry + 42)};
  member.unpacked = fields[0];
  member.packed = fields[1];
  member.header = fields[2];
  read_extra64(file, entry + entry_bytes + name, extra, member, fields);
  if (load_little<uint16_t>(entry + 8) & 1)
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

struct ZipStream::Inflater {
  Inflater() {
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::bad_alloc();  // negative: no header of zlib's own
  }
  ~Inflater() { inflateEnd(&stream); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  z_stream stream{};
};

ZipStream::ZipStream(const InputFile& file, const ZipMember& member)
    : file_(file), member_(member), packed_left_(member.packed), remaining_(member.unpacked) {
  auto header = read_bytes(file, member.header, local_bytes);
  if (load_little<uint32_t>(header.data()) != local_signature)
    broken(file, "member \"", member.name, "\" has no header");
  offset_ = member.header + local_bytes + load_little<uint16_t>(&header[26]) + load_little<uint16_t>(&header[28]);
  if (offset_ > file.size() - member.packed) broken(file, "member \"", member.name, "\" lies outside the file");
  if (member.method == 8) inflater_ = std::make_shared<Inflater>();
}

void ZipStream::read(void* out, int64_t bytes) {
  if (bytes < 0 || bytes > remaining_) {
    broken(file_, "member \"", member_.name, "\" has ", remaining_, " bytes left, ", bytes, " are wanted");
  }
  if (inflater_) {
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
  z_stream& stream = inflater_->stream;
  while (bytes > 0) {
    if (stream.avail_in == 0 && packed_left_ > 0) {
      int64_t size = std::min(chunk, packed_left_);
      buffer_.resize(static_cast<size_t>(size));
      file_.read(offset_, buffer_.data(), size);
      offset_ += size;
      packed_left_ -= size;
      stream.next_in = buffer_.data();
      stream.avail_in = static_cast<uInt>(size);
    }
    int64_t room = std::min(bytes, chunk * 64);
    stream.next_out = out;
    stream.avail_out = static_cast<uInt>(room);
    int status = ::inflate(&stream, Z_NO_FLUSH);
    if (status == Z_MEM_ERROR) throw std::bad_alloc();
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
      broken(file_, "member \"", member_.name, "\": ", stream.msg ? stream.msg : "its compressed data are damaged");
    }
    int64_t written = room - stream.avail_out;
    out += written;
    bytes -= written;
    // Z_BUF_ERROR: nothing came in and nothing went out.
    if (bytes > 0 && (status == Z_STREAM_END || status == Z_BUF_ERROR)) {
      broken(file_, "the compressed data of member \"", member_.name, "\" ends early");
    }
  }
}

void ZipStream::finish() {
  if (remaining_ != 0) broken(file_, "member \"", member_.name, "\" has ", remaining_, " bytes too many");
  if (crc_ != member_.crc) broken(file_, "the checksum of member \"", member_.name, "\" is wrong");
}

uint32_t zip_crc(uint32_t crc, const void* data, int64_t bytes) {
  if (bytes == 0) return crc;  // where zlib takes a null pointer for a beginning
  return static_cast<uint32_t>(crc32_z(crc, static_cast<const Bytef*>(data), static_cast<size_t>(bytes)));
}

}  // namespace graft
