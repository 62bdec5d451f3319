// Runs one node on host tensors: for folding and for tests of single operators.
#pragma once

#include "ops/op.h"

namespace graft {

// Whether a node has anything to compute: views and results without elements are none.
bool computes(const Node& node, const Settlement& settlement);

// The kernel of a node whose addresses are final; empty where it computes nothing. UnsupportedError where the operator
// has no kernel for the node's dtype after all.
Kernel prepare_kernel(const Node& node, const Binding& binding);

// Inputs in the node's order, undefined tensors for absent ones. Results in plain layout, undefined where not wanted.
// UnsupportedError where the node has no CPU kernel.
std::vector<Tensor> evaluate(const Node& node, const std::vector<Tensor>& inputs);

// Runs a whole graph of static shapes node by node, without planning: `inputs` by name, `states` by name.
// Returns the graph's outputs in order. For tests and for small bodies; a Program is the fast way.
std::vector<Tensor> evaluate(const Graph& graph, const std::map<std::string, Tensor>& inputs,
                             const std::map<std::string, Tensor>& states = {});

}  // namespace graft
