// Float becomes double everywhere, for gradient checks.
#include "graph/passes/passes.h"

namespace graft {

void widen(Graph& graph) {
  auto wide = [](const Tensor& t) { return t.dtype() == DType::f32 ? t.cast(DType::f64) : t; };
  for (const auto& value : graph.values()) {
    if (value->dtype == DType::f32) value->dtype = DType::f64;
    if (value->data.defined()) value->data = wide(value->data);
  }
  for (const auto& node : graph.nodes()) {
    for (auto& [name, attribute] : node->attributes) {
      if (auto* tensor = std::get_if<Tensor>(&attribute)) *tensor = wide(*tensor);
      if (auto* body = std::get_if<std::shared_ptr<Graph>>(&attribute)) {
        std::shared_ptr<Graph> copy = (*body)->clone();
        widen(*copy);
        *body = copy;
      }
      bool names_dtype = (name == "to" || name == "dtype" || name == "output_datatype" || name == "stash_type");
      auto* code = std::get_if<int64_t>(&attribute);
      if (names_dtype && code && *code == onnx_dtype(DType::f32)) *code = onnx_dtype(DType::f64);
    }
  }
}

}  // namespace graft
