// The intermediate representation: a Graph owns Nodes and Values in SSA form. Forward, backward and optimiser are the
// same kind of graph. The IR knows no device beyond a tag, and no kernel.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>

#include "graph/layout.h"
#include "graph/tensor.h"

namespace graft {

class Graph;
struct Node;

enum class Device : uint8_t { cpu, cuda };

// What a Value is to its graph.
//   input     given anew for every step, in a fixed slot
//   constant  known now: `data` holds it
//   state     lives in the ParameterStore under `name`, from step to step
//   captured  of an outer graph (bodies of If, Loop, Scan), by name
//   result    output of `producer`
enum class Role : uint8_t { input, constant, state, captured, result };

// What a state is to the user. Only parameters are trained; only parameters and statistics come from the model file.
enum class StateKind : uint8_t { parameter, statistic, moment, counter, accumulator };

struct Value {
  int id = 0;        // unique in its graph
  std::string name;  // the ONNX name where it has one; unique in its graph when not empty
  Role role = Role::result;
  DType dtype = DType::undefined;
  bool ranked = false;                 // `dims` is meaningful
  Dims dims;                           // -1: unknown
  std::vector<std::string> dim_names;  // of graph inputs and outputs: ONNX's dim_param, "" where none
  Device device = Device::cpu;
  Layout layout;                          // set by lay_out
  Tensor data;                            // of constants
  StateKind kind = StateKind::parameter;  // of states
  bool on_disk = false;                   // of states: the bytes lie in a file, see Op::disk_slots
  bool opaque = false;                    // bytes without dtype and shape: a kernel's workspace
  int64_t opaque_bytes = 0;               // set when the node is settled
  Node* producer = nullptr;
  int index = 0;             // among the producer's outputs
  std::vector<Node*> users;  // one entry for each operand slot that reads this

  bool shaped() const;  // dtype and all dims are known
  int64_t count() const { return element_count(dims); }
  bool is_constant() const { return role == Role::constant; }
  bool is_state() const { return role == Role::state; }
};

using Attribute = std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>, Tensor, std::shared_ptr<Graph>>;
using Attributes = std::map<std::string, Attribute, std::less<>>;

enum class Direction : uint8_t { forward, backward, optimiser };
// prologue: depends on constants and unwritten state only, runs when parameters are bound; step: runs every step.
enum class Stage : uint8_t { prologue, step };

// The node of the model file that a node comes from.
struct Provenance {
  std::string source;  // ONNX node name, or its first output where it has none
  Direction direction = Direction::forward;
};

struct Node {
  std::string domain;  // "" is ONNX, "graft" is private
  std::string type;
  std::string name;
  std::vector<Value*> inputs;   // nullptr: absent
  std::vector<Value*> outputs;  // nullptr: not wanted
  Attributes attributes;
  Provenance provenance;
  Stage stage = Stage::step;
  Device device = Device::cpu;
  std::string kernel;             // chosen among those that the operator lists, see ops/op.h; "": it decides itself
  const Node* forward = nullptr;  // of a ...Grad node: the node whose descriptor it can use; nullptr once that is gone
  Graph* graph = nullptr;
  std::list<std::unique_ptr<Node>>::iterator position;

  bool has(std::string_view attribute) const { return attributes.find(attribute) != attributes.end(); }
  // Typed access with a default; ModelError when the attribute has another type.
  int64_t integer(std::string_view attribute, int64_t otherwise) const;
  double real(std::string_view attribute, double otherwise) const;
  std::string text(std::string_view attribute, const std::string& otherwise) const;
  std::vector<int64_t> integers(std::string_view attribute, const std::vector<int64_t>& otherwise = {}) const;
  std::vector<double> reals(std::string_view attribute, const std::vector<double>& otherwise = {}) const;
  Value* input(size_t i) const { return i < inputs.size() ? inputs[i] : nullptr; }
  Value* output(size_t i) const { return i < outputs.size() ? outputs[i] : nullptr; }
  // `[Softmax "enc/attn_3"]`, the beginning of every message about this node.
  std::string where() const;
  // The same in two parts, with a reason.
  Blocker blocker(std::string reason) const;
};

// A state from step to step: `in` is read, `out` is what the step leaves (nullptr: read only).
struct State {
  Value* in = nullptr;
  Value* out = nullptr;
};

class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  std::string name;
  std::vector<Value*> inputs;
  std::vector<Value*> outputs;
  std::vector<State> states;

