#include "graph/graph.h"

#include <algorithm>
#include <queue>
#include <unordered_set>

#include "graph/captures.h"

namespace graft {

bool Value::shaped() const {
  if (opaque) return true;
  return dtype != DType::undefined && ranked && std::all_of(dims.begin(), dims.end(), [](int64_t d) { return d >= 0; });
}

namespace {

template <class T>
const T* get_attribute(const Node& node, std::string_view name) {
  auto found = node.attributes.find(name);
  if (found == node.attributes.end()) return nullptr;
  const T* value = std::get_if<T>(&found->second);
  if (!value) throw ModelError(node.where(), " attribute '", name, "' has the wrong type");
  return value;
}

}  // namespace

int64_t Node::integer(std::string_view attribute, int64_t otherwise) const {
  const auto* value = get_attribute<int64_t>(*this, attribute);
  return value ? *value : otherwise;
}

double Node::real(std::string_view attribute, double otherwise) const {
  const auto* value = get_attribute<double>(*this, attribute);
  return value ? *value : otherwise;
}

std::string Node::text(std::string_view attribute, const std::string& otherwise) const {
  const auto* value = get_attribute<std::string>(*this, attribute);
  return value ? *value : otherwise;
}

std::vector<int64_t> Node::integers(std::string_view attribute, const std::vector<int64_t>& otherwise) const {
  const auto* value = get_attribute<std::vector<int64_t>>(*this, attribute);
  return value ? *value : otherwise;
}

std::vector<double> Node::reals(std::string_view attribute, const std::vector<double>& otherwise) const {
  const auto* value = get_attribute<std::vector<double>>(*this, attribute);
  return value ? *value : otherwise;
}

Blocker Node::blocker(std::string reason) const {
  constexpr size_t longest = 120;
  std::string label = name.empty() ? provenance.source : name;
  if (label.empty() && !outputs.empty() && outputs[0]) label = outputs[0]->name;
  if (label.size() > longest) label = label.substr(0, longest) + "...";
  return {domain.empty() ? type : domain + "." + type, label, std::move(reason)};
}
std::string Node::where() const {
  Blocker parts = blocker("");
  return cat('[', parts.type, " \"", parts.name, "\"]");
}

std::vector<Node*> Graph::node_list() const {
  std::vector<Node*> list;
  list.reserve(nodes_.size());
  for (const auto& node : nodes_) list.push_back(node.get());
  return list;
}

Value* Graph::new_value(Role role, const std::string& name) {
  auto value = std::make_unique<Value>();
  value->id = next_id_++;
  value->role = role;
  values_.push_back(std::move(value));
  Value* added = values_.back().get();
  if (!name.empty()) rename(added, name);
  return added;
}

void Graph::rename(Value* value, const std::string& name) {
  if (value->name == name) return;
  if (!name.empty() && !by_name_.emplace(name, value).second) {
    throw ModelError("[graph \"", this->name, "\"] the name \"", name, "\" is defined twice");
  }
  if (!value->name.empty()) by_name_.erase(value->name);
  value->name = name;
}

Value* Graph::add_input(const std::string& name, DType dtype, const Dims& dims) {
  Value* value = new_value(Role::input, name);
  value->dtype = dtype;
  value->ranked = true;
  value->dims = dims;
  inputs.push_back(value);
  return value;
}

Value* Graph::add_constant(Tensor data, const std::string& name) {
  Value* value = new_value(Role::constant, name);
  value->dtype = data.dtype();
  value->ranked = true;
  value->dims = data.dims();
  value->data = std::move(data);
  return value;
}

Value* Graph::add_state(const std::string& name, StateKind kind, DType dtype, const Dims& dims) {
  Value* value = new_value(Role::state, name);
  value->kind = kind;
  value->dtype = dtype;
  value->ranked = true;
  value->dims = dims;
  states.push_back({value, nullptr});
  return value;
}

Value* Graph::add_captured(const std::string& name) { return new_value(Role::captured, name); }

void Graph::bind_state(Value* in, Value* out) {
  for (auto& state : states) {
    if (state.in == in) {
      state.out = out;
      return;
    }
  }
  throw UsageError("\"", in->name, "\" is not a state of this graph");
}

void Graph::make_state(Value* constant, StateKind kind) {
  constant->role = Role::state;
  constant->kind = kind;
  constant->data = {};
  states.push_back({constant, nullptr});
}

Node* Graph::add_node(const std::string& domain, const std::string& type, std::vector<Value*> operands,
                      size_t output_count, Attributes attributes) {
  auto node = std::make_unique<Node>();
  node->domain = domain;
  node->type = type;
  node->inputs = std::move(operands);
  node->attributes = std::move(attributes);
  node->provenance = provenance_;
  node->graph = this;
  for (Value* input : node->inputs) {
    if (input) input->users.push_back(node.get());
  }
  Node* added = node.get();
  has_bodies_ |= has_bodies(*added);
  auto at = insertion_ ? insertion_->position : nodes_.end();
  added->position = nodes_.insert(at, std::move(node));
  for (size_t i = 0; i < output_count; ++i) add_output(added);
  return added;
}

Value* Graph::add_output(Node* node) {
  Value* value = new_value(Role::result, "");
  value->producer = node;
  value->index = static_cast<int>(node->outputs.size());
  node->outputs.push_back(value);
  return value;
}

namespace {

void drop_user(Value* value, Node* node) {
  auto found = std::find(value->users.begin(), value->users.end(), node);
  if (found != value->users.end()) value->users.erase(found);
}

}  // namespace

void Graph::drop_output(Node* node, size_t index) {
  Value* output = node->outputs[index];
  if (!output) return;
  if (!output->users.empty()) throw UsageError(node->where(), " result ", index, " is used: it cannot be dropped");
  output->producer = nullptr;
  rename(output, "");
  node->outputs[index] = nullptr;
}

void Graph::set_input(Node* node, size_t index, Value* value) {
  if (index >= node->inputs.size()) node->inputs.resize(index + 1, nullptr);
  if (node->inputs[index]) drop_user(node->inputs[index], node);
  node->inputs[index] = value;
  if (value) value->users.push_back(node);
}

void Graph::replace_uses(Value* old_value, Value* new_value) {
  if (old_value == new_value) return;
  for (Node* user : old_value->users) {
    std::replace(user->inputs.begin(), user->inputs.end(), old_value, new_value);
    new_value->users.push_back(user);
  }
  old_value->users.clear();
  std::replace(outputs.begin(), outputs.end(), old_value, new_value);
  for (auto& state : states) {
    if (state.out == old_value) state.out = new_value;
  }
  if (!has_bodies_ || old_value->name.empty()) return;
  for (const auto& node : nodes_) {
    if (!captured_names(*node).count(old_value->name)) continue;
    if (new_value->name.empty()) rename(new_value, free_name(old_value->name));
    rename_captures(*node, {{old_value->name, new_value->name}});
  }
}

std::string Graph::free_name(const std::string& wanted) const {
  std::string name = wanted;
  for (int i = 2; by_name_.count(name); ++i) name = cat(wanted, '#', i);
  return name;
}

void Graph::erase(Node* node) {
  if (insertion_ == node) throw UsageError("erasing the insertion point ", node->where());
  for (Value* input : node->inputs) {
    if (input) drop_user(input, node);
  }
  for (Value* output : node->outputs) {
    if (!output) continue;
    if (!output->users.empty()) throw UsageError("erasing ", node->where(), " whose result is used");
    output->producer = nullptr;
    rename(output, "");
  }
  for (const auto& other : nodes_) {
    if (other->forward == node) other->forward = nullptr;
  }
  nodes_.erase(node->position);
}

Value* Graph::find(std::string_view wanted) const {
  auto found = by_name_.find(std::string(wanted));
  return found == by_name_.end() ? nullptr : found->second;
}

void Graph::prune() {
  std::unordered_set<const Value*> wanted(outputs.begin(), outputs.end());
  for (const auto& state : states) {
    if (state.out) wanted.insert(state.out);
  }
  std::vector<Node*> order = node_list();
  std::vector<const Value*> pending(wanted.begin(), wanted.end());
  std::unordered_set<const Node*> live;
  while (!pending.empty()) {
    const Value* value = pending.back();
    pending.pop_back();
    Node* node = value->producer;
    if (!node || !live.insert(node).second) continue;
    for (const Value* input : node->inputs) {
      if (input) pending.push_back(input);
    }
    for (const Value* captured : captured_values(*node)) {
      pending.push_back(captured);
      wanted.insert(captured);
    }
  }
  for (Node* node : order) {
    if (live.count(node)) continue;
    for (Value* input : node->inputs) {
      if (input) drop_user(input, node);
    }
    for (Value* output : node->outputs) {
      if (output) output->producer = nullptr;
    }
  }
  for (Node* node : order) {
    if (!live.count(node->forward)) node->forward = nullptr;
  }
  nodes_.remove_if([&](const std::unique_ptr<Node>& node) { return !live.count(node.get()); });
  std::unordered_set<const Value*> kept(inputs.begin(), inputs.end());
  kept.insert(wanted.begin(), wanted.end());
  std::erase_if(states, [&](const State& state) {
    return state.in->users.empty() && !wanted.count(state.in) && (!state.out || state.out == state.in);
  });
  for (const auto& state : states) kept.insert(state.in);
  std::erase_if(values_, [&](const std::unique_ptr<Value>& value) {
    bool stays = value->producer || !value->users.empty() || kept.count(value.get());
    if (!stays && !value->name.empty()) by_name_.erase(value->name);
    return !stays;
  });
}

void Graph::sort(const std::function<bool(const Node&)>& urgent) {
  std::unordered_map<const Node*, std::vector<Node*>> after;
  std::unordered_map<const Node*, size_t> waiting;
  std::unordered_map<const Node*, std::pair<bool, size_t>> rank;
  for (const auto& node : nodes_) {
    rank[node.get()] = {!urgent || !urgent(*node), rank.size()};
    std::vector<Value*> operands = captured_values(*node);
    operands.insert(operands.end(), node->inputs.begin(), node->inputs.end());
    for (const Value* input : operands) {
      if (input && input->producer) {
        after[input->producer].push_back(node.get());
        ++waiting[node.get()];
      }
    }
  }
  for (const auto& state : states) {
    if (!state.out || !state.out->producer) continue;
    for (Node* reader : state.in->users) {
      if (reader == state.out->producer) continue;
      after[reader].push_back(state.out->producer);
      ++waiting[state.out->producer];
    }
  }
  // Sorting a sorted graph once more changes nothing.
  auto later = [&](const Node* a, const Node* b) { return rank[a] > rank[b]; };
  std::priority_queue<Node*, std::vector<Node*>, decltype(later)> ready(later);
  for (const auto& node : nodes_) {
    if (!waiting[node.get()]) ready.push(node.get());
  }
  std::vector<Node*> order;
  while (!ready.empty()) {
    Node* node = ready.top();
    ready.pop();
    order.push_back(node);
    for (Node* next : after[node]) {
      if (--waiting[next] == 0) ready.push(next);
    }
  }
  if (order.size() != nodes_.size()) {
    std::string cycle;
    for (const auto& node : nodes_) {
      if (waiting[node.get()] && cycle.size() < 300) cycle += " " + node->where();
    }
    throw ModelError("[graph \"", name, "\"] has a cycle through", cycle);
  }
  for (Node* node : order) nodes_.splice(nodes_.end(), nodes_, node->position);
}

Value* Graph::copy_value(const Value& from, bool keep_name) {
  Value* value = new_value(from.role, keep_name ? from.name : "");
  int id = value->id;
  std::string kept = value->name;
  *value = from;
  value->id = id;
  value->name = kept;
  value->producer = nullptr;
  value->users.clear();
  return value;
}

void Graph::copy_node(const Node& from, std::unordered_map<const Value*, Value*>& mapping, bool keep_name,
                      std::unordered_map<const Node*, Node*>& copied) {
  std::vector<Value*> operands;
  for (const Value* input : from.inputs) operands.push_back(input ? mapping.at(input) : nullptr);
  Node* node = add_node(from.domain, from.type, std::move(operands), 0, from.attributes);
  node->name = from.name;
  node->provenance = keep_name || provenance_.source.empty() ? from.provenance : provenance_;
  node->stage = from.stage;
  node->device = from.device;
  node->kernel = from.kernel;
  if (from.forward) node->forward = copied.at(from.forward);
  copied[&from] = node;
  for (const Value* output : from.outputs) {
    if (!output) {
      node->outputs.push_back(nullptr);
      continue;
    }
    Value* value = copy_value(*output, keep_name);
    value->producer = node;
    node->outputs.push_back(value);
    mapping[output] = value;
  }
}

std::unique_ptr<Graph> Graph::clone(std::unordered_map<const Value*, Value*>* mapping) const {
  auto copy = std::make_unique<Graph>();
  copy->name = name;
  copy->next_id_ = next_id_;
  std::unordered_map<const Value*, Value*> map;
  std::unordered_map<const Node*, Node*> copied;
  for (const auto& value : values_) {
    if (value->role != Role::result) map[value.get()] = copy->copy_value(*value, true);
  }
  for (const auto& node : nodes_) copy->copy_node(*node, map, true, copied);
  for (const auto& value : values_) map.at(value.get())->id = value->id;
  for (const Value* input : inputs) copy->inputs.push_back(map.at(input));
  for (const Value* output : outputs) copy->outputs.push_back(map.at(output));
  for (const auto& state : states) copy->states.push_back({map.at(state.in), state.out ? map.at(state.out) : nullptr});
  if (mapping) *mapping = std::move(map);
  return copy;
}

std::vector<Value*> Graph::inline_body(const Graph& body, std::unordered_map<const Value*, Value*> mapping) {
  std::unordered_map<const Node*, Node*> copied;
  for (const auto& value : body.values_) {
    if (mapping.count(value.get()) || value->role == Role::result) continue;
    if (value->role == Role::captured) {
      Value* outer = find(value->name);
      if (!outer)
        throw ModelError("[graph \"", body.name, "\"] uses \"", value->name, "\", which no outer graph defines");
      mapping[value.get()] = outer;
    } else {
      mapping[value.get()] = copy_value(*value, value->is_constant() && !find(value->name));
    }
  }
  for (const auto& node : body.nodes_) {
    copy_node(*node, mapping, false, copied);
    std::map<std::string, std::string> names;  // bodies inside read the copies
    for (const Value* read : captured_values(*node)) {
      Value* copy = mapping.at(read);
      if (copy->name.empty()) rename(copy, free_name(read->name));
      if (copy->name != read->name) names[read->name] = copy->name;
    }
    if (!names.empty()) rename_captures(*copied.at(node.get()), names);
  }
  std::vector<Value*> results;
  for (const Value* output : body.outputs) results.push_back(mapping.at(output));
  return results;
}

}  // namespace graft
