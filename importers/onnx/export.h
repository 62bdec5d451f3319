// The model file, written back.
#pragma once

#include "importers/onnx/contents.h"

namespace graft {

// See OnnxModel::save.
void export_model(const OnnxModel::Contents& model, const std::filesystem::path& path,
                  const OnnxModel::TensorSource& source, const SaveOptions& options);

// Whether weights can be stored in this type, see SaveOptions::weights.
void check_weights(const OnnxModel::Contents& model, DType dtype);

}  // namespace graft
