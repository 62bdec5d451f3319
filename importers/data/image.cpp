#include "importers/data/image.h"

#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "importers/data/image_header.h"

namespace graft {
namespace {

constexpr int64_t largest_side = 1 << 16;

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

int interpolation_of(ImageInterpolation kind, bool shrinks) {
  switch (kind) {
    case ImageInterpolation::nearest: return cv::INTER_NEAREST;
    case ImageInterpolation::cubic: return cv::INTER_CUBIC;
    case ImageInterpolation::linear: return cv::INTER_LINEAR;
    case ImageInterpolation::area: break;
  }
  return shrinks ? cv::INTER_AREA : cv::INTER_LINEAR;
}

cv::Mat scale_to(const cv::Mat& image, int width, int height, const ImageFormat& format) {
  if (image.cols == width && image.rows == height) return image;
  cv::Mat out;
  bool shrinks = width <= image.cols && height <= image.rows;
  cv::resize(image, out, {width, height}, 0, 0, interpolation_of(format.interpolation, shrinks));
  return out;
}

cv::Mat bring_to_size(const cv::Mat& image, const ImageFormat& format) {
  auto width = static_cast<int>(format.width);
  auto height = static_cast<int>(format.height);
  if (format.resize == ImageResize::stretch) return scale_to(image, width, height, format);
  double across = static_cast<double>(width) / image.cols;
  double down = static_cast<double>(height) / image.rows;
  bool fit = format.resize == ImageResize::fit;
  double ratio = fit ? std::min(across, down) : std::max(across, down);
  auto side = [&](int of_image, int of_model) {
    auto scaled = static_cast<int>(std::lround(std::min(of_image * ratio, 2.0 * largest_side)));
    return fit ? std::clamp(scaled, 1, of_model) : std::max(scaled, of_model);
  };
  if (!fit) {  // cut first: a thin image would become huge
    int w = std::clamp(static_cast<int>(std::lround(width / ratio)), 1, image.cols);
    int h = std::clamp(static_cast<int>(std::lround(height / ratio)), 1, image.rows);
    return scale_to(image({(image.cols - w) / 2, (image.rows - h) / 2, w, h}), width, height, format);
  }
  cv::Mat inner = scale_to(image, side(image.cols, width), side(image.rows, height), format);
  double padding = format.padding * (image.depth() == CV_16U ? 257 : 1);
  cv::Mat out(height, width, image.type(), cv::Scalar::all(padding));
  inner.copyTo(out({(width - inner.cols) / 2, (height - inner.rows) / 2, inner.cols, inner.rows}));
  return out;
}

// x[c, h, w] or x[h, w, c] = pixel[h, w, c'] * factor[c] + offset[c]; OpenCV keeps blue first.
template <class Pixel>
void normalise(const cv::Mat& image, const ImageFormat& format, float* out) {
  constexpr float to_byte = sizeof(Pixel) == 2 ? 1.0F / 257 : 1.0F;
  auto channels = format.channels;
  bool last = format.layout == ImageLayout::nhwc;
  int64_t step = last ? channels : 1;
  for (int64_t c = 0; c < channels; ++c) {
    int64_t source = format.color == ImageColor::rgb ? channels - 1 - c : c;
    float factor = format.factor[static_cast<size_t>(c)] * to_byte;
    float offset = format.offset[static_cast<size_t>(c)];
    for (int row = 0; row < image.rows; ++row) {
      const Pixel* pixel = image.ptr<Pixel>(row) + source;
      float* x = out + (last ? row * format.width * channels + c : (c * format.height + row) * format.width);
      for (int64_t w = 0; w < format.width; ++w, x += step)
        *x = static_cast<float>(pixel[w * channels]) * factor + offset;
    }
  }
}

cv::Mat decode(std::span<const uint8_t> bytes, const ImageFormat& format, const std::string& where) {
  auto header = read_image_header(bytes, where);
  if (header.width > format.largest_pixels / header.height) {
    throw DataError(where, ": ", header.width, " x ", header.height, " pixels, allowed are ", format.largest_pixels,
                    " in all");
  }
  // Without IMREAD_IGNORE_ORIENTATION the image is turned as EXIF says.
  int flags = (format.channels == 1 ? cv::IMREAD_GRAYSCALE : cv::IMREAD_COLOR) | cv::IMREAD_ANYDEPTH;
  cv::Mat raw(1, static_cast<int>(bytes.size()), CV_8U, const_cast<uint8_t*>(bytes.data()));
  cv::Mat image = cv::imdecode(raw, flags);
  if (image.empty()) {
    throw DataError(where, ": the ", header.format,
                    " cannot be decoded: it is damaged, or this build of OpenCV cannot read it");
  }
  if (image.depth() != CV_8U && image.depth() != CV_16U)
    throw DataError(where, ": its pixels are floats, 8 or 16 bits are supported");
  if (image.channels() != format.channels) throw DataError(where, ": decoding gave ", image.channels(), " channels");
  return image;
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
  bool last = format.layout == ImageLayout::nhwc;
  Tensor out = Tensor::uninitialized(DType::f32, last ? Dims{format.height, format.width, format.channels}
                                                      : Dims{format.channels, format.height, format.width});
  try {
    cv::Mat image = bring_to_size(decode(bytes, format, where), format);
    if (image.depth() == CV_16U) normalise<uint16_t>(image, format, out.data<float>());
    else normalise<uint8_t>(image, format, out.data<float>());
  } catch (const cv::Exception& error) {
    throw DataError(where, ": ", error.err);
  }
  if (!is_float(format.dtype)) {
    auto [least, most] = format.dtype == DType::u8 ? std::pair{0.0F, 255.0F} : std::pair{-32768.0F, 32767.0F};
    for (float* x = out.data<float>(); x != out.data<float>() + out.count(); ++x)
      *x = std::clamp(std::nearbyint(*x), least, most);
  }
  return out.cast(format.dtype);
}

}  // namespace graft
