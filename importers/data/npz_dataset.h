// Samples out of a .npz file.
#pragma once

#include <memory>

#include "importers/data/options.h"
#include "runtime/training/dataset.h"

namespace graft {

// Arrays are named after the model's inputs, the label is `labels`, `label`, `y` or options.label; the first dim counts
// samples. Where the model has one input, one array that is not the label may have any name. Integer labels are classes
// as they stand; integer labels of higher rank are passed on as they are, floats are targets of regression.
std::unique_ptr<Dataset> open_npz(const std::string& path, const DatasetOptions& options);

}  // namespace graft
