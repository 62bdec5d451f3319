#include "importers/onnx/edit_graph.h"

#include <cmath>

#include "graph/philox.h"
#include "importers/onnx/tensors.h"

namespace graft {
namespace {

constexpr int64_t large_bytes = 1024;

}  // namespace

GraphEdit::GraphEdit(OnnxModel::Contents& model) : model_(model) {
  auto opsets = opsets_of(model.proto.opset_import(), "[model]");
  auto found = opsets.find("");
  if (found == opsets.end()) throw ModelError("[model] imports no ONNX opset: a head cannot be added");
  opset_ = found->second;
  for (auto& node : *graph().mutable_node()) {
    for (const auto& name : node.output()) producers_[name] = &node;
  }
  count_uses(graph());
  for (const auto& place : model.places) names_.insert(place.name);
}

void GraphEdit::count_uses(const onnx::GraphProto& graph) {
  for (const auto& value : graph.input()) names_.insert(value.name());
  for (const auto& node : graph.node()) {
    for (const auto& name : node.input()) ++uses_[name];
    names_.insert(node.name());
    names_.insert(node.output().begin(), node.output().end());
    for (const auto& attribute : node.attribute()) {
      if (attribute.has_g()) count_uses(attribute.g());
    }
  }
  for (const auto& value : graph.output()) ++uses_[value.name()];
}

onnx::NodeProto* GraphEdit::producer(const std::string& name) const {
  auto found = producers_.find(name);
  return found == producers_.end() ? nullptr : found->second;
}

Place* GraphEdit::constant(const std::string& name) const {
  auto found = model_.place_named.find(name);
  return found == model_.place_named.end() ? nullptr : &model_.places[found->second];
}

int GraphEdit::uses(const std::string& name) const {
  auto found = uses_.find(name);
  return found == uses_.end() ? 0 : found->second;
}

std::string GraphEdit::fresh(const std::string& wanted) {
  std::string name = wanted;
  for (int i = 2; !names_.insert(name).second; ++i) name = cat(wanted, '_', i);
  return name;
}

onnx::ValueInfoProto& GraphEdit::output(const std::string& name) {
  auto& outputs = *graph().mutable_output();
  if (outputs.empty()) throw ModelError("[model] has no outputs");
  if (name.empty()) return outputs[0];
  std::vector<std::string> names;
  for (auto& output : outputs) {
    if (output.name() == name) return output;
    names.push_back(output.name());
  }
  std::string nearest;
  for (const auto& known : nearest_names(name, names))
    nearest += cat(nearest.empty() ? "\"" : ", \"", shortened(known), '"');
  throw UsageError("the model has no output \"", name, "\": nearest are ", nearest);
}

std::string GraphEdit::replace_operand(onnx::NodeProto& node, int slot, const Tensor& tensor) {
  std::string name = node.input(slot);
  Place* place = constant(name);
  if (place && uses(name) == 1) {
    overwrite(*place, tensor);
    return name;
  }
  --uses_[name];
  std::string added = add_tensor(name, tensor);
  node.set_input(slot, added);
  ++uses_[added];
  return added;
}

void GraphEdit::overwrite(Place& place, const Tensor& tensor) {
  place.dims = tensor.dims();
  if (!place.tensor) {  // a Constant's value_floats or value_ints becomes a tensor
    auto& attribute = *place.attribute;
    model_.place_of.erase(&attribute);
    attribute.Clear();
    attribute.set_name("value");
    attribute.set_type(onnx::AttributeProto::TENSOR);
    place.tensor = attribute.mutable_t();
    place.tensor->set_data_type(static_cast<int32_t>(onnx_dtype(tensor.dtype())));
    place.attribute = nullptr;
    place.raw = true;
    model_.place_of[place.tensor] = static_cast<size_t>(&place - model_.places.data());
  }
  onnx::TensorProto& proto = *place.tensor;
  proto.clear_dims();
  for (int64_t d : tensor.dims()) proto.add_dims(d);
  bool external = is_external(proto);
  clear_data(proto);
  place.held = {};
  place.stripped = external || tensor.bytes() > large_bytes;
  if (place.stripped) place.held = tensor;
  else write_tensor(proto, tensor, place.raw);
  for (auto& input : *graph().mutable_input()) {  // IR 3 declares initializers as inputs
    if (input.name() != place.name || !input.type().tensor_type().has_shape()) continue;
    auto& shape = *input.mutable_type()->mutable_tensor_type()->mutable_shape();
    shape.clear_dim();
    for (int64_t d : tensor.dims()) shape.add_dim()->set_dim_value(d);
  }
}

std::string GraphEdit::add_tensor(const std::string& wanted, const Tensor& tensor) {
  std::string name = fresh(wanted);
  auto* proto = graph().add_initializer();
  proto->set_name(name);
  proto->set_data_type(static_cast<int32_t>(onnx_dtype(tensor.dtype())));
  for (int64_t d : tensor.dims()) proto->add_dims(d);
  write_tensor(*proto, tensor, true);
  constexpr int64_t optional_inputs = 4;  // until IR 3 every initializer is an input too
  if (model_.proto.ir_version() < optional_inputs) {
    auto* input = graph().add_input();
    input->set_name(name);
    auto* type = input->mutable_type()->mutable_tensor_type();
    type->set_elem_type(proto->data_type());
    for (int64_t d : tensor.dims()) type->mutable_shape()->add_dim()->set_dim_value(d);
  }
  model_.collect();
  return name;
}

std::string GraphEdit::add_node(const std::string& type, const std::vector<std::string>& inputs,
                                const std::string& result) {
  auto* node = graph().add_node();
  node->set_op_type(type);
  node->set_name(fresh(result + "/" + type));
  for (const auto& input : inputs) {
    node->add_input(input);
    ++uses_[input];
  }
  std::string name = fresh(result);
  node->add_output(name);
  producers_[name] = node;
  return name;
}

Tensor fresh_weights(DType dtype, const Dims& dims, int64_t fan_in, uint64_t seed, const std::string& name) {
  Tensor tensor = Tensor::uninitialized(DType::f32, dims);
  Philox random(seed, name);
  float bound = 1.0F / std::sqrt(static_cast<float>(std::max<int64_t>(fan_in, 1)));
  float* out = tensor.data<float>();
  for (int64_t i = 0; i < tensor.count(); ++i) out[i] = (2 * random.uniform(static_cast<uint64_t>(i)) - 1) * bound;
  return tensor.cast(dtype);
}

}  // namespace graft
