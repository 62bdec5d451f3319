// Graphs and models from ONNX text syntax.
#pragma once

#include <memory>
#include <string>

#include "graph/graph.h"

namespace graft::test {

// A ModelProto of the internal opset, serialised. The text is one graph:
//   (float[2,3] x) => (y) <int64[1] axes = {1}> { y = ReduceSum<keepdims = 0>(x, axes) }
// What stands between <> is a constant. Private operators are written graft.Type(...).
std::string model_from_text(const std::string& text);

// Our graph of such a text, inferred, with nodes on constants folded. With `floats` f64 all float tensors, constants
// and Cast targets become double.
std::unique_ptr<Graph> graph_from_text(const std::string& text, DType floats = DType::f32);

// A TensorProto and back.
std::string tensor_to_bytes(const Tensor& tensor, const std::string& name);
Tensor tensor_from_bytes(const std::string& bytes);

}  // namespace graft::test
