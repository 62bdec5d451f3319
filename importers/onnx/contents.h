// What an OnnxModel holds: the message without the bytes of its large tensors, and where each tensor has its place.
#pragma once

#include <onnx/onnx_pb.h>

#include <filesystem>
#include <unordered_map>

#include "importers/onnx/model.h"

namespace graft {

// The tensor of an initializer or attribute; or of a Constant node's value_float(s) or value_int(s), then `tensor` is
// nullptr.
struct Place {
  std::string name;
  onnx::TensorProto* tensor = nullptr;
  onnx::AttributeProto* attribute = nullptr;
  DType dtype = DType::undefined;
  Dims dims;
  bool stripped = false;  // the bytes are not in the message
  bool raw = false;       // of stripped tensors: they were in raw_data or in a file, not in a typed field
  Tensor held;            // of stripped tensors, until released
};

struct OnnxModel::Contents {
  std::filesystem::path path;
  onnx::ModelProto proto;
  std::vector<Place> places;
  std::unordered_map<const google::protobuf::Message*, size_t> place_of;  // by tensor or attribute
  std::unordered_map<std::string, size_t> place_named;

  const Place* find(const google::protobuf::Message* message) const {
    auto found = place_of.find(message);
    return found == place_of.end() ? nullptr : &places[found->second];
  }
  // The bytes of a place. UsageError where they were released.
  Tensor tensor(const Place& place) const;
  // Finds all tensors of `proto` anew, reads external data and takes large tensors out of the message. Places that are
  // known already stay as they are.
  void collect();
};

// "" and "ai.onnx" are the same domain.
inline std::string plain_domain(const std::string& domain) { return domain == "ai.onnx" ? "" : domain; }

using Opsets = std::map<std::string, int64_t>;
// Domain -> version. ModelError where one is named twice with different versions.
Opsets opsets_of(const google::protobuf::RepeatedPtrField<onnx::OperatorSetIdProto>& imports, const std::string& where);

// `[Conv "features/0"]`
std::string where_of(const onnx::NodeProto& node);
std::string label_of(const onnx::NodeProto& node);
// The beginning of a name, for messages and prefixes: hostile names reach a MiB and hold control characters.
std::string shortened(const std::string& name);

inline constexpr int64_t oldest_ir = 3, newest_ir = 14, oldest_opset = 7;

}  // namespace graft
