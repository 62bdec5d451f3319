#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "graph/graph.h"

namespace graft {
namespace {

class Verifier {
 public:
  explicit Verifier(const Graph& graph) : graph_(graph) {}

  void run() {
    for (const auto& value : graph_.values()) check_value(*value);
    for (const auto& state : graph_.states) {
      if (state.out && state.out->producer) writes_.emplace(state.out->producer, state.in);
    }
    for (const auto& node : graph_.nodes()) check_node(*node);
    for (const Value* input : graph_.inputs)
      require(input->role == Role::input, "graph input \"", input->name, "\" has another role");
    for (const Value* output : graph_.outputs) require_defined(output, "graph output");
    for (const auto& state : graph_.states) check_state(state);
    for (const auto& value : graph_.values()) {
      require(value->users.size() == uses_[value.get()], "the users of \"", value->name, "\" do not match the nodes");
    }
  }

 private:
  template <class... Parts>
  void require(bool holds, const Parts&... parts) const {
    if (!holds) throw ModelError("[graph \"", graph_.name, "\"] ", parts...);
  }

  void check_value(const Value& value) {
    owned_.insert(&value);
    if (!value.name.empty()) {
      require(names_.insert(value.name).second, "the name \"", value.name, "\" is defined twice");
      require(graph_.find(value.name) == &value, "the name \"", value.name, "\" is not indexed");
    }
    if (value.role != Role::result) defined_.insert(&value);
    require(!value.is_constant() || value.data.defined() || value.dtype == DType::string, "constant \"", value.name,
            "\" has no data");
  }

  void check_node(const Node& node) {
    for (const Value* input : node.inputs) {
      if (!input) continue;
      require(owned_.count(input), node.where(), " reads a value of another graph");
      require(defined_.count(input), node.where(), " reads \"", input->name, "\" before it is defined");
      ++uses_[input];
      auto written = written_.find(input);
      require(written == written_.end() || written->second == &node, node.where(), " reads state \"", input->name,
              "\" after it was written");
    }
    auto [first, last] = writes_.equal_range(&node);
    for (auto write = first; write != last; ++write) written_[write->second] = &node;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const Value* output = node.outputs[i];
      if (!output) continue;
      require(owned_.count(output) && output->producer == &node && output->index == static_cast<int>(i), node.where(),
              " result ", i, " is out of step");
      require(defined_.insert(output).second, node.where(), " defines \"", output->name, "\" a second time");
    }
  }

  void check_state(const State& state) {
    require(state.in && state.in->is_state(), "a state reads a value of another role");
    if (!state.out) return;
    require_defined(state.out, "state");
    require(state.out->dtype == state.in->dtype && state.out->dims == state.in->dims, "state \"", state.in->name,
            "\" of ", state.in->dtype, state.in->dims, " would become ", state.out->dtype, state.out->dims);
  }

  void require_defined(const Value* value, const char* what) const {
    require(value && owned_.count(value) && defined_.count(value), what, " \"", value ? value->name : "",
            "\" is not defined");
  }

  const Graph& graph_;
  std::unordered_set<const Value*> owned_, defined_;
  std::unordered_set<std::string> names_;
  std::unordered_map<const Value*, size_t> uses_;
  std::unordered_multimap<const Node*, const Value*> writes_;  // node -> the states it writes
  std::unordered_map<const Value*, const Node*> written_;
};

}  // namespace

void verify(const Graph& graph) { Verifier(graph).run(); }

}  // namespace graft
