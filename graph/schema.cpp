#include "graph/schema.h"

#include <onnx/defs/function.h>
#include <onnx/defs/schema.h>
#include <onnx/defs/shape_inference.h>

#include "graph/proto.h"

namespace graft::schema {
namespace {

using onnx::OpSchema;

const OpSchema* find(const std::string& domain, const std::string& type) {
  return onnx::OpSchemaRegistry::Schema(type, internal_opset, domain == "ai.onnx" ? "" : domain);
}

onnx::TypeProto type_of(const Value& value) {
  onnx::TypeProto type;
  auto* tensor = type.mutable_tensor_type();
  tensor->set_elem_type(proto_dtype(value.dtype));
  if (!value.ranked) return type;
  auto* shape = tensor->mutable_shape();
  for (int64_t d : value.dims) {
    auto* dim = shape->add_dim();
    if (d >= 0) dim->set_dim_value(d);
  }
  return type;
}

// One node seen through ONNX's inference interface: types, attributes, and the data of small constants.
class NodeContext : public onnx::InferenceContext {
 public:
  explicit NodeContext(Node& node) : node_(node) {
    for (const auto& [name, attribute] : node.attributes) attributes_[name] = to_proto(name, attribute);
    input_types_.resize(node.inputs.size());
    data_.resize(node.inputs.size());
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      if (node.inputs[i]) input_types_[i] = type_of(*node.inputs[i]);
    }
    output_types_.resize(node.outputs.size());
    while (!output_types_.empty() && node.outputs[output_types_.size() - 1] &&
           node.outputs[output_types_.size() - 1]->opaque) {
      output_types_.pop_back();
    }
  }

  const onnx::AttributeProto* getAttribute(const std::string& name) const override {
    auto found = attributes_.find(name);
    return found == attributes_.end() ? nullptr : &found->second;
  }
  size_t getNumInputs() const override { return node_.inputs.size(); }
  const onnx::TypeProto* getInputType(size_t i) const override { return node_.input(i) ? &input_types_[i] : nullptr; }
  const onnx::TensorProto* getInputData(size_t i) const override {
    constexpr int64_t longest = 1024;  // shapes, axes, pads: never weights
    const Value* value = node_.input(i);
    if (!value || !value->is_constant() || !value->data.defined() || value->data.count() > longest) return nullptr;
    if (!data_[i]) data_[i] = std::make_unique<onnx::TensorProto>(to_proto(value->data));
    return data_[i].get();
  }
  size_t getNumOutputs() const override { return output_types_.size(); }
  onnx::TypeProto* getOutputType(size_t i) override { return &output_types_[i]; }
  bool hasOutput(size_t i) override { return i < output_types_.size() && node_.outputs[i]; }
  onnx::GraphInferencer* getGraphAttributeInferencer(const std::string&) override { return nullptr; }
  const onnx::SparseTensorProto* getInputSparseData(size_t) const override { return nullptr; }
  const onnx::TensorShapeProto* getSymbolicInput(size_t) const override { return nullptr; }
  std::string getDisplayName() const override { return node_.where(); }

 private:
  Node& node_;
  std::unordered_map<std::string, onnx::AttributeProto> attributes_;
  std::vector<onnx::TypeProto> input_types_, output_types_;
  mutable std::vector<std::unique_ptr<onnx::TensorProto>> data_;
};

void take_type(Value& value, const onnx::TypeProto& type, const Node& node) {
  if (!type.has_tensor_type()) {
    throw UnsupportedError(node.where(),
                           " gives a result that is no tensor: sequences, maps and optionals are not supported");
  }
  const auto& tensor = type.tensor_type();
  if (tensor.elem_type() != 0) value.dtype = dtype_of_proto(tensor.elem_type());
  value.ranked = tensor.has_shape();
  value.dims.clear();
  for (const auto& dim : tensor.shape().dim()) {
    if (dim.has_dim_value() && dim.dim_value() < 0) {
      throw ModelError(node.where(), " gives a negative dimension ", dim.dim_value());
    }
    value.dims.push_back(dim.has_dim_value() ? dim.dim_value() : -1);
  }
}

}  // namespace

bool known(const std::string& domain, const std::string& type) { return find(domain, type) != nullptr; }

void infer(Node& node) {
  const OpSchema* op = find(node.domain, node.type);
  if (!op) throw UnsupportedError(node.where(), " is unknown in opset ", internal_opset);
  try {
    onnx::NodeProto proto = to_proto(node);
    op->Verify(proto);
    NodeContext context(node);
    op->CheckInputOutputType(context);
    if (op->has_type_and_shape_inference_function()) op->GetTypeAndShapeInferenceFunction()(context);
    for (size_t i = 0; i < context.getNumOutputs(); ++i) {
      if (node.outputs[i]) take_type(*node.outputs[i], *context.getOutputType(i), node);
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw ModelError(node.where(), ' ', error.what());
  }
}

std::optional<bool> differentiable(const std::string& type, size_t input) {
  const OpSchema* op = find("", type);
  if (!op || op->inputs().empty()) return std::nullopt;
  size_t last = op->inputs().size() - 1;
  switch (op->inputs()[std::min(input, last)].GetDifferentiationCategory()) {
    case OpSchema::Differentiable: return true;
    case OpSchema::NonDifferentiable: return false;
    default: return std::nullopt;
  }
}

std::string function_body(const Node& node, int& opset) {
  const OpSchema* op = find(node.domain, node.type);
  if (!op) return {};
  onnx::FunctionProto body;
  if (op->HasFunction()) {
    // Bodies are kept by opset: the newest not above the internal one.
    for (int version : op->function_opset_versions()) {
      if (version > internal_opset) continue;
      const auto* found = op->GetFunction(version, false);
      if (found) {
        body = *found;
        opset = version;
      }
    }
  }
  if (!body.node_size() && op->HasContextDependentFunction()) {
    onnx::NodeProto proto = to_proto(node);
    std::vector<onnx::TypeProto> types;
    for (const Value* input : node.inputs) types.push_back(input ? type_of(*input) : onnx::TypeProto{});
    for (int version : op->context_dependent_function_opset_versions()) {
      if (version > internal_opset) continue;
      onnx::FunctionBodyBuildContextImpl context(proto, types);
      onnx::FunctionProto built;
      if (op->BuildContextDependentFunction(context, built, version) && built.node_size()) {
        body = built;
        opset = version;
      }
    }
  }
  return body.node_size() ? body.SerializeAsString() : std::string{};
}

}  // namespace graft::schema
