// From the bytes of an image file to the tensor that a model takes.
#pragma once

#include <array>
#include <span>

#include "importers/data/options.h"

namespace graft {

inline constexpr int64_t largest_side = 1 << 16;  // of what a model takes

// ImageOptions with every choice made.
struct ImageFormat {
  int64_t height = 0, width = 0, channels = 3;
  ImageLayout layout = ImageLayout::nchw;
  ImageColor color = ImageColor::rgb;
  ImageResize resize = ImageResize::stretch;
  ImageInterpolation interpolation = ImageInterpolation::area;
  double padding = 0;
  int64_t largest_pixels = 0;
  // x = pixel * factor + offset, by channel
  std::array<float, 3> factor{}, offset{};
  DType dtype = DType::f32;
};

// Completes `options` with what the model's input says. UsageError where they contradict each other or no size is
// known.
ImageFormat image_format(const ImageOptions& options, const ModelInput& input);

// Decodes (turned as EXIF says; grey becomes three equal channels, alpha is dropped, 16 bits become 8), resizes and
// normalises. DataError beginning with `where`.
Tensor decode_image(std::span<const uint8_t> bytes, const ImageFormat& format, const std::string& where);

}  // namespace graft
