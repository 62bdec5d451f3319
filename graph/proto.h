// Between our values and ONNX's protobuf messages. Only graph/schema and importers/onnx include this header.
#pragma once

#include <onnx/onnx_pb.h>

#include "graph/graph.h"

namespace graft {

int32_t proto_dtype(DType dtype);
// UnsupportedError for types that Graft does not compute with (complex, 4-bit, 8-bit floats); ModelError for undefined
// ones.
DType dtype_of_proto(int32_t data_type);

onnx::TensorProto to_proto(const Tensor& tensor);
onnx::AttributeProto to_proto(const std::string& name, const Attribute& attribute);
onnx::NodeProto to_proto(const Node& node);

}  // namespace graft
