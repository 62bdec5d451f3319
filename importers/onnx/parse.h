// From a file to a ModelProto, and the checks that need no graph.
#pragma once

#include <onnx/onnx_pb.h>

#include <filesystem>

#include "importers/onnx/contents.h"

namespace graft {

// ModelError for files that are missing, empty, no regular files, larger than protobuf allows, or no ONNX models.
onnx::ModelProto parse_model(const std::filesystem::path& path);

// Versions, names, operators (all unknown ones in one UnsupportedError), their attributes and operand counts, and
// functions (recursion, depth, size after inlining).
void check_model(const onnx::ModelProto& model);

// The function that a node calls, nullptr where it is an operator.
class FunctionTable {
 public:
  explicit FunctionTable(const onnx::ModelProto& model);
  const onnx::FunctionProto* find(const onnx::NodeProto& node) const;

 private:
  std::unordered_map<std::string, const onnx::FunctionProto*> functions_;
};

}  // namespace graft
