#include "importers/data/image.h"

#include <algorithm>
#include <cmath>

#include "importers/data/image_header.h"
#include "importers/data/module.h"

namespace graft {
namespace {

// The layout in which the input has 1 or 3 channels; channels first where both would do.
ImageLayout guess_layout(const ModelInput& input) {
  auto is_channels = [](int64_t dim) { return dim == 1 || dim == 3; };
  bool last = is_channels(input.dims[3]) && !is_channels(input.dims[1]);
  return last ? ImageLayout::nhwc : ImageLayout::nchw;
}

int64_t agree(const std::string& what, std::optional<int64_t> wanted, int64_t of_model, const ModelInput& input) {
  if (wanted && of_model > 0 && *wanted != of_model) {
    throw UsageError("image ", what, " ", *wanted, " is wanted, input \"", input.name, "\" is ", input.dims);
  }
  int64_t value = wanted ? *wanted : of_model;
  if (value <= 0) {
    throw UsageError("the image ", what, " is unknown: input \"", input.name, "\" ", input.dims,
                     " leaves it free, give a size");
  }
  if (value > largest_side) throw UsageError("image ", what, " ", value, ", allowed are 1 to ", largest_side);
  return value;
}

void set_normalisation(ImageFormat& format, const ImageOptions& options) {
  auto channel = [&](const char* what, const std::vector<double>& values, size_t c, double otherwise) {
    if (values.empty()) return otherwise;
    if (values.size() != 1 && values.size() != static_cast<size_t>(format.channels)) {
      throw UsageError(what, " has ", values.size(), " values, the images have ", format.channels, " channels");
    }
    return values.size() == 1 ? values[0] : values[c];
  };
  double scale = options.scale.value_or(is_float(format.dtype) ? 1.0 / 255 : 1.0);
  for (size_t c = 0; c < static_cast<size_t>(format.channels); ++c) {
    double mean = channel("mean", options.mean, c, 0);
    double std = channel("std", options.std, c, 1);
    if (!(std > 0) || !std::isfinite(std)) throw UsageError("std ", std, ", numbers above 0 are allowed");
    if (!std::isfinite(mean) || !std::isfinite(scale))
      throw UsageError("mean ", mean, " and scale ", scale, " must be finite");
    format.factor[c] = static_cast<float>(scale / std);
    format.offset[c] = static_cast<float>(-mean / std);
  }
}

}  // namespace

ImageFormat image_format(const ImageOptions& options, const ModelInput& input) {
  if (!input.dims.empty() && input.dims.size() != 4) {
    throw UsageError("images feed an input of four dimensions, \"", input.name, "\" is ", input.dims);
  }
  ImageFormat format;
  ModelInput known = input;
  if (known.dims.empty()) known.dims = {-1, -1, -1, -1};
  format.layout = options.layout ? *options.layout : guess_layout(known);
  bool last = format.layout == ImageLayout::nhwc;
  format.height = agree("height", options.height, known.dims[last ? 1 : 2], known);
  format.width = agree("width", options.width, known.dims[last ? 2 : 3], known);
  int64_t channels = known.dims[last ? 3 : 1];
  format.color = options.color.value_or(channels == 1 ? ImageColor::grey : ImageColor::rgb);
  format.channels = format.color == ImageColor::grey ? 1 : 3;
  if (channels > 0 && channels != format.channels) {
    throw UsageError("images of ", format.channels, " channels for input \"", input.name, "\" ", input.dims);
  }
  format.resize = options.resize.value_or(ImageResize::stretch);
  format.interpolation = options.interpolation.value_or(ImageInterpolation::area);
  format.padding = options.padding.value_or(0);
  if (!(format.padding >= 0 && format.padding <= 255))
    throw UsageError("padding ", format.padding, ", allowed are 0 to 255");
  format.largest_pixels = options.largest_pixels;
  format.dtype = input.dtype;
  set_normalisation(format, options);
  return format;
}

Tensor decode_image(std::span<const uint8_t> bytes, const ImageFormat& format, const std::string& where) {
  auto header = read_image_header(bytes, where);
  if (header.width > format.largest_pixels / header.height) {
    throw DataError(where, ": ", header.width, " x ", header.height, " pixels, allowed are ", format.largest_pixels,
                    " in all");
  }
  bool last = format.layout == ImageLayout::nhwc;
  Tensor out = Tensor::uninitialized(DType::f32, last ? Dims{format.height, format.width, format.channels}
                                                      : Dims{format.channels, format.height, format.width});
  image_module().decode(bytes, header.format, format, where, out.data<float>());
  if (!is_float(format.dtype)) {
    auto [least, most] = format.dtype == DType::u8 ? std::pair{0.0F, 255.0F} : std::pair{-32768.0F, 32767.0F};
    for (float* x = out.data<float>(); x != out.data<float>() + out.count(); ++x)
      *x = std::clamp(std::nearbyint(*x), least, most);
  }
  return out.cast(format.dtype);
}

}  // namespace graft
