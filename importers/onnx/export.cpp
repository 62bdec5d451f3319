#include "importers/onnx/export.h"

#include <cmath>
#include <limits>
#include <set>

#include "graph/version.h"
#include "importers/onnx/infer_mode.h"
#include "importers/onnx/rope.h"
#include "importers/onnx/tensor_walk.h"
#include "importers/onnx/tensors.h"
#include "runtime/durable_file.h"

namespace graft {
namespace {

constexpr int64_t page = 4096;  // external data are aligned so that readers can map them

class Exporter {
 public:
  Exporter(const OnnxModel::Contents& model, const std::filesystem::path& path, const OnnxModel::TensorSource& source)
      : model_(model), path_(path), source_(source), proto_(model.proto) {}

  void run(const SaveOptions& options) {
    fill_tensors();
    if (options.weights != DType::f32) narrow(options.weights);
    if (options.infer_mode) make_inference(proto_);
    if (options.stamp) stamp(options.metadata);
    lay_out_external();
    Rope rope = serialise(proto_, inline_);
    if (rope.size > std::numeric_limits<int>::max()) {
      throw UnsupportedError("[", path_.string(), "] would have ", rope.size, " bytes: allowed are 2147483647");
    }
    std::unique_ptr<DurableFile> data;
    if (!external_.empty()) {
      data = std::make_unique<DurableFile>(path_.string() + ".data");
      write_external(*data);
      data->sync();
    }
    DurableFile file(path_.string());
    for (const auto& piece : rope.pieces) {
      if (piece.tensor) write_bytes(file, *piece.tensor);
      else file.write(piece.bytes);
    }
    file.sync();  // both files are whole before either appears
    if (data) data->commit();
    file.commit();
  }

 private:
  // The current bytes of a place; undefined where nobody has others than the message.
  Tensor current(const Place& place) const {
    Tensor given = source_ ? source_(place.name) : Tensor{};
    if (given.defined()) {
      if (given.dtype() != place.dtype || given.dims() != place.dims) {
        throw UsageError("tensor \"", shortened(place.name), "\" of ", place.dtype, place.dims, " is given as ",
                         given.dtype(), given.dims());
      }
      return given;
    }
    return place.stripped ? model_.tensor(place) : Tensor{};
  }

  void fill_tensors() {
    auto originals = tensor_sites(const_cast<onnx::ModelProto&>(model_.proto));  // read only
    auto copies = tensor_sites(proto_);
    for (size_t i = 0; i < originals.size(); ++i) {
      const google::protobuf::Message* key = originals[i].value;
      if (originals[i].tensor) key = originals[i].tensor;
      const Place& place = *model_.find(key);
      if (place.dtype == DType::string) continue;
      if (place.stripped && place.raw) {
        (is_external(*copies[i].tensor) ? external_ : inline_)[copies[i].tensor] = &place;
        continue;
      }
      Tensor tensor = current(place);
      if (!tensor.defined() || (!place.stripped && same_bytes(tensor, model_.tensor(place)))) continue;
      if (copies[i].tensor) write_tensor(*copies[i].tensor, tensor, place.raw);
      else write_value(*copies[i].value, tensor);
    }
  }

  // The values keep their names and types; what is stored gets names of its own.
  void narrow(DType dtype) {
    check_weights(model_, dtype);
    auto& graph = *proto_.mutable_graph();
    std::set<std::string> inputs, initializers;
    for (const auto& input : graph.input()) inputs.insert(input.name());
    for (const auto& tensor : graph.initializer()) initializers.insert(tensor.name());
    google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
    for (auto& tensor : *graph.mutable_initializer()) {
      if (tensor.data_type() != onnx::TensorProto::FLOAT || inputs.contains(tensor.name())) continue;
      auto& cast = *nodes.Add();
      cast.set_op_type("Cast");
      cast.add_output(tensor.name());
      auto& to = *cast.add_attribute();
      to.set_name("to");
      to.set_type(onnx::AttributeProto::INT);
      to.set_i(onnx_dtype(DType::f32));
      Tensor narrowed = narrow(tensor, dtype);
      std::string name = tensor.name() + (dtype == DType::bf16 ? "_bfloat16" : "_float16");
      while (!initializers.insert(name).second) name += '_';
      tensor.set_name(name);
      tensor.clear_data_location();
      tensor.clear_external_data();
      clear_data(tensor);
      tensor.set_data_type(static_cast<int32_t>(onnx_dtype(dtype)));
      write_tensor(tensor, narrowed, true);
      cast.add_input(name);
    }
    for (auto& node : *graph.mutable_node()) nodes.Add()->Swap(&node);
    graph.mutable_node()->Swap(&nodes);
  }

  Tensor narrow(const onnx::TensorProto& tensor, DType dtype) {
    Tensor wide;
    for (MissingBytes* missing : {&inline_, &external_}) {
      auto found = missing->find(&tensor);
      if (found == missing->end()) continue;
      wide = current(*found->second);
      missing->erase(found);
    }
    if (!wide.defined()) wide = read_tensor(tensor, "[initializer \"" + shortened(tensor.name()) + "\"]");
    Tensor narrowed = wide.cast(dtype), again = narrowed.cast(DType::f32);
    for (int64_t i = 0; i < wide.count(); ++i) {
      if (std::isfinite(wide.data<float>()[i]) && !std::isfinite(again.data<float>()[i]))
        throw UnsupportedError("[initializer \"", shortened(tensor.name()), "\"] has the number ",
                               wide.data<float>()[i], ", which is too large for ", dtype, ": float can be had");
    }
    return narrowed;
  }

