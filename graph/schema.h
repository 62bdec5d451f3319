// The only door to the onnx library's operator schemas. No protobuf type passes it.
#pragma once

#include "graph/graph.h"

namespace graft {

// Our one internal opset: lifted graphs carry no version, and every operator means what it means here.
inline constexpr int internal_opset = 28;

namespace schema {

// Whether ONNX defines the operator in the internal opset.
bool known(const std::string& domain, const std::string& type);

// Fills dtype, rank and dims of the node's results as far as ONNX's own inference can tell from the inputs' types and
// the data of constant inputs. ModelError where the node breaks its schema (inputs, attributes, shapes).
void infer(Node& node);

// ONNX's differentiability tag of an input of an operator: false for "non-differentiable", nullopt where untagged.
std::optional<bool> differentiable(const std::string& type, size_t input);

// The operator's function body as a serialised FunctionProto, and the opset it is written in; "" where it has none.
std::string function_body(const Node& node, int& opset);

}  // namespace schema
}  // namespace graft
