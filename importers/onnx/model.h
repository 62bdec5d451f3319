// A model file: read safely, lifted to a Graph, and written back with changed tensors only. No protobuf type in here.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace graft {

struct SaveOptions {
  bool infer_mode = false;  // training-mode BatchNormalization and Dropout nodes take their inference form
  // bf16 or f16: float32 initializers are stored so, each with a Cast behind it that has its name. UnsupportedError
  // where the file's opset has no such Cast (bf16 wants 13), or a number is too large for f16.
  DType weights = DType::f32;
  bool stamp = false;  // adds `metadata` and graft.version to the metadata, raises model_version by one
  std::map<std::string, std::string> metadata;  // of the stamp; keys get the prefix "graft." where they lack it
};

// What the file says of itself.
struct ModelSummary {
  int64_t ir_version = 0;
  std::map<std::string, int64_t> opsets;  // domain -> version; "" is ONNX
  std::string producer_name, producer_version, domain, doc_string, graph_name;
  int64_t model_version = 0;
  std::map<std::string, std::string> metadata;
  std::map<std::string, int64_t> operators;  // as written in the file, bodies and functions included: type -> count
  int64_t functions = 0;
  int64_t tensor_count = 0;
  int64_t tensor_bytes = 0;
  bool external_data = false;
};

// One tensor of the file: an initializer, the value of a Constant node, or a tensor attribute.
struct TensorPlace {
  std::string name;  // unique in the file; that of the graph's constant where there is one
  DType dtype = DType::undefined;
  Dims dims;
};

class OnnxModel {
 public:
  // Reads and checks the file and its external data. ModelError where it is broken, UnsupportedError where it is newer
  // or older than Graft (IR 3 to 14, opset 7 to 28) or uses operators that ONNX does not define: all are listed.
  static OnnxModel load(const std::filesystem::path& path);

  OnnxModel(OnnxModel&&) noexcept;
  OnnxModel& operator=(OnnxModel&&) noexcept;
  ~OnnxModel();

  // The graph in the internal opset with model-local functions inlined. Initializers and Constant nodes are constants
  // named as in the file; large ones share their bytes with this model. Types and shapes are filled in as far as the
  // declared inputs tell. UsageError after a tensor was released.
  std::unique_ptr<Graph> graph() const;

  const std::filesystem::path& path() const;
  int64_t opset() const;
  int64_t ir_version() const;
  ModelSummary summary() const;
  std::vector<TensorPlace> tensors() const;

  // Drops this model's hold on the bytes of a tensor (of all tensors), so that the caller's copy is the only one;
  // save() must then be given them. Unknown names and small tensors, which stay in the message, are left alone.
  void release(const std::string& name);
  void release_tensors();

  // Current bytes of the tensor `name` in plain layout, with the dtype and dims of its TensorPlace; an undefined Tensor
  // leaves it unchanged. Lifting adds nodes but never changes a tensor, so what the graph holds is what the file holds.
  using TensorSource = std::function<Tensor(const std::string& name)>;
  // Writes the model back with changed tensors only; all else stays, external data lies in "FILE.data" beside the file.
  // The file appears under its name when it is whole and on the disk. UsageError for a tensor of wrong dtype or dims or
  // a released one that is not given, DeviceError when the system refuses.
  void save(const std::filesystem::path& path, const TensorSource& tensor, const SaveOptions& options = {}) const;

  // Throws what save() would of the options, before there is anything to save.
  void check(const SaveOptions& options) const;

  // For the other files of this folder.
  struct Contents;
  Contents& contents() { return *contents_; }
  const Contents& contents() const { return *contents_; }

 private:
  explicit OnnxModel(std::unique_ptr<Contents> contents);
  std::unique_ptr<Contents> contents_;
};

}  // namespace graft
