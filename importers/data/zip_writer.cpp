#include <algorithm>

#include "graph/error.h"
#include "importers/data/zip.h"
#include "importers/data/zip_format.h"

namespace graft {
namespace {

constexpr uint16_t utf8_flag = 1 << 11;
constexpr uint16_t first_day = (0 << 9) | (1 << 5) | 1;  // 1 January 1980: equal arrays give equal files

uint32_t clamp32(int64_t value) { return value >= full32 ? full32 : static_cast<uint32_t>(value); }

// What local header and directory entry have in common, from the version on.
void store_common(std::string& out, const ZipMember& member, size_t extra) {
  bool large = member.packed >= full32 || member.header >= full32;
  store_little<uint16_t>(out, large ? 45 : 20);
  store_little<uint16_t>(out, utf8_flag);
  store_little<uint16_t>(out, member.method);
  store_little<uint16_t>(out, 0);
  store_little<uint16_t>(out, first_day);
  store_little<uint32_t>(out, member.crc);
  store_little<uint32_t>(out, clamp32(member.packed));
  store_little<uint32_t>(out, clamp32(member.unpacked));
  store_little<uint16_t>(out, static_cast<uint16_t>(member.name.size()));
  store_little<uint16_t>(out, static_cast<uint16_t>(extra));
}

std::string make_extra64(const std::vector<int64_t>& sizes) {
  std::string extra;
  if (sizes.empty()) return extra;
  store_little<uint16_t>(extra, extra64);
  store_little<uint16_t>(extra, static_cast<uint16_t>(8 * sizes.size()));
  for (int64_t size : sizes) store_little<uint64_t>(extra, static_cast<uint64_t>(size));
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
  store_little<uint32_t>(header, local_signature);
  store_common(header, member, extra.size());
  file_.write(header);
  file_.write(member.name);
  file_.write(extra);
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
    store_little<uint32_t>(entry, entry_signature);
    store_little<uint16_t>(entry, (3 << 8) | 45);  // made on Unix
    store_common(entry, member, extra.size());
    store_little<uint16_t>(entry, 0);  // comment
    store_little<uint16_t>(entry, 0);  // disk
    store_little<uint16_t>(entry, 0);  // internal attributes
    store_little<uint32_t>(entry, 0644U << 16);
    store_little<uint32_t>(entry, clamp32(member.header));
    file_.write(entry);
    file_.write(member.name);
    file_.write(extra);
  }
  int64_t end = file_.size();
  auto count = static_cast<int64_t>(members_.size());
  std::string record;
  if (begin >= full32 || end - begin >= full32 || count >= full16) {
    store_little<uint32_t>(record, end64_signature);
    store_little<uint64_t>(record, end64_bytes - 12);
    store_little<uint16_t>(record, (3 << 8) | 45);
    store_little<uint16_t>(record, 45);
    store_little<uint64_t>(record, 0);  // disks
    store_little<uint64_t>(record, static_cast<uint64_t>(count));
    store_little<uint64_t>(record, static_cast<uint64_t>(count));
    store_little<uint64_t>(record, static_cast<uint64_t>(end - begin));
    store_little<uint64_t>(record, static_cast<uint64_t>(begin));
    store_little<uint32_t>(record, locator64_signature);
    store_little<uint32_t>(record, 0);
    store_little<uint64_t>(record, static_cast<uint64_t>(end));
    store_little<uint32_t>(record, 1);
  }
  store_little<uint32_t>(record, end_signature);
  store_little<uint32_t>(record, 0);  // disks
  auto short_count = static_cast<uint16_t>(std::min<int64_t>(count, full16));
  store_little<uint16_t>(record, short_count);
  store_little<uint16_t>(record, short_count);
  store_little<uint32_t>(record, clamp32(end - begin));
  store_little<uint32_t>(record, clamp32(begin));
  store_little<uint16_t>(record, 0);
  file_.write(record);
  file_.commit();
}

}  // namespace graft
