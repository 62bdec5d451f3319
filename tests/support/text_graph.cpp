#include "tests/support/text_graph.h"

#include <onnx/defs/parser.h>

#include <algorithm>

#include "graph/proto.h"
#include "graph/schema.h"
#include "ops/op.h"
#include "runtime/evaluate.h"

namespace graft::test {
namespace {

onnx::ModelProto parse_model(const std::string& text) {
  std::string named = text.substr(text.find_first_not_of(" \n"));
  if (named[0] == '(') named = "test " + named;
  named = cat("<ir_version: 10, opset_import: [\"\" : ", internal_opset, ", \"graft\" : 1]>\n", named);
  onnx::ModelProto model;
  auto status = onnx::OnnxParser::Parse(model, named);
  if (!status.IsOK()) throw UsageError("in test text: ", status.ErrorMessage(), "\n", text);
  return model;
}

template <class T, class Field>
Tensor from_field(const Dims& dims, const Field& field) {
  Tensor tensor = Tensor::uninitialized(dtype_of<T>(), dims);
  if (field.size() != tensor.count()) throw UsageError("tensor of ", dims, " has ", field.size(), " values");
  std::transform(field.begin(), field.end(), tensor.data<T>(), [](auto v) { return static_cast<T>(v); });
  return tensor;
}

Tensor from_proto(const onnx::TensorProto& proto) {
  Dims dims(proto.dims().begin(), proto.dims().end());
  DType dtype = dtype_of_proto(proto.data_type());
  if (proto.has_raw_data()) {
    Tensor tensor = Tensor::uninitialized(dtype, dims);
    if (static_cast<int64_t>(proto.raw_data().size()) != tensor.bytes())
      throw UsageError("tensor of ", dims, " has ", proto.raw_data().size(), " bytes");
    std::copy(proto.raw_data().begin(), proto.raw_data().end(), static_cast<char*>(tensor.raw()));
    return tensor;
  }
  switch (dtype) {
    case DType::f32: return from_field<float>(dims, proto.float_data());
    case DType::f64: return from_field<double>(dims, proto.double_data());
    case DType::i64: return from_field<int64_t>(dims, proto.int64_data());
    case DType::u32:
    case DType::u64: return from_field<uint64_t>(dims, proto.uint64_data()).cast(dtype);
    default: return from_field<int32_t>(dims, proto.int32_data()).cast(dtype);
  }
}

class Builder {
 public:
  Builder(const onnx::GraphProto& proto, DType floats) : proto_(proto), floats_(floats) {}

  std::unique_ptr<Graph> build() {
    graph_->name = proto_.name();
    for (const auto& initializer : proto_.initializer())
      known_[initializer.name()] = graph_->add_constant(tensor(initializer), initializer.name());
    for (const auto& input : proto_.input()) {
      if (known_.count(input.name())) continue;
      const auto& type = input.type().tensor_type();
      Dims dims;
      for (const auto& dim : type.shape().dim()) dims.push_back(dim.has_dim_value() ? dim.dim_value() : -1);
      known_[input.name()] = graph_->add_input(input.name(), dtype(dtype_of_proto(type.elem_type())), dims);
    }
    for (const auto& node : proto_.node()) add(node);
    for (const auto& output : proto_.output()) graph_->outputs.push_back(known_.at(output.name()));
    return std::move(graph_);
  }

 private:
  DType dtype(DType given) const { return given == DType::f32 ? floats_ : given; }
  Tensor tensor(const onnx::TensorProto& proto) const {
    Tensor given = from_proto(proto);
    return given.cast(dtype(given.dtype()));
  }

  Attribute attribute(const onnx::AttributeProto& proto) const {
    switch (proto.type()) {
      case onnx::AttributeProto::INT: {
        bool is_dtype = proto.name() == "to" || proto.name() == "dtype" || proto.name() == "output_datatype";
        return is_dtype && proto.i() == onnx_dtype(DType::f32) ? onnx_dtype(floats_) : int64_t{proto.i()};
      }
      case onnx::AttributeProto::FLOAT: return static_cast<double>(proto.f());
      case onnx::AttributeProto::STRING: return proto.s();
      case onnx::AttributeProto::INTS: return std::vector<int64_t>(proto.ints().begin(), proto.ints().end());
      case onnx::AttributeProto::FLOATS: return std::vector<double>(proto.floats().begin(), proto.floats().end());
      case onnx::AttributeProto::STRINGS:
        return std::vector<std::string>(proto.strings().begin(), proto.strings().end());
      case onnx::AttributeProto::TENSOR: return tensor(proto.t());
      case onnx::AttributeProto::GRAPH: return std::shared_ptr<Graph>(Builder(proto.g(), floats_).build());
      default: throw UsageError("attribute ", proto.name(), " has a type that test texts do not take");
    }
  }

  void add(const onnx::NodeProto& proto) {
    Attributes attributes;
    for (const auto& given : proto.attribute()) attributes[given.name()] = attribute(given);
    if (proto.op_type() == "Constant") {
      known_[proto.output(0)] = graph_->add_constant(std::get<Tensor>(attributes.at("value")), proto.output(0));
      return;
    }
    std::vector<Value*> operands;
    for (const auto& input : proto.input()) operands.push_back(input.empty() ? nullptr : find(input));
    Node* node = graph_->add_node(proto.domain(), proto.op_type(), operands, 0, std::move(attributes));
    for (const auto& output : proto.output()) {
      if (output.empty()) {
        node->outputs.push_back(nullptr);
      } else {
        known_[output] = graph_->add_output(node);
        graph_->rename(known_[output], output);
      }
    }
    infer(*node);
    fold(node);
  }

  Value* find(const std::string& name) {
    auto found = known_.find(name);
    return found != known_.end() ? found->second : known_[name] = graph_->add_captured(name);
  }

  // Shape arithmetic on constants must be known where later nodes are inferred. A graph's outputs stay computed.
  void fold(Node* node) {
    std::vector<Tensor> operands;
    for (const Value* input : node->inputs) {
      if (input && !input->is_constant()) return;
      operands.push_back(input ? input->data : Tensor{});
    }
    for (const auto& output : proto_.output()) {
      for (const Value* result : node->outputs) {
        if (result && result->name == output.name()) return;
      }
    }
    std::vector<Tensor> results = evaluate(*node, operands);
    for (size_t i = 0; i < results.size(); ++i) {
      if (!node->outputs[i]) continue;
      std::string name = node->outputs[i]->name;
      graph_->rename(node->outputs[i], "");
      known_[name] = graph_->add_constant(results[i], name);
    }
    graph_->erase(node);
  }

  const onnx::GraphProto& proto_;
  DType floats_;
  std::unique_ptr<Graph> graph_ = std::make_unique<Graph>();
  std::map<std::string, Value*> known_;
};

}  // namespace

std::string model_from_text(const std::string& text) { return parse_model(text).SerializeAsString(); }

std::unique_ptr<Graph> graph_from_text(const std::string& text, DType floats) {
  onnx::ModelProto model = parse_model(text);
  return Builder(model.graph(), floats).build();
}

std::string tensor_to_bytes(const Tensor& tensor, const std::string& name) {
  onnx::TensorProto proto = to_proto(tensor);
  proto.set_name(name);
  return proto.SerializeAsString();
}

Tensor tensor_from_bytes(const std::string& bytes) {
  onnx::TensorProto proto;
  if (!proto.ParseFromString(bytes)) throw UsageError("a reference answer is no TensorProto");
  return from_proto(proto);
}

}  // namespace graft::test