  const std::list<std::unique_ptr<Node>>& nodes() const { return nodes_; }
  std::vector<Node*> node_list() const;  // a snapshot, for passes that edit while they walk
  const std::vector<std::unique_ptr<Value>>& values() const { return values_; }

  Value* add_input(const std::string& name, DType dtype, const Dims& dims);
  Value* add_constant(Tensor data, const std::string& name = "");
  // A read-only state named `name`; bind_state gives it an `out`.
  Value* add_state(const std::string& name, StateKind kind, DType dtype, const Dims& dims);
  Value* add_captured(const std::string& name);
  void bind_state(Value* in, Value* out);
  // Turns a constant into a read-only state of the same name (its data is dropped) and records it.
  void make_state(Value* constant, StateKind kind);

  // Adds a node before the insertion point (the end by default) with `output_count` fresh results.
  Node* add_node(const std::string& domain, const std::string& type, std::vector<Value*> inputs, size_t output_count,
                 Attributes attributes = {});
  // New nodes go before `node` (nullptr: to the end) and inherit `provenance`, until set again.
  void insert_before(Node* node) { insertion_ = node; }
  void set_provenance(Provenance provenance) { provenance_ = std::move(provenance); }
  const Provenance& provenance() const { return provenance_; }

  Value* add_output(Node* node);               // one more result of `node`
  void drop_output(Node* node, size_t index);  // makes an unused result an absent one
  void set_input(Node* node, size_t index, Value* value);
  void replace_uses(Value* old_value, Value* new_value);  // in nodes, their bodies, outputs and states' out
  void rename(Value* value, const std::string& name);     // "" takes the name away
  void erase(Node* node);                                 // its results must be unused

  Value* find(std::string_view name) const;                // nullptr when there is none
  std::string free_name(const std::string& wanted) const;  // `wanted`, with a number where it is taken
  // Removes nodes whose results reach neither an output nor a state, then values that nothing uses.
  void prune();
  // Orders nodes so that operands come before users, and every reader of a state before its writer.
  // ModelError with the names of a cycle. Among nodes that are ready those that are `urgent` go first, then the one
  // that stood first.
  void sort(const std::function<bool(const Node&)>& urgent = {});
  // Deep copy of nodes and values; constants share their bytes. `mapping` receives old value -> new value.
  std::unique_ptr<Graph> clone(std::unordered_map<const Value*, Value*>* mapping = nullptr) const;
  // Copies the nodes of `body` to the insertion point. `mapping` gives the values that stand for the body's inputs and
  // captured values; returns those that stand for its outputs.
  std::vector<Value*> inline_body(const Graph& body, std::unordered_map<const Value*, Value*> mapping);

 private:
  Value* new_value(Role role, const std::string& name);
  Value* copy_value(const Value& from, bool keep_name);
  void copy_node(const Node& from, std::unordered_map<const Value*, Value*>& mapping, bool keep_name,
                 std::unordered_map<const Node*, Node*>& nodes);

  std::list<std::unique_ptr<Node>> nodes_;
  std::vector<std::unique_ptr<Value>> values_;
  std::unordered_map<std::string, Value*> by_name_;
  bool has_bodies_ = false;
  Node* insertion_ = nullptr;
  Provenance provenance_;
  int next_id_ = 0;
};

// Throws ModelError when the graph breaks an invariant: dangling or foreign values, use before definition, duplicate
// names, a state written before a reader, users out of step with inputs.
void verify(const Graph& graph);

// ONNX text syntax, one node a line; shapes, states and provenance in comments.
std::string to_text(const Graph& graph);

}  // namespace graft
