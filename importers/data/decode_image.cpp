// The module graft_images: all that OpenCV does.
#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "importers/data/module.h"

namespace graft {
namespace {

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

cv::Mat decode(std::span<const uint8_t> bytes, std::string_view kind, const ImageFormat& format,
               const std::string& where) {
  // Without IMREAD_IGNORE_ORIENTATION the image is turned as EXIF says.
  int flags = (format.channels == 1 ? cv::IMREAD_GRAYSCALE : cv::IMREAD_COLOR) | cv::IMREAD_ANYDEPTH;
  cv::Mat raw(1, static_cast<int>(bytes.size()), CV_8U, const_cast<uint8_t*>(bytes.data()));
  cv::Mat image = cv::imdecode(raw, flags);
  if (image.empty()) {
    throw DataError(where, ": the ", kind, " cannot be decoded: it is damaged, or this build of OpenCV cannot read it");
  }
  if (image.depth() != CV_8U && image.depth() != CV_16U)
    throw DataError(where, ": its pixels are floats, 8 or 16 bits are supported");
  if (image.channels() != format.channels) throw DataError(where, ": decoding gave ", image.channels(), " channels");
  return image;
}

void decode_into(std::span<const uint8_t> bytes, std::string_view kind, const ImageFormat& format,
                 const std::string& where, float* out) {
  try {
    cv::Mat image = bring_to_size(decode(bytes, kind, format, where), format);
    if (image.depth() == CV_16U) normalise<uint16_t>(image, format, out);
    else normalise<uint8_t>(image, format, out);
  } catch (const cv::Exception& error) {
    throw DataError(where, ": ", error.err);
  }
}

}  // namespace
}  // namespace graft

extern "C" const graft::ImageModule* graft_images() {
  cv::setNumThreads(1);  // samples are read by several threads already
  static constexpr graft::ImageModule module{graft::decode_into};
  return &module;
}
