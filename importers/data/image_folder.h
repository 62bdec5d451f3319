// A folder with one sub-folder of images per class.
#pragma once

#include <memory>

#include "importers/data/options.h"
#include "runtime/training/dataset.h"

namespace graft {

// Classes are the sub-folders in the order of their names; images are found at any depth below them, by extension.
// Where no labels are wanted, images may also lie in the folder itself.
std::unique_ptr<Dataset> open_image_folder(const std::string& path, const DatasetOptions& options);

}  // namespace graft
