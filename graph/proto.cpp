#include "graph/proto.h"

namespace graft {

int32_t proto_dtype(DType dtype) { return static_cast<int32_t>(onnx_dtype(dtype)); }

DType dtype_of_proto(int32_t data_type) {
  for (int d = 1; d <= static_cast<int>(DType::string); ++d) {
    if (proto_dtype(static_cast<DType>(d)) == data_type) return static_cast<DType>(d);
  }
  if (onnx::TensorProto::DataType_IsValid(data_type) && data_type != 0) {
    throw UnsupportedError("element type ",
                           onnx::TensorProto::DataType_Name(static_cast<onnx::TensorProto::DataType>(data_type)),
                           " is not supported: allowed are float, double, float16, bfloat16, int8 to int64, uint8 to "
                           "uint64, bool, string");
  }
  throw ModelError("element type ", data_type, " is not defined by ONNX");
}

onnx::TensorProto to_proto(const Tensor& tensor) {
  onnx::TensorProto proto;
  proto.set_data_type(proto_dtype(tensor.dtype()));
  for (int64_t d : tensor.dims()) proto.add_dims(d);
  proto.set_raw_data(tensor.raw(), static_cast<size_t>(tensor.bytes()));
  return proto;
}

onnx::AttributeProto to_proto(const std::string& name, const Attribute& attribute) {
  onnx::AttributeProto proto;
  proto.set_name(name);
  struct Writer {
    onnx::AttributeProto& proto;
    void operator()(int64_t v) const {
      proto.set_type(onnx::AttributeProto::INT);
      proto.set_i(v);
    }
    void operator()(double v) const {
      proto.set_type(onnx::AttributeProto::FLOAT);
      proto.set_f(static_cast<float>(v));
    }
    void operator()(const std::string& v) const {
      proto.set_type(onnx::AttributeProto::STRING);
      proto.set_s(v);
    }
    void operator()(const std::vector<int64_t>& v) const {
      proto.set_type(onnx::AttributeProto::INTS);
      for (int64_t i : v) proto.add_ints(i);
    }
    void operator()(const std::vector<double>& v) const {
      proto.set_type(onnx::AttributeProto::FLOATS);
      for (double f : v) proto.add_floats(static_cast<float>(f));
    }
    void operator()(const std::vector<std::string>& v) const {
      proto.set_type(onnx::AttributeProto::STRINGS);
      for (const auto& s : v) proto.add_strings(s);
    }
    void operator()(const Tensor& v) const {
      proto.set_type(onnx::AttributeProto::TENSOR);
      *proto.mutable_t() = to_proto(v);
    }
    void operator()(const std::shared_ptr<Graph>& v) const {
      proto.set_type(onnx::AttributeProto::GRAPH);
      proto.mutable_g()->set_name(v->name);
    }
  };
  std::visit(Writer{proto}, attribute);
  return proto;
}

onnx::NodeProto to_proto(const Node& node) {
  onnx::NodeProto proto;
  proto.set_op_type(node.type);
  proto.set_domain(node.domain);
  proto.set_name(node.name);
  auto label = [](const Value* value) {
    return value ? (value->name.empty() ? cat("_", value->id) : value->name) : "";
  };
  for (const Value* input : node.inputs) proto.add_input(label(input));
  for (const Value* output : node.outputs) {
    if (!output || !output->opaque) proto.add_output(label(output));
  }
  for (const auto& [name, attribute] : node.attributes) *proto.add_attribute() = to_proto(name, attribute);
  return proto;
}

}  // namespace graft
