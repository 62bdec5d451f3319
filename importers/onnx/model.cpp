#include "importers/onnx/model.h"

#include "importers/onnx/build_graph.h"
#include "importers/onnx/contents.h"
#include "importers/onnx/export.h"
#include "importers/onnx/parse.h"

namespace graft {
namespace {

void count_operators(const google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes,
                     std::map<std::string, int64_t>& counts) {
  for (const auto& node : nodes) {
    std::string domain = plain_domain(node.domain());
    ++counts[domain.empty() ? node.op_type() : domain + "." + node.op_type()];
    for (const auto& attribute : node.attribute()) {
      if (attribute.has_g()) count_operators(attribute.g().node(), counts);
    }
  }
}

}  // namespace

OnnxModel::OnnxModel(std::unique_ptr<Contents> contents) : contents_(std::move(contents)) {}
OnnxModel::OnnxModel(OnnxModel&&) noexcept = default;
OnnxModel& OnnxModel::operator=(OnnxModel&&) noexcept = default;
OnnxModel::~OnnxModel() = default;

OnnxModel OnnxModel::load(const std::filesystem::path& path) {
  auto contents = std::make_unique<Contents>();
  contents->path = path;
  contents->proto = parse_model(path);
  check_model(contents->proto);
  contents->collect();
  return OnnxModel(std::move(contents));
}

std::unique_ptr<Graph> OnnxModel::graph() const { return build_graph(*contents_); }

const std::filesystem::path& OnnxModel::path() const { return contents_->path; }

int64_t OnnxModel::opset() const {
  auto opsets = opsets_of(contents_->proto.opset_import(), "[model]");
  auto found = opsets.find("");
  return found == opsets.end() ? 0 : found->second;
}

int64_t OnnxModel::ir_version() const { return contents_->proto.ir_version(); }

ModelSummary OnnxModel::summary() const {
  const auto& proto = contents_->proto;
  ModelSummary summary;
  summary.ir_version = proto.ir_version();
  summary.opsets = opsets_of(proto.opset_import(), "[model]");
  summary.producer_name = proto.producer_name();
  summary.producer_version = proto.producer_version();
  summary.domain = proto.domain();
  summary.doc_string = proto.doc_string();
  summary.graph_name = proto.graph().name();
  summary.model_version = proto.model_version();
  for (const auto& entry : proto.metadata_props()) summary.metadata[entry.key()] = entry.value();
  count_operators(proto.graph().node(), summary.operators);
  for (const auto& function : proto.functions()) count_operators(function.node(), summary.operators);
  summary.functions = proto.functions_size();
  summary.tensor_count = static_cast<int64_t>(contents_->places.size());
  for (const auto& place : contents_->places) {
    summary.tensor_bytes += byte_count(place.dtype, place.dims);
    summary.external_data |= place.tensor && place.tensor->data_location() == onnx::TensorProto::EXTERNAL;
  }
  return summary;
}

std::vector<TensorPlace> OnnxModel::tensors() const {
  std::vector<TensorPlace> tensors;
  for (const auto& place : contents_->places) tensors.push_back({place.name, place.dtype, place.dims});
  return tensors;
}

void OnnxModel::release(const std::string& name) {
  auto found = contents_->place_named.find(name);
  if (found != contents_->place_named.end()) contents_->places[found->second].held = {};
}

void OnnxModel::release_tensors() {
  for (auto& place : contents_->places) place.held = {};
}

void OnnxModel::check(const SaveOptions& options) const { check_weights(*contents_, options.weights); }

void OnnxModel::save(const std::filesystem::path& path, const TensorSource& tensor, const SaveOptions& options) const {
  export_model(*contents_, path, tensor, options);
}

}  // namespace graft
