// A .yaml file that says where data are and how they are prepared.
#pragma once

#include "importers/data/options.h"

namespace graft {

struct DataCard {
  std::string data;  // path, made relative to the folder of the card
  DatasetOptions options;
};

// Keys, all optional but `data`:
//   data: images/              features: [a, b]        label: species       task: classification | regression
//   images: {size: 224 or [height, width], layout: nchw | nhwc, color: rgb | bgr | grey, resize: stretch | fit | crop,
//            interpolation: area | linear | cubic | nearest, scale: 0.0039, mean: [...], std: [...], padding: 0,
//            largest_pixels: 100000000}
// What `given` sets already stays: flags win over the card. DataError with the line and the nearest names for unknown
// keys and values.
DataCard read_data_card(const std::string& path, const DatasetOptions& given);

}  // namespace graft
