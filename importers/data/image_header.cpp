#include "importers/data/image_header.h"

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "graph/error.h"

namespace graft {
namespace {

// Reads numbers at any place; what lies outside reads as nothing.
class Bytes {
 public:
  explicit Bytes(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  size_t size() const { return bytes_.size(); }
  uint8_t operator[](size_t at) const { return at < bytes_.size() ? bytes_[at] : 0; }
  int64_t big(size_t at, size_t count) const {
    int64_t value = 0;
    for (size_t i = 0; i < count; ++i) value = value << 8 | (*this)[at + i];
    return value;
  }
  int64_t little(size_t at, size_t count) const {
    int64_t value = 0;
    for (size_t i = count; i-- > 0;) value = value << 8 | (*this)[at + i];
    return value;
  }
  bool has(size_t at, std::string_view text) const {
    return at <= size() && text.size() <= size() - at &&
           std::equal(text.begin(), text.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(at),
                      [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; });
  }

 private:
  std::span<const uint8_t> bytes_;
};

using Size = std::optional<ImageHeader>;

Size jpeg(const Bytes& b, const std::string& where) {
  Size found;
  size_t at = 2;
  while (at + 4 <= b.size()) {
    if (b[at] != 0xff) break;
    uint8_t marker = b[at + 1];
    if (marker == 0xff) {  // fill byte
      ++at;
      continue;
    }
    bool alone = marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8);
    if (alone) {
      at += 2;
      continue;
    }
    bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (frame) found = ImageHeader{"JPEG", b.big(at + 7, 2), b.big(at + 5, 2)};
    auto length = static_cast<size_t>(b.big(at + 2, 2));
    if (marker == 0xda && found) {
      for (size_t end = b.size(); end > at + length + 1; --end) {
        if (b[end - 2] == 0xff && b[end - 1] == 0xd9) return found;
      }
      throw DataError(where, ": the JPEG is cut off, its end is missing");
    }
    if (length < 2) break;
    at += 2 + length;
  }
  return {};
}

Size webp(const Bytes& b) {
  if (b.has(12, "VP8X")) return ImageHeader{"WebP", b.little(24, 3) + 1, b.little(27, 3) + 1};
  if (b.has(12, "VP8L")) {
    int64_t bits = b.little(21, 4);
    return ImageHeader{"WebP", (bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1};
  }
  if (b.has(12, "VP8 ")) return ImageHeader{"WebP", b.little(26, 2) & 0x3fff, b.little(28, 2) & 0x3fff};
  return {};
}

Size bmp(const Bytes& b) {
  if (b.little(14, 4) == 12) return ImageHeader{"BMP", b.little(18, 2), b.little(20, 2)};
  auto signed32 = [&](size_t at) { return static_cast<int64_t>(static_cast<int32_t>(b.little(at, 4))); };
  return ImageHeader{"BMP", signed32(18), std::abs(signed32(22))};  // a negative height: rows from top to bottom
}

Size tiff(const Bytes& b) {
  bool big = b.has(0, "MM");
  auto number = [&](size_t at, size_t count) { return big ? b.big(at, count) : b.little(at, count); };
  if (number(2, 2) != 42) return {};
  auto directory = static_cast<size_t>(number(4, 4));
  if (directory < 8 || directory + 2 > b.size()) return {};
  ImageHeader header{"TIFF", 0, 0};
  for (int64_t i = 0; i < number(directory, 2); ++i) {
    size_t entry = directory + 2 + static_cast<size_t>(i) * 12;
    if (entry + 12 > b.size()) return {};
    int64_t tag = number(entry, 2);
    int64_t value = number(entry + 8, number(entry + 2, 2) == 3 ? 2 : 4);
    if (tag == 256) header.width = value;
    if (tag == 257) header.height = value;
  }
  return header;
}

Size find(const Bytes& b, const std::string& where) {
  using namespace std::string_view_literals;
  if (b.has(0, "\x89PNG\r\n\x1a\n"sv) && b.has(12, "IHDR")) return ImageHeader{"PNG", b.big(16, 4), b.big(20, 4)};
  if (b.has(0, "\xff\xd8\xff"sv)) return jpeg(b, where);
  if (b.has(0, "GIF8")) return ImageHeader{"GIF", b.little(6, 2), b.little(8, 2)};
  if (b.has(0, "RIFF") && b.has(8, "WEBP")) return webp(b);
  if (b.has(0, "BM")) return bmp(b);
  if (b.has(0, "II") || b.has(0, "MM")) return tiff(b);
  return {};
}

}  // namespace

ImageHeader read_image_header(std::span<const uint8_t> bytes, const std::string& where) {
  if (bytes.empty()) throw DataError(where, ": the file is empty");
  auto header = find(Bytes(bytes), where);
  if (!header) throw DataError(where, ": no image: it is neither PNG, JPEG, BMP, WebP, TIFF nor GIF, or it is damaged");
  if (header->width <= 0 || header->height <= 0) {
    throw DataError(where, ": the ", header->format, " is ", header->width, " x ", header->height, " pixels");
  }
  return *header;
}

}  // namespace graft
