#include "importers/onnx/scope.h"

#include <queue>

namespace graft {
namespace {

using Names = std::unordered_set<std::string>;

void free_names(const onnx::GraphProto& graph, Names& found);

// All that a node reads, in its bodies too.
Names names_read(const onnx::NodeProto& node) {
  Names found(node.input().begin(), node.input().end());
  for (const auto& attribute : node.attribute()) {
    if (attribute.has_g()) free_names(attribute.g(), found);
  }
  found.erase("");
  return found;
}

void free_names(const onnx::GraphProto& graph, Names& found) {
  Names own;
  for (const auto& value : graph.input()) own.insert(value.name());
  for (const auto& tensor : graph.initializer()) own.insert(tensor.name());
  for (const auto& node : graph.node()) own.insert(node.output().begin(), node.output().end());
  auto take = [&](const std::string& name) {
    if (!own.count(name)) found.insert(name);
  };
  for (const auto& node : graph.node()) {
    for (const auto& name : names_read(node)) take(name);
  }
  for (const auto& value : graph.output()) take(value.name());
}

std::string missing_text(const std::string& name, const Scope& scope) {
  constexpr size_t most = 2000;  // edit distances to very many names would take long
  std::vector<std::string> names;
  for (const auto& known : scope.declared) {
    if (names.size() < most) names.push_back(known);
  }
  std::string nearest;
  for (const auto& known : nearest_names(name, names))
    nearest += cat(nearest.empty() ? ": nearest are \"" : ", \"", shortened(known), '"');
  return nearest;
}

}  // namespace

bool Scope::sees(const std::string& name) const {
  for (const Scope* scope = this; scope; scope = scope->outer) {
    if (scope->declared.count(name)) return true;
  }
  return false;
}

void Scope::declare(const std::string& name, const std::string& where) {
  if (outer && outer->sees(name))
    throw ModelError(where, " defines \"", shortened(name), "\", which a graph around it defines");
  if (!declared.insert(name).second)
    throw ModelError(where, " defines \"", shortened(name), "\", which is defined already");
}

Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope; scope = scope->outer) {
    auto found = scope->values.find(name);
    if (found != scope->values.end()) return found->second;
  }
  return nullptr;
}

Value* Scope::read(const std::string& name, const std::string& where) {
  if (name.empty()) return nullptr;
  auto own = values.find(name);
  if (own != values.end()) return own->second;
  Value* around = outer ? outer->find(name) : nullptr;
  if (!around) {
    if (sees(name)) return nullptr;  // an absent operand of the function around
    throw ModelError(where, " reads \"", shortened(name), "\", which nothing defines", missing_text(name, *this));
  }
  Value* value = nullptr;
  // Shapes and axes are known inside too; weights stay one value.
  if (around->is_constant() && !is_float(around->dtype)) {
    value = graph->add_constant(around->data, around->name);
  } else {
    value = graph->add_captured(around->name);
    value->dtype = around->dtype;
    value->ranked = around->ranked;
    value->dims = around->dims;
  }
  values[name] = value;
  return value;
}

std::vector<const onnx::NodeProto*> ordered_nodes(const Nodes& nodes, Scope& scope) {
  std::unordered_map<std::string, int> producer;
  for (int i = 0; i < nodes.size(); ++i) {
    for (const auto& name : nodes[i].output()) {
      if (name.empty()) continue;
      scope.declare(name, where_of(nodes[i]));
      producer[name] = i;
    }
  }
  auto count = static_cast<size_t>(nodes.size());
  std::vector<std::vector<int>> users(count);
  std::vector<int> waiting(count, 0);
  for (int i = 0; i < nodes.size(); ++i) {
    for (const auto& name : names_read(nodes[i])) {
      auto found = producer.find(name);
      if (found != producer.end()) {
        users[static_cast<size_t>(found->second)].push_back(i);
        ++waiting[static_cast<size_t>(i)];
      } else if (!scope.sees(name)) {
        throw ModelError(where_of(nodes[i]), " reads \"", shortened(name), "\", which nothing defines",
                         missing_text(name, scope));
      }
    }
  }
  std::priority_queue<int, std::vector<int>, std::greater<>> ready;
  for (int i = 0; i < nodes.size(); ++i) {
    if (!waiting[static_cast<size_t>(i)]) ready.push(i);
  }
  std::vector<const onnx::NodeProto*> order;
  while (!ready.empty()) {
    int next = ready.top();
    ready.pop();
    order.push_back(&nodes[next]);
    for (int user : users[static_cast<size_t>(next)]) {
      if (--waiting[static_cast<size_t>(user)] == 0) ready.push(user);
    }
  }
  if (order.size() == count) return order;
  constexpr int shown = 5;
  std::string cycle;
  int listed = 0;
  for (int i = 0; i < nodes.size() && listed < shown; ++i) {
    if (!waiting[static_cast<size_t>(i)]) continue;
    cycle += " " + where_of(nodes[i]);
    ++listed;
  }
  throw ModelError("[graph \"", shortened(scope.graph->name), "\"] has a cycle through or before", cycle);
}

}  // namespace graft
