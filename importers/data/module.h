// The two libraries of ours that are loaded when a data set first needs them: OpenCV and Arrow bring more than a
// hundred others along, which training on arrays should not pay for. What they call of Graft they find in the
// executable.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "importers/data/image.h"
#include "runtime/training/dataset.h"

namespace graft {

// graft_images.so, which has OpenCV.
struct ImageModule {
  // Decodes, resizes and normalises into `out`, see decode_image. `kind` is what the file says it is.
  void (*decode)(std::span<const uint8_t> bytes, std::string_view kind, const ImageFormat& format,
                 const std::string& where, float* out);
};

// graft_tables.so, which has Arrow.
struct TableModule {
  // A .csv, .tsv or .parquet file. Numeric columns are inputs, see DatasetOptions.
  std::unique_ptr<Dataset> (*open)(const std::string& path, const DatasetOptions& options);
};

// Loaded by the first call, from any thread. DeviceError where that fails; the next call tries again.
const ImageModule& image_module();
const TableModule& table_module();

}  // namespace graft
