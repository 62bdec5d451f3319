#include "graph/captures.h"

#include <algorithm>

namespace graft {
namespace {

using Body = std::shared_ptr<Graph>;

std::set<std::string> captured_names(const Graph& body) {
  std::set<std::string> names;
  for (const auto& value : body.values()) {
    if (value->role == Role::captured) names.insert(value->name);
  }
  for (const auto& node : body.nodes()) {
    for (const auto& name : captured_names(*node)) {
      const Value* own = body.find(name);
      if (!own || own->role == Role::captured) names.insert(name);
    }
  }
  return names;
}

void rename_captures(Graph& body, const std::map<std::string, std::string>& names) {
  for (const auto& [from, to] : names) {
    Value* value = body.find(from);
    if (value && value->role == Role::captured) body.rename(value, to);
  }
  for (const auto& node : body.nodes()) {
    if (has_bodies(*node)) rename_captures(*node, names);
  }
}

}  // namespace

bool has_bodies(const Node& node) {
  return std::any_of(node.attributes.begin(), node.attributes.end(),
                     [](const auto& entry) { return std::holds_alternative<Body>(entry.second); });
}

std::set<std::string> captured_names(const Node& node) {
  std::set<std::string> names;
  for (const auto& [key, attribute] : node.attributes) {
    if (const auto* body = std::get_if<Body>(&attribute)) names.merge(captured_names(**body));
  }
  return names;
}

std::vector<Value*> captured_values(const Node& node) {
  std::vector<Value*> values;
  if (!has_bodies(node)) return values;
  for (const auto& name : captured_names(node)) {
    if (Value* value = node.graph->find(name)) values.push_back(value);
  }
  return values;
}

void rename_captures(Node& node, const std::map<std::string, std::string>& names) {
  for (auto& [key, attribute] : node.attributes) {
    auto* body = std::get_if<Body>(&attribute);
    if (!body) continue;
    std::set<std::string> read = captured_names(**body);
    bool any = std::any_of(names.begin(), names.end(), [&](const auto& entry) { return read.count(entry.first) != 0; });
    if (!any) continue;
    *body = (*body)->clone();
    rename_captures(**body, names);
  }
}

}  // namespace graft
