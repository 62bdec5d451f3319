// TensorProto to Tensor and back, in the encoding that the file has.
#pragma once

#include <onnx/onnx_pb.h>

#include <filesystem>

#include "graph/tensor.h"

namespace graft {

// ModelError and UnsupportedError begin with `where`.
DType checked_dtype(const onnx::TensorProto& proto, const std::string& where);
Dims checked_dims(const onnx::TensorProto& proto, DType dtype, const std::string& where);

bool is_external(const onnx::TensorProto& proto);
// The tensor in the message. ModelError where its data do not fit its dims.
Tensor read_tensor(const onnx::TensorProto& proto, const std::string& where);
// The tensor in a file beside the model; never reads outside the model's folder.
Tensor read_external(const onnx::TensorProto& proto, const std::filesystem::path& model, const std::string& where);

// ModelError where a bool is neither 0 nor 1: reading it as bool would be undefined.
void check_bools(const Tensor& tensor, const std::string& where);

// Writes the bytes into raw_data, or into the typed field of the dtype.
void write_tensor(onnx::TensorProto& proto, const Tensor& tensor, bool raw);
// Removes the data from the message.
void clear_data(onnx::TensorProto& proto);

}  // namespace graft
