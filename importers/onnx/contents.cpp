#include "importers/onnx/contents.h"

#include <unordered_set>

#include "importers/onnx/tensor_walk.h"
#include "importers/onnx/tensors.h"

namespace graft {
namespace {

// Larger tensors leave the message. Shapes, axes and scalars stay: they are many, and copies of them cost nothing.
constexpr int64_t large_bytes = 1024;

using Names = std::unordered_set<std::string>;

Names main_names(const onnx::GraphProto& graph) {
  Names names;
  for (const auto& value : graph.input()) names.insert(value.name());
  for (const auto& tensor : graph.initializer()) names.insert(tensor.name());
  for (const auto& node : graph.node()) names.insert(node.output().begin(), node.output().end());
  return names;
}

Place place_of_value(onnx::AttributeProto& attribute) {
  using Type = onnx::AttributeProto;
  Place place;
  place.attribute = &attribute;
  place.dtype = attribute.type() == Type::FLOAT || attribute.type() == Type::FLOATS ? DType::f32 : DType::i64;
  if (attribute.type() == Type::FLOATS) place.dims = {attribute.floats_size()};
  if (attribute.type() == Type::INTS) place.dims = {attribute.ints_size()};
  return place;
}

Place place_of_tensor(onnx::TensorProto& tensor, ExternalData& external, const std::string& where) {
  Place place;
  place.tensor = &tensor;
  place.dtype = checked_dtype(tensor, where);
  place.dims = checked_dims(tensor, place.dtype, where);
  Tensor bytes = is_external(tensor) ? external.read(tensor, where) : read_tensor(tensor, where);
  place.raw = tensor.has_raw_data() || is_external(tensor);
  if (is_external(tensor) || (place.dtype != DType::string && bytes.bytes() > large_bytes)) {
    place.stripped = true;
    place.held = bytes;
    clear_data(tensor);
  }
  return place;
}

Tensor value_of(const onnx::AttributeProto& attribute) {
  using Type = onnx::AttributeProto;
  switch (attribute.type()) {
    case Type::FLOAT: return Tensor::scalar(attribute.f());
    case Type::INT: return Tensor::scalar(int64_t{attribute.i()});
    case Type::FLOATS:
      return Tensor::of<float>({attribute.floats_size()}, {attribute.floats().begin(), attribute.floats().end()});
    default: return Tensor::of<int64_t>({attribute.ints_size()}, {attribute.ints().begin(), attribute.ints().end()});
  }
}

}  // namespace

Tensor OnnxModel::Contents::tensor(const Place& place) const {
  if (!place.tensor) return value_of(*place.attribute);
  if (!place.stripped) return read_tensor(*place.tensor, cat("[tensor \"", shortened(place.name), "\"]"));
  if (!place.held.defined()) throw UsageError("tensor \"", shortened(place.name), "\" was released and is not given");
  return place.held;
}

void OnnxModel::Contents::collect() {
  Names reserved = main_names(proto.graph());
  ExternalData external(path);
  for (const TensorSite& site : tensor_sites(proto)) {
    const google::protobuf::Message* key = site.value;
    if (site.tensor) key = site.tensor;
    if (place_of.count(key)) continue;
    std::string where = cat('[', site.what, " \"", shortened(site.name), "\"]");
    Place place = site.tensor ? place_of_tensor(*site.tensor, external, where) : place_of_value(*site.value);
    place.name = site.name;
    for (int i = 2; (!site.named && reserved.count(place.name)) || place_named.count(place.name); ++i)
      place.name = cat(site.name, '#', i);
    place_of[key] = places.size();
    place_named[place.name] = places.size();
    places.push_back(std::move(place));
  }
}

}  // namespace graft
