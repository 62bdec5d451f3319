#include "importers/onnx/infer_mode.h"

#include "importers/onnx/contents.h"

namespace graft {
namespace {

using Nodes = google::protobuf::RepeatedPtrField<onnx::NodeProto>;

void drop_attribute(onnx::NodeProto& node, const std::string& name) {
  auto& attributes = *node.mutable_attribute();
  for (int i = attributes.size() - 1; i >= 0; --i) {
    if (attributes[i].name() == name) attributes.DeleteSubrange(i, 1);
  }
}

bool has_further_results(const onnx::NodeProto& node) {
  for (int i = 1; i < node.output_size(); ++i) {
    if (!node.output(i).empty()) return true;
  }
  return false;
}

// y, mean, variance (, mean, variance): inference normalises by operands 3 and 4.
void normalise_by_statistics(onnx::NodeProto& node, Nodes& added) {
  drop_attribute(node, "training_mode");
  for (int i = 1; i < node.output_size(); ++i) {
    if (node.output(i).empty()) continue;
    auto* copy = added.Add();
    copy->set_op_type("Identity");
    copy->set_domain(node.domain());
    copy->add_input(node.input(i % 2 == 1 ? 3 : 4));
    copy->add_output(node.output(i));
  }
  while (node.output_size() > 1) node.mutable_output()->RemoveLast();
}

void keep_all(onnx::NodeProto& node) {
  if (node.input_size() < 3) return;
  while (node.input_size() > 2) node.mutable_input()->RemoveLast();
  while (node.input_size() && node.input(node.input_size() - 1).empty()) node.mutable_input()->RemoveLast();
}

void make_inference(Nodes& nodes) {
  Nodes changed;
  bool any = false;
  for (auto& node : nodes) {
    for (auto& attribute : *node.mutable_attribute()) {
      if (attribute.has_g()) make_inference(*attribute.mutable_g()->mutable_node());
    }
    any |= plain_domain(node.domain()).empty() && node.op_type() == "BatchNormalization" && has_further_results(node);
  }
  for (auto& node : nodes) {
    if (!plain_domain(node.domain()).empty()) continue;
    if (node.op_type() == "Dropout") keep_all(node);
    if (node.op_type() == "BatchNormalization" && !has_further_results(node)) drop_attribute(node, "training_mode");
  }
  if (!any) return;
  // Copies stand right behind their node: the order must stay topological.
  Nodes old;
  old.Swap(&nodes);
  while (!old.empty()) {
    changed.AddAllocated(old.ReleaseLast());
  }
  while (!changed.empty()) {
    nodes.AddAllocated(changed.ReleaseLast());
    onnx::NodeProto& node = *nodes.Mutable(nodes.size() - 1);
    if (plain_domain(node.domain()).empty() && node.op_type() == "BatchNormalization" && has_further_results(node)) {
      Nodes copies;
      normalise_by_statistics(node, copies);
      for (auto& copy : copies) *nodes.Add() = copy;
    }
  }
}

}  // namespace

void make_inference(onnx::ModelProto& model) {
  make_inference(*model.mutable_graph()->mutable_node());
  for (auto& function : *model.mutable_functions()) make_inference(*function.mutable_node());
}

}  // namespace graft
