// ONNX models as bytes: from text, from our graphs, from installed packages.
#pragma once

#include <string>

#include "graph/graph.h"

namespace graft::test {

// ONNX text with its own header: <ir_version: 7, opset_import: ["" : 11]> g (float[2] x) => (float[2] y) {...}
// Without a header it gets IR 8 and `opset`.
std::string onnx_bytes(const std::string& text, int64_t opset = 17);

// Our graph as a model of the internal opset. Bodies are written too.
std::string bytes_of(const Graph& graph);

// Where a file of an installed Python package lies, such as "magika/models/standard_v3_3/model.onnx".
std::string package_file(const std::string& path);

}  // namespace graft::test
