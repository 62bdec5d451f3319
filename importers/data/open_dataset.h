// One door to all kinds of data sets.
#pragma once

#include <memory>

#include "importers/data/options.h"
#include "runtime/training/dataset.h"

namespace graft {

// A folder with one sub-folder per class, a .csv, .tsv, .parquet or .npz file, or a .yaml data card (data_card.h).
// UsageError where options and model do not fit, DataError where the data are wrong or there is only one class,
// UnsupportedError for kinds that cannot be read yet. Sets OpenCV's own thread count to 1: samples are read in
// parallel.
std::unique_ptr<Dataset> open_dataset(const std::string& path, const DatasetOptions& options);

}  // namespace graft
