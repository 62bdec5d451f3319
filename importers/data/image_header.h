// The size of an image, read from its first bytes, so that a decompression bomb is refused before it is decoded.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace graft {

struct ImageHeader {
  std::string_view format;
  int64_t width = 0;
  int64_t height = 0;
};

// PNG, JPEG, GIF, BMP, WebP and TIFF, by content. DataError beginning with `where` for anything else, and for a JPEG
// without its end, which decoders fill up with grey.
ImageHeader read_image_header(std::span<const uint8_t> bytes, const std::string& where);

}  // namespace graft
