// Names while a graph is built: what a node of the file may read, and what its results are called in the Graph.
#pragma once

#include <onnx/onnx_pb.h>

#include <unordered_map>
#include <unordered_set>

#include "importers/onnx/contents.h"

namespace graft {

using Nodes = google::protobuf::RepeatedPtrField<onnx::NodeProto>;
using Bindings = std::map<std::string, const onnx::AttributeProto*>;

// How values of an inlined function are called: `prefix` before their own names, and the caller's names for results.
struct Naming {
  std::string prefix;
  std::unordered_map<std::string, std::string> results;
};

struct Scope {
  Graph* graph = nullptr;
  const Scope* outer = nullptr;  // of a body; functions see nothing of their caller
  const Opsets* opsets = nullptr;
  const Bindings* attributes = nullptr;            // of a function call
  Naming* naming = nullptr;                        // of a function call
  std::unordered_map<std::string, Value*> values;  // absent operands of a call: nullptr
  std::unordered_set<std::string> declared;        // all that is or will be in `values`

  bool sees(const std::string& name) const;
  // Adds a name; ModelError where this graph or one around it has it.
  void declare(const std::string& name, const std::string& where);
  // The value that a node reads; a captured one where a graph around this one has it.
  Value* read(const std::string& name, const std::string& where);

 private:
  Value* find(const std::string& name) const;
};

// Declares what the nodes define, and returns them so that operands come before users; nodes that stand in order stay
// so. ModelError for missing and duplicate names and for cycles.
std::vector<const onnx::NodeProto*> ordered_nodes(const Nodes& nodes, Scope& scope);

}  // namespace graft
