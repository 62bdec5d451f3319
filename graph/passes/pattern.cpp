#include "graph/passes/pattern.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "graph/captures.h"

namespace graft::pattern {

std::optional<double> number(const Value* value) {
  if (!value || !value->is_constant() || !is_float(value->dtype) || value->data.count() != 1) return std::nullopt;
  return value->data.cast(DType::f64).data<double>()[0];
}

bool is_about(double value, double wanted) { return std::abs(value - wanted) <= 2e-6 * std::abs(wanted); }

const Node* made_by(const Value* value, std::string_view type) {
  const Node* node = value ? value->producer : nullptr;
  return node && node->domain.empty() && node->type == type ? node : nullptr;
}

namespace {

// Patterns are small: what is larger stays a factor or a term of its own.
constexpr int most_nodes = 24;

bool is_kept(const Graph& graph, const Value* value) {
  if (std::find(graph.outputs.begin(), graph.outputs.end(), value) != graph.outputs.end()) return true;
  return std::any_of(graph.states.begin(), graph.states.end(), [&](const State& s) { return s.out == value; });
}

bool is_passing(const Value& value) {
  return value.producer && value.users.size() == 1 && !is_kept(*value.producer->graph, &value);
}

void add_factors(Value* value, bool root, int& budget, Product& product) {
  if (auto constant = number(value)) {
    product.coefficient *= *constant;
    return;
  }
  const Node* node = root || is_passing(*value) ? value->producer : nullptr;
  if (node && --budget > 0) {
    if (made_by(value, "Mul")) {
      add_factors(node->inputs[0], false, budget, product);
      add_factors(node->inputs[1], false, budget, product);
      return;
    }
    auto constant = node->inputs.size() == 2 ? number(node->inputs[1]) : std::nullopt;
    if (constant && made_by(value, "Div")) {
      product.coefficient /= *constant;
      add_factors(node->inputs[0], false, budget, product);
      return;
    }
    if (constant && made_by(value, "Pow") && (*constant == 2 || *constant == 3)) {
      product.factors.insert(product.factors.end(), static_cast<size_t>(*constant), node->inputs[0]);
      return;
    }
  }
  product.factors.push_back(value);
}

void add_terms(Value* value, bool root, int& budget, Sum& sum) {
  if (auto constant = number(value)) {
    sum.shift += *constant;
    return;
  }
  const Node* node = root || is_passing(*value) ? value->producer : nullptr;
  if (node && --budget > 0) {
    if (made_by(value, "Add")) {
      add_terms(node->inputs[0], false, budget, sum);
      add_terms(node->inputs[1], false, budget, sum);
      return;
    }
    if (auto constant = made_by(value, "Sub") ? number(node->inputs[1]) : std::nullopt) {
      sum.shift -= *constant;
      add_terms(node->inputs[0], false, budget, sum);
      return;
    }
  }
  sum.terms.push_back(value);
}

}  // namespace

bool Product::is(double wanted_coefficient, std::vector<const Value*> wanted) const {
  if (!is_about(coefficient, wanted_coefficient) || factors.size() != wanted.size()) return false;
  std::vector<const Value*> own(factors.begin(), factors.end());
  std::sort(own.begin(), own.end());
  std::sort(wanted.begin(), wanted.end());
  return own == wanted;
}

Value* Product::beside(const Value* one) const {
  if (factors.size() != 2) return nullptr;
  if (factors[0] == one) return factors[1];
  return factors[1] == one ? factors[0] : nullptr;
}

Product product_of(Value* value) {
  Product product;
  int budget = most_nodes;
  add_factors(value, true, budget, product);
  return product;
}

Sum sum_of(Value* value) {
  Sum sum;
  int budget = most_nodes;
  add_terms(value, true, budget, sum);
  return sum;
}

std::optional<std::vector<int64_t>> reduced_axes(const Node& node) {
  auto rank = static_cast<int64_t>(node.inputs.at(0)->dims.size());
  const Value* given = node.input(1);
  std::vector<int64_t> axes;
  if (given) {
    if (!given->is_constant()) return std::nullopt;
    axes = given->data.to_int64();
  }
  if (axes.empty()) {
    if (node.integer("noop_with_empty_axes", 0)) return std::nullopt;
    for (int64_t d = 0; d < rank; ++d) axes.push_back(d);
  }
  for (int64_t& axis : axes) {
    if (axis < 0) axis += rank;
  }
  std::sort(axes.begin(), axes.end());
  return axes;
}

bool is_closed(const Graph& graph, const Node& root, const std::vector<const Value*>& inputs) {
  std::unordered_set<const Value*> outside(inputs.begin(), inputs.end());
  std::unordered_set<const Node*> inside{&root};
  std::vector<const Node*> nodes{&root};
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (const Value* input : nodes[i]->inputs) {
      bool inner = input && input->producer && !outside.count(input);
      if (inner && inside.insert(input->producer).second) nodes.push_back(input->producer);
    }
  }
  for (const Node* node : nodes) {
    if (node == &root) continue;
    for (const Value* output : node->outputs) {
      if (!output) continue;
      if (is_kept(graph, output)) return false;
      bool leaves = std::any_of(output->users.begin(), output->users.end(),
                                [&](const Node* user) { return !inside.count(user); });
      if (leaves) return false;
    }
  }
  return true;
}

std::unordered_set<const Value*> kept_values(const Graph& graph) {
  std::unordered_set<const Value*> kept(graph.outputs.begin(), graph.outputs.end());
  for (const auto& state : graph.states) kept.insert(state.out);
  for (const auto& node : graph.nodes()) {
    for (const Value* value : captured_values(*node)) kept.insert(value);
  }
  return kept;
}

void take_over(Graph& graph, Value* result, Node* node, size_t index) {
  if (!result) return graph.drop_output(node, index);
  std::string name = result->name;
  graph.replace_uses(result, node->outputs[index]);
  graph.rename(result, "");
  graph.rename(node->outputs[index], name);
}

int join_each(Graph& graph, std::string_view type, const std::function<bool(Node*)>& join, std::string_view domain) {
  Provenance before = graph.provenance();
  std::vector<Node*> nodes = graph.node_list();
  std::erase_if(nodes, [&](const Node* node) { return node->domain != domain || node->type != type; });
  int joined = 0;
  for (Node* node : nodes) joined += join(node);
  graph.set_provenance(before);
  return joined;
}

void replace(Graph& graph, Value* old_value, Value* replacement) {
  std::string name = old_value->name;
  Node* root = old_value->producer;
  graph.insert_before(nullptr);
  graph.replace_uses(old_value, replacement);
  if (!name.empty() && replacement->name.empty()) {
    graph.rename(old_value, "");
    graph.rename(replacement, name);
  }
  std::vector<Node*> dead{root};
  while (!dead.empty()) {
    Node* node = dead.back();
    dead.pop_back();
    bool used = std::any_of(node->outputs.begin(), node->outputs.end(),
                            [&](const Value* v) { return v && (!v->users.empty() || is_kept(graph, v)); });
    if (used) continue;
    std::vector<Value*> operands = node->inputs;
    graph.erase(node);
    for (const Value* operand : operands) {
      Node* producer = operand ? operand->producer : nullptr;
      if (producer && std::find(dead.begin(), dead.end(), producer) == dead.end()) dead.push_back(producer);
    }
  }
}

}  // namespace graft::pattern
