#include "importers/onnx/rope.h"

namespace graft {
namespace {

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

// Tag and length of an embedded message or of bytes.
std::string header(int field, int64_t size) {
  constexpr int length_delimited = 2;
  std::string out;
  append_varint(out, static_cast<uint64_t>(field) << 3 | length_delimited);
  append_varint(out, static_cast<uint64_t>(size));
  return out;
}

// A message is the concatenation of its fields in any order, as long as each repeated field keeps its own: what holds
// missing bytes is taken out and follows the rest.
class Serialiser {
 public:
  explicit Serialiser(const MissingBytes& missing) : missing_(missing) {}

  Rope model(onnx::ModelProto& model) {
    std::unique_ptr<onnx::GraphProto> main(model.release_graph());
    google::protobuf::RepeatedPtrField<onnx::TrainingInfoProto> training;
    google::protobuf::RepeatedPtrField<onnx::FunctionProto> functions;
    training.Swap(model.mutable_training_info());
    functions.Swap(model.mutable_functions());
    Rope out;
    out.append(model.SerializeAsString());
    embed(out, onnx::ModelProto::kGraphFieldNumber, graph(*main));
    for (auto& info : training) embed(out, onnx::ModelProto::kTrainingInfoFieldNumber, training_info(info));
    for (auto& each : functions) embed(out, onnx::ModelProto::kFunctionsFieldNumber, function(each));
    return out;
  }

 private:
  static void embed(Rope& out, int field, Rope&& message) {
    out.append(header(field, message.size));
    out.append(std::move(message));
  }

  Rope training_info(onnx::TrainingInfoProto& info) {
    std::unique_ptr<onnx::GraphProto> first(info.has_initialization() ? info.release_initialization() : nullptr);
    std::unique_ptr<onnx::GraphProto> second(info.has_algorithm() ? info.release_algorithm() : nullptr);
    Rope out;
    out.append(info.SerializeAsString());
    if (first) embed(out, onnx::TrainingInfoProto::kInitializationFieldNumber, graph(*first));
    if (second) embed(out, onnx::TrainingInfoProto::kAlgorithmFieldNumber, graph(*second));
    return out;
  }

  Rope function(onnx::FunctionProto& function) {
    google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
    google::protobuf::RepeatedPtrField<onnx::AttributeProto> attributes;
    nodes.Swap(function.mutable_node());
    attributes.Swap(function.mutable_attribute_proto());
    Rope out;
    out.append(function.SerializeAsString());
    for (auto& each : nodes) embed(out, onnx::FunctionProto::kNodeFieldNumber, node(each));
    for (auto& each : attributes) embed(out, onnx::FunctionProto::kAttributeProtoFieldNumber, attribute(each));
    return out;
  }

  Rope graph(onnx::GraphProto& graph) {
    google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
    google::protobuf::RepeatedPtrField<onnx::TensorProto> tensors;
    nodes.Swap(graph.mutable_node());
    tensors.Swap(graph.mutable_initializer());
    Rope out;
    out.append(graph.SerializeAsString());
    for (auto& each : nodes) embed(out, onnx::GraphProto::kNodeFieldNumber, node(each));
    for (auto& each : tensors) embed(out, onnx::GraphProto::kInitializerFieldNumber, tensor(each));
    return out;
  }

  Rope node(onnx::NodeProto& node) {
    google::protobuf::RepeatedPtrField<onnx::AttributeProto> attributes;
    attributes.Swap(node.mutable_attribute());
    Rope out;
    out.append(node.SerializeAsString());
    for (auto& each : attributes) embed(out, onnx::NodeProto::kAttributeFieldNumber, attribute(each));
    return out;
  }

  Rope attribute(onnx::AttributeProto& attribute) {
    std::unique_ptr<onnx::TensorProto> held(attribute.has_t() ? attribute.release_t() : nullptr);
    std::unique_ptr<onnx::GraphProto> body(attribute.has_g() ? attribute.release_g() : nullptr);
    Rope out;
    out.append(attribute.SerializeAsString());
    if (held) embed(out, onnx::AttributeProto::kTFieldNumber, tensor(*held));
    if (body) embed(out, onnx::AttributeProto::kGFieldNumber, graph(*body));
    return out;
  }

  Rope tensor(const onnx::TensorProto& tensor) {
    Rope out;
    out.append(tensor.SerializeAsString());
    auto found = missing_.find(&tensor);
    if (found != missing_.end()) {
      out.append(header(onnx::TensorProto::kRawDataFieldNumber, byte_count(found->second->dtype, found->second->dims)));
      out.append(*found->second);
    }
    return out;
  }

  const MissingBytes& missing_;
};

}  // namespace

void Rope::append(std::string_view bytes) {
  if (bytes.empty()) return;
  if (pieces.empty() || pieces.back().tensor) pieces.emplace_back();
  pieces.back().bytes += bytes;
  size += static_cast<int64_t>(bytes.size());
}

void Rope::append(const Place& tensor) {
  pieces.push_back({{}, &tensor});
  size = checked_add(size, byte_count(tensor.dtype, tensor.dims));
}

void Rope::append(Rope&& rope) {
  for (auto& piece : rope.pieces) {
    if (piece.tensor) append(*piece.tensor);
    else append(piece.bytes);
  }
}

Rope serialise(onnx::ModelProto& model, const MissingBytes& missing) { return Serialiser(missing).model(model); }

}  // namespace graft
