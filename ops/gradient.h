// What a gradient rule sees of the node that it differentiates.
#pragma once

#include "ops/op.h"

namespace graft {

class Gradient {
 public:
  Gradient(Graph& graph, Node& node, std::vector<Value*> output_gradients, std::vector<bool> needs)
      : graph_(graph), node_(node), output_gradients_(std::move(output_gradients)), needs_(std::move(needs)) {}

  Node& node() { return node_; }
  Graph& graph() { return graph_; }
  // Input, output; empty where absent.
  Val x(size_t i) { return {graph_, node_.input(i)}; }
  Val y(size_t i) { return {graph_, node_.output(i)}; }
  // Gradient of output i; empty when none reaches it.
  Val dy(size_t i) { return {graph_, i < output_gradients_.size() ? output_gradients_[i] : nullptr}; }
  // Gradient of output i, as zeros where none reaches it.
  Val dy_or_zero(size_t i);
  // Whether the gradient of input i is wanted: rules leave out what is not.
  bool needs(size_t i) const { return i < needs_.size() && needs_[i]; }
  size_t input_count() const { return node_.inputs.size(); }

  // A private ...Grad node; its kernel is settled with the descriptor of this node.
  std::vector<Val> grad_node(const std::string& type, const std::vector<Val>& operands, size_t output_count,
                             Attributes attributes = {});
  // The same with results of which unwanted ones are absent (empty Vals).
  std::vector<Val> grad_node(const std::string& type, const std::vector<Val>& operands, const std::vector<bool>& wanted,
                             Attributes attributes = {});
  // An opaque result added to the forward node: bytes that its kernel leaves for backward, sized when it is settled.
  Val workspace();

 private:
  Graph& graph_;
  Node& node_;
  std::vector<Value*> output_gradients_;
  std::vector<bool> needs_;
};

}  // namespace graft
