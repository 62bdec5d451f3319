#include "importers/onnx/function_body.h"

#include <onnx/onnx_pb.h>

#include "graph/schema.h"
#include "importers/onnx/build_graph.h"

namespace graft {

std::shared_ptr<Graph> function_body_graph(const Node& node) {
  int opset = 0;
  std::string bytes = schema::function_body(node, opset);
  if (bytes.empty()) return nullptr;
  onnx::FunctionProto function;
  if (!function.ParseFromString(bytes)) throw ModelError(node.where(), " has a function body that cannot be read");
  bool imported = false;
  for (const auto& import : function.opset_import()) imported |= plain_domain(import.domain()).empty();
  if (!imported) function.add_opset_import()->set_version(opset);
  return build_function(function, node);
}

}  // namespace graft
