#include "importers/onnx/tensor_walk.h"

#include "importers/onnx/contents.h"

namespace graft {
namespace {

class Walk {
 public:
  std::vector<TensorSite> run(onnx::ModelProto& model) {
    graph(*model.mutable_graph());
    main_ = false;
    for (auto& function : *model.mutable_functions()) {
      prefix_ = shortened(function.name()) + "/";
      for (auto& attribute : *function.mutable_attribute_proto())
        attribute_site(attribute, prefix_ + shortened(attribute.name()));
      for (auto& each : *function.mutable_node()) node(each);
    }
    prefix_ = "training_info/";
    for (auto& info : *model.mutable_training_info()) {
      if (info.has_initialization()) graph(*info.mutable_initialization());
      if (info.has_algorithm()) graph(*info.mutable_algorithm());
    }
    return std::move(sites_);
  }

 private:
  void graph(onnx::GraphProto& graph) {
    for (auto& tensor : *graph.mutable_initializer())
      sites_.push_back({&tensor, nullptr, prefix_ + tensor.name(), "tensor", main_});
    for (auto& each : *graph.mutable_node()) node(each);
  }

  void node(onnx::NodeProto& node) {
    bool constant = node.op_type() == "Constant" && plain_domain(node.domain()).empty() && node.output_size() == 1;
    for (auto& attribute : *node.mutable_attribute()) {
      if (!attribute.ref_attr_name().empty()) continue;
      if (attribute.has_g()) body(*attribute.mutable_g());
      if (!constant) attribute_site(attribute, prefix_ + label_of(node) + "." + shortened(attribute.name()));
      else constant_site(attribute, prefix_ + node.output(0));
    }
  }

  void body(onnx::GraphProto& proto) {
    bool main = main_;
    main_ = false;
    graph(proto);
    main_ = main;
  }

  void attribute_site(onnx::AttributeProto& attribute, const std::string& name) {
    if (attribute.has_t()) sites_.push_back({attribute.mutable_t(), nullptr, name, "attribute", false});
  }

  void constant_site(onnx::AttributeProto& attribute, const std::string& name) {
    using Type = onnx::AttributeProto;
    auto type = attribute.type();
    if (attribute.has_t()) sites_.push_back({attribute.mutable_t(), nullptr, name, "constant", main_});
    else if (type == Type::FLOAT || type == Type::FLOATS || type == Type::INT || type == Type::INTS) {
      sites_.push_back({nullptr, &attribute, name, "constant", main_});
    }
  }

  std::vector<TensorSite> sites_;
  std::string prefix_;
  bool main_ = true;
};

}  // namespace

std::vector<TensorSite> tensor_sites(onnx::ModelProto& model) { return Walk().run(model); }

}  // namespace graft
