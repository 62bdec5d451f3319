#include "runtime/model_session.h"

#include "importers/onnx/function_body.h"

namespace graft {

ModelSession::ModelSession(OnnxModel model, SessionOptions options) : file_(std::move(model)) {
  session_ = std::make_unique<Session>(file_.graph(), function_body_graph, std::move(options));
  for (const auto& [name, entry] : session_->store().entries()) file_.release(name);
}

ModelSession ModelSession::open(const std::filesystem::path& path, SessionOptions options) {
  return ModelSession(OnnxModel::load(path), std::move(options));
}

void ModelSession::save(const std::filesystem::path& path, const SaveOptions& options) const {
  std::map<std::string, DType> dtypes;
  for (const auto& place : file_.tensors()) dtypes[place.name] = place.dtype;
  const ParameterStore& store = session_->store();
  auto source = [&](const std::string& name) {
    if (!store.has(name)) return Tensor{};
    Tensor value = store.read(name);
    return value.dtype() == dtypes.at(name) ? value : value.cast(dtypes.at(name));  // of a session in float64
  };
  file_.save(path, source, options);
}

}  // namespace graft
