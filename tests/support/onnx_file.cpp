#include "tests/support/onnx_file.h"

#include <onnx/defs/parser.h>

#include <filesystem>

#include "graph/proto.h"
#include "graph/schema.h"
#include "tests/support/paths.h"

namespace graft::test {
namespace {

namespace fs = std::filesystem;

std::string label(const Value* value) { return value->name.empty() ? cat("_", value->id) : value->name; }

void declare(onnx::ValueInfoProto& info, const Value& value) {
  info.set_name(label(&value));
  if (value.dtype == DType::undefined) return;
  auto* type = info.mutable_type()->mutable_tensor_type();
  type->set_elem_type(proto_dtype(value.dtype));
  if (!value.ranked) return;
  type->mutable_shape();
  for (int64_t d : value.dims) {
    auto* dim = type->mutable_shape()->add_dim();
    if (d >= 0) dim->set_dim_value(d);
  }
}

void fill(onnx::GraphProto& proto, const Graph& graph) {
  proto.set_name(graph.name.empty() ? "g" : graph.name);
  for (const Value* input : graph.inputs) declare(*proto.add_input(), *input);
  for (const Value* output : graph.outputs) declare(*proto.add_output(), *output);
  for (const auto& value : graph.values()) {
    if (!value->is_constant()) continue;
    auto* tensor = proto.add_initializer();
    *tensor = to_proto(value->data);
    tensor->set_name(label(value.get()));
  }
  for (const auto& node : graph.nodes()) {
    auto* added = proto.add_node();
    *added = to_proto(*node);
    for (auto& attribute : *added->mutable_attribute()) {
      if (attribute.has_g())
        fill(*attribute.mutable_g(), *std::get<std::shared_ptr<Graph>>(node->attributes.at(attribute.name())));
    }
  }
}

}  // namespace

std::string onnx_bytes(const std::string& text, int64_t opset) {
  std::string named = text.substr(text.find_first_not_of(" \n"));
  if (named[0] == '(') named = "g " + named;
  if (named[0] != '<') named = cat("<ir_version: 8, opset_import: [\"\" : ", opset, "]>\n", named);
  onnx::ModelProto model;
  auto status = onnx::OnnxParser::Parse(model, named);
  if (!status.IsOK()) throw UsageError("in test text: ", status.ErrorMessage(), "\n", text);
  return model.SerializeAsString();
}

std::string bytes_of(const Graph& graph) {
  onnx::ModelProto model;
  model.set_ir_version(10);
  model.add_opset_import()->set_version(internal_opset);
  fill(*model.mutable_graph(), graph);
  return model.SerializeAsString();
}

std::string package_file(const std::string& path) {
  fs::path lib = fs::path(test::python()).parent_path().parent_path() / "lib";
  for (const auto& python : fs::directory_iterator(lib)) {
    fs::path file = python.path() / "site-packages" / path;
    if (fs::exists(file)) return file.string();
  }
  throw UsageError("no package has ", path, ": run scripts/setup");
}

}  // namespace graft::test
