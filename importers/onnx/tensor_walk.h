// Every tensor of a model in one fixed order.
#pragma once

#include <onnx/onnx_pb.h>

#include <string>
#include <vector>

namespace graft {

// Where a tensor stands. Exactly one of `tensor` and `value` is set; `value` is a Constant's value_float(s) or
// value_int(s).
struct TensorSite {
  onnx::TensorProto* tensor = nullptr;
  onnx::AttributeProto* value = nullptr;
  std::string name;  // of the initializer or the Constant's result; "NODE.ATTRIBUTE" of other attributes
  const char* what = "tensor";
  bool named = false;  // `name` is a value of the main graph
};

std::vector<TensorSite> tensor_sites(onnx::ModelProto& model);

}  // namespace graft
