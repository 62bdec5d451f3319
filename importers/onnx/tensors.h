// TensorProto to Tensor and back, in the encoding that the file has.
#pragma once

#include <onnx/onnx_pb.h>

#include <filesystem>
#include <map>

#include "graph/tensor.h"

namespace graft {

// ModelError and UnsupportedError begin with `where`.
DType checked_dtype(const onnx::TensorProto& proto, const std::string& where);
Dims checked_dims(const onnx::TensorProto& proto, DType dtype, const std::string& where);

bool is_external(const onnx::TensorProto& proto);
// The tensor in the message. ModelError where its data do not fit its dims.
Tensor read_tensor(const onnx::TensorProto& proto, const std::string& where);
// Reads tensors in files beside a model, never outside its folder. Tensors that name the same bytes share them; others
// must not overlap, so that a small file cannot ask for much memory.
class ExternalData {
 public:
  explicit ExternalData(std::filesystem::path model) : model_(std::move(model)) {}
  Tensor read(const onnx::TensorProto& proto, const std::string& where);

 private:
  std::filesystem::path model_;
  std::map<std::string, int64_t> taken_;  // bytes read of each file
  std::map<std::string, Tensor> known_;
};

// ModelError where a bool is neither 0 nor 1: reading it as bool would be undefined.
void check_bools(const Tensor& tensor, const std::string& where);

// Writes the bytes into raw_data, or into the typed field of the dtype.
void write_tensor(onnx::TensorProto& proto, const Tensor& tensor, bool raw);
// Removes the data from the message.
void clear_data(onnx::TensorProto& proto);

}  // namespace graft
