// Chooses one candidate of every kernel, in the order of the joint graph: forward layouts are settled when backward
// asks, so that backward prefers what forward left. A reorder costs its traffic, once for all who share it.
#include <limits>
#include <unordered_set>

#include "graph/passes/passes.h"
#include "ops/op.h"

namespace graft {
namespace {

class LayoutChooser {
 public:
  LayoutChooser(Graph& graph, const std::map<std::string, Layout>& masters) : graph_(graph), masters_(masters) {
    for (const auto& value : graph.values()) {
      if (value->role == Role::result) continue;
      value->layout = Layout::plain(value->dims);
      if (!value->is_state()) continue;
      auto fixed = masters.find(value->name);
      if (fixed != masters.end()) value->layout = fixed->second;
      else free_states_.insert(value.get());
    }
  }

  void run() {
    std::vector<Blocker> missing;
    std::vector<Node*> nodes = graph_.node_list();
    lay_inputs();
    for (Node* node : nodes) {
      if (is_working_copy(*node)) {
        working_copies_.push_back(node);
        node->outputs[0]->layout = Layout::plain(node->outputs[0]->dims);
      } else if (find_kernel(*node)) {
        choose(node);
      } else {
        missing.push_back(node->blocker(cat("has no kernel for ", kernel_dtype(*node))));
      }
    }
    if (!missing.empty()) throw UnsupportedError::listing("cannot be computed", std::move(missing));
    graph_.insert_before(nullptr);
    for (Value*& output : graph_.outputs) output = plain_output(output);
    for (auto& state : graph_.states) {
      if (state.out) state.out = as(state.out, state.in->layout);
    }
    for (Node* node : working_copies_) graph_.erase(node);
  }

 private:
  // A cast of a state leaves the layout of the state open: those who read it get it cast and laid out in one.
  static bool is_working_copy(const Node& node) {
    return node.domain.empty() && node.type == "Cast" && node.inputs[0]->is_state() &&
           node.inputs[0]->dtype == DType::f32 && node.outputs[0]->dtype == DType::bf16;
  }

  // Inputs come plain. One that is wanted otherwise is laid out once, before all that reads it.
  void lay_inputs() {
    graph_.insert_before(graph_.nodes().empty() ? nullptr : graph_.nodes().front().get());
    for (Value* input : graph_.inputs) {
      auto wanted = masters_.find(input->name);
      if (wanted == masters_.end() || wanted->second == input->layout) continue;
      std::vector<Node*> users = input->users;
      Value* laid = as(input, wanted->second);
      for (Node* user : users) {
        for (size_t i = 0; i < user->inputs.size(); ++i) {
          if (user->inputs[i] == input) graph_.set_input(user, i, laid);
        }
      }
    }
  }

  static double traffic(const Value& value) { return 2.0 * static_cast<double>(byte_count(value.dtype, value.dims)); }
  static bool is_known_once(const Value& value) {
    return value.is_constant() || (value.producer && value.producer->stage == Stage::prologue);
  }

  double price(const Node& node, const Candidate& candidate) const {
    double total = candidate.cost;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      Value* value = node.inputs[i];
      if (!value || value->opaque || candidate.inputs[i] == value->layout || free_states_.count(value) ||
          (value->producer && is_working_copy(*value->producer)))
        continue;
      auto copies = copies_.find(value);
      bool exists =
          copies != copies_.end() && std::any_of(copies->second.begin(), copies->second.end(),
                                                 [&](const Value* v) { return v->layout == candidate.inputs[i]; });
      if (!exists && !is_known_once(*value) && !value->layout.lies_as(candidate.inputs[i], value->dims))
        total += traffic(*value);
    }
    return total;
  }

  void choose(Node* node) {
    std::vector<Candidate> candidates = find_kernel(*node)->propose(*node);
    const Candidate* best = nullptr;
    double least = std::numeric_limits<double>::infinity();
    for (const Candidate& candidate : candidates) {
      double cost = price(*node, candidate);
      if (cost < least) {
        least = cost;
        best = &candidate;
      }
    }
    if (!best) throw UnsupportedError(node->where(), " proposes no layout");
    graph_.insert_before(node);
    for (size_t i = 0; i < node->inputs.size(); ++i) {
      Value* value = node->inputs[i];
      if (!value || value->opaque) continue;
      if (free_states_.erase(value)) value->layout = best->inputs[i];
      graph_.set_provenance(node->provenance);
      graph_.set_input(node, i, as(value, best->inputs[i]));
    }
    for (size_t i = 0; i < node->outputs.size(); ++i) {
      Value* value = node->outputs[i];
      if (value && !value->opaque) value->layout = best->outputs[i];
    }
  }

  // The value itself, or a copy of it in another layout.
  Value* as(Value* value, const Layout& layout) {
    const bool working_copy = value->producer && is_working_copy(*value->producer);
    if (value->layout == layout && !working_copy) return value;
    for (Value* copy : copies_[value]) {
      if (copy->layout == layout) return copy;
    }
    Value* from = working_copy ? value->producer->inputs[0] : value;
    if (from->producer) graph_.set_provenance(from->producer->provenance);  // else the reader's: it is made for that
    Node* reorder = graph_.add_node("graft", "Reorder", {from}, 1);
    Value* copy = reorder->outputs[0];
    copy->dtype = value->dtype;
    copy->dims = value->dims;
    copy->ranked = true;
    copy->layout = layout;
    bool read_only_state = from->is_state() && !is_written(from);
    reorder->stage = is_known_once(*from) || read_only_state ? Stage::prologue : Stage::step;
    copies_[value].push_back(copy);
    return copy;
  }

  // Outputs leave in plain layout, under their own name.
  Value* plain_output(Value* output) {
    Value* plain = as(output, Layout::plain(output->dims));
    if (plain == output || output->role != Role::result) return plain;
    std::string name = output->name;
    graph_.rename(output, "");
    graph_.rename(plain, name);
    return plain;
  }

  bool is_written(const Value* state) const {
    for (const auto& entry : graph_.states) {
      if (entry.in == state) return entry.out != nullptr;
    }
    return false;
  }

  Graph& graph_;
  const std::map<std::string, Layout>& masters_;
  std::unordered_set<const Value*> free_states_;
  std::vector<Node*> working_copies_;
  std::unordered_map<const Value*, std::vector<Value*>> copies_;
};

}  // namespace

void lay_out(Graph& graph, const std::map<std::string, Layout>& masters) { LayoutChooser(graph, masters).run(); }

}  // namespace graft
