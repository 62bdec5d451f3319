// What passes that change types share.
#pragma once

#include "graph/graph.h"

namespace graft {

// A Cast of a value of known shape, at the place and with the provenance where the graph puts new nodes.
inline Value* add_cast(Graph& graph, Value* value, DType dtype) {
  Value* result = graph.add_node("", "Cast", {value}, 1, {{"to", onnx_dtype(dtype)}})->outputs[0];
  result->dtype = dtype;
  result->dims = value->dims;
  result->ranked = true;
  return result;
}

}  // namespace graft
