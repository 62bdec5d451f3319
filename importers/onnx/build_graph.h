// From messages to the IR: functions inlined, every node lifted.
#pragma once

#include "importers/onnx/contents.h"

namespace graft {

std::unique_ptr<Graph> build_graph(const OnnxModel::Contents& model);

// A function body of the onnx library for `call`: a Graph whose inputs are the function's, in order.
std::shared_ptr<Graph> build_function(const onnx::FunctionProto& function, const Node& call);

}  // namespace graft
