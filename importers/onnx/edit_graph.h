// Small edits that heads are made of.
#pragma once

#include <unordered_set>

#include "importers/onnx/contents.h"

namespace graft {

class GraphEdit {
 public:
  explicit GraphEdit(OnnxModel::Contents& model);

  onnx::GraphProto& graph() { return *model_.proto.mutable_graph(); }
  int64_t opset() const { return opset_; }
  // The node that gives a value, nullptr for inputs and initializers.
  onnx::NodeProto* producer(const std::string& name) const;
  // The tensor that a value of the main graph is, nullptr where it is computed.
  Place* constant(const std::string& name) const;
  // How often a name is read, bodies and graph outputs included.
  int uses(const std::string& name) const;
  // A name that nothing has.
  std::string fresh(const std::string& wanted);
  // The output that `name` names, the first for ""; UsageError with the nearest names.
  onnx::ValueInfoProto& output(const std::string& name);

  // Gives the operand `slot` of a node other bytes and dims: in place where nobody else reads it.
  // Returns the tensor's name.
  std::string replace_operand(onnx::NodeProto& node, int slot, const Tensor& tensor);
  // A new initializer; `wanted` is made unique.
  std::string add_tensor(const std::string& wanted, const Tensor& tensor);
  // A node at the end with one result, in the opset of the model.
  std::string add_node(const std::string& type, const std::vector<std::string>& inputs, const std::string& result);
  onnx::NodeProto& last_node() { return *graph().mutable_node(graph().node_size() - 1); }

 private:
  void count_uses(const onnx::GraphProto& graph);
  void overwrite(Place& place, const Tensor& tensor);

  OnnxModel::Contents& model_;
  int64_t opset_ = 0;
  std::unordered_map<std::string, onnx::NodeProto*> producers_;
  std::unordered_map<std::string, int> uses_;
  std::unordered_set<std::string> names_;
};

// Uniform in ±1/sqrt(fan_in), as torch.nn.Linear starts; `name` keeps tensors of one seed apart.
Tensor fresh_weights(DType dtype, const Dims& dims, int64_t fan_in, uint64_t seed, const std::string& name);

}  // namespace graft