  static bool same_bytes(const Tensor& a, const Tensor& b) {
    return a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
  }

  static void write_value(onnx::AttributeProto& attribute, const Tensor& tensor) {
    using Type = onnx::AttributeProto;
    switch (attribute.type()) {
      case Type::FLOAT: return attribute.set_f(tensor.values<float>()[0]);
      case Type::INT: return attribute.set_i(tensor.values<int64_t>()[0]);
      case Type::FLOATS:
        for (int i = 0; i < attribute.floats_size(); ++i) attribute.set_floats(i, tensor.data<float>()[i]);
        return;
      default:
        for (int i = 0; i < attribute.ints_size(); ++i) attribute.set_ints(i, tensor.data<int64_t>()[i]);
    }
  }

  void stamp(const std::map<std::string, std::string>& metadata) {
    auto set = [&](const std::string& key, const std::string& value) {
      for (auto& entry : *proto_.mutable_metadata_props()) {
        if (entry.key() == key) return entry.set_value(value);
      }
      auto* entry = proto_.add_metadata_props();
      entry->set_key(key);
      entry->set_value(value);
    };
    set("graft.version", version());
    for (const auto& [key, value] : metadata) set(key.starts_with("graft.") ? key : "graft." + key, value);
    proto_.set_model_version(proto_.model_version() + 1);
  }

  // Gives external tensors their place in the data file. A message that protobuf could not read goes there too.
  void lay_out_external() {
    int64_t size = static_cast<int64_t>(proto_.ByteSizeLong());
    constexpr int64_t slack = 1 << 24;  // tags and lengths
    for (const auto& [tensor, place] : inline_) size = checked_add(size, byte_count(place->dtype, place->dims));
    if (size > std::numeric_limits<int>::max() - slack) {
      external_.insert(inline_.begin(), inline_.end());
      inline_.clear();
    }
    if (external_.empty()) return;
    int64_t offset = 0;
    std::string location = path_.filename().string() + ".data";
    for (auto& site : tensor_sites(proto_)) {
      auto found = site.tensor ? external_.find(site.tensor) : external_.end();
      if (found == external_.end()) continue;
      int64_t bytes = byte_count(found->second->dtype, found->second->dims);
      describe(*site.tensor, location, offset, bytes);
      order_.emplace_back(offset, found->second);
      offset = checked_mul((checked_add(offset, bytes) + page - 1) / page, page);
    }
  }

  static void describe(onnx::TensorProto& tensor, const std::string& location, int64_t offset, int64_t bytes) {
    tensor.set_data_location(onnx::TensorProto::EXTERNAL);
    auto& entries = *tensor.mutable_external_data();
    auto set = [&](const std::string& key, const std::string& value) {
      for (auto& entry : entries) {
        if (entry.key() == key) return entry.set_value(value);
      }
      auto* entry = entries.Add();
      entry->set_key(key);
      entry->set_value(value);
    };
    set("location", location);
    set("offset", std::to_string(offset));
    set("length", std::to_string(bytes));
    for (int i = entries.size() - 1; i >= 0; --i) {
      if (entries[i].key() == "checksum") entries.DeleteSubrange(i, 1);  // of the old bytes
    }
  }

  void write_bytes(DurableFile& file, const Place& place) const {
    Tensor tensor = current(place);
    file.write(tensor.raw(), tensor.bytes());
  }

  void write_external(DurableFile& file) const {
    static constexpr char zeros[page] = {};
    for (const auto& [offset, place] : order_) {
      file.write(zeros, offset - file.size());
      write_bytes(file, *place);
    }
  }

  const OnnxModel::Contents& model_;
  const std::filesystem::path& path_;
  const OnnxModel::TensorSource& source_;
  onnx::ModelProto proto_;
  MissingBytes inline_, external_;
  std::vector<std::pair<int64_t, const Place*>> order_;  // of external tensors: offset, place
};

}  // namespace

void check_weights(const OnnxModel::Contents& model, DType dtype) {
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
    throw UsageError("weights are stored as float, bfloat16 or float16, not as ", dtype);
  constexpr int64_t first_bfloat16 = 13;
  const std::string where = "[" + model.path.string() + "]";
  const Opsets opsets = opsets_of(model.proto.opset_import(), where);
  auto opset = opsets.find("");
  if (dtype == DType::bf16 && opset != opsets.end() && opset->second < first_bfloat16)
    throw UnsupportedError(where, " is of opset ", opset->second,
                           ", whose Cast knows no bfloat16: allowed are float16, ", "or a file of opset ",
                           first_bfloat16, " or newer");
}

void export_model(const OnnxModel::Contents& model, const std::filesystem::path& path,
                  const OnnxModel::TensorSource& source, const SaveOptions& options) {
  Exporter(model, path, source).run(options);
}

}  // namespace graft
