// What a data set is read for, and how.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace graft {

// An input of the model: dims with the batch first, -1 where a dimension is free.
struct ModelInput {
  std::string name;
  DType dtype = DType::f32;
  Dims dims;
};

enum class ImageLayout : uint8_t { nchw, nhwc };
enum class ImageColor : uint8_t { rgb, bgr, grey };
// stretch: to the size, whatever the shape; fit: whole image, centred on padding; crop: largest centred part.
enum class ImageResize : uint8_t { stretch, fit, crop };
// area: averages where the image shrinks, linear where it grows.
enum class ImageInterpolation : uint8_t { area, linear, cubic, nearest };

// What is not set is taken from the model's input, else from the default.
struct ImageOptions {
  std::optional<int64_t> height, width;
  std::optional<ImageLayout> layout;
  std::optional<ImageColor> color;  // default: rgb, grey where the model has one channel
  std::optional<ImageResize> resize;
  std::optional<ImageInterpolation> interpolation;
  // x = (pixel * scale - mean) / std, pixel in 0..255 (16-bit ones are brought there); one mean and std, or one a
  // channel.
  std::optional<double> scale;  // default: 1/255, 1 for models that take integers
  std::vector<double> mean, std;
  std::optional<double> padding;  // pixel value beside the image, default 0
  // Larger images are refused before they are decoded.
  int64_t largest_pixels = 100'000'000;
};

enum class Task : uint8_t { automatic, classification, regression };

struct DatasetOptions {
  std::vector<ModelInput> inputs;  // of the model, in its order; empty: unknown
  ImageOptions images;
  // Tables: the column with the label, default the last; the columns with features, default all others. Columns named
  // after the model's inputs go to these.
  std::string label;
  std::vector<std::string> features;
  // automatic: text, integers and booleans are classes, other numbers are targets of regression.
  Task task = Task::automatic;
  // False: samples without labels are welcome (predict).
  bool labels_wanted = true;
  // The classes of another part of the data (training, for validation): labels must be among them.
  std::vector<std::string> class_names;
};

}  // namespace graft
