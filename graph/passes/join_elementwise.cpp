// Element-wise nodes that read one another become regions, graft.Elementwise: one pass over memory instead of one each.
// A sum of what a region computes becomes a part of it. Behind lay_out, since all values of a region lie alike. A
// region stands where its last node stood.
#include <algorithm>

#include "graph/passes/passes.h"
#include "graph/passes/pattern.h"
#include "ops/op.h"

namespace graft {
namespace {

constexpr size_t most_nodes = 24, most_inputs = 16;

struct Region {
  std::vector<Node*> nodes;  // in their order, an element-wise one first
  int64_t place = 0;         // of the last one
  const Node* sum = nullptr;
};

class RegionJoiner {
 public:
  explicit RegionJoiner(Graph& graph) : graph_(graph), nodes_(graph.node_list()), kept_(pattern::kept_values(graph)) {
    for (size_t i = 0; i < nodes_.size(); ++i) places_[nodes_[i]] = static_cast<int64_t>(i);
  }

  int run() {
    for (Node* node : nodes_) {
      if (!is_candidate(*node)) continue;
      if (node->type == "ReduceSum") add_sum(node);
      else add(node);
    }
    Provenance before = graph_.provenance();
    int joined = 0;
    for (const auto& region : regions_) {
      if (region->nodes.size() < 2) continue;
      build(*region);
      ++joined;
    }
    graph_.set_provenance(before);
    return joined;
  }

 private:
  static bool fits_tiles(const Value& value) { return value.dtype == DType::f32 || value.dtype == DType::bf16; }

  static bool is_candidate(const Node& node) {
    const Op* op = find_op(node);
    if (!op || !op->elementwise || node.outputs.size() != 1 || node.stage != Stage::step || node.device != Device::cpu)
      return false;
    const Value& y = *node.outputs[0];
    if (!fits_tiles(y) || y.count() < 1 || !op->elementwise(node, nullptr)) return false;
    return std::all_of(node.inputs.begin(), node.inputs.end(),
                       [](const Value* x) { return !x || fits_tiles(*x) || x->is_constant(); });
  }

  void add_sum(Node* node) {
    Region late{{node}, places_.at(node), node};
    auto found = node->inputs[0]->producer ? region_of_.find(node->inputs[0]->producer) : region_of_.end();
    if (found == region_of_.end() || found->second->sum || !can_run_later(*found->second, late)) return;
    Region& region = *found->second;
    region.nodes.push_back(node);
    region.place = late.place;
    region.sum = node;
    region_of_[node] = &region;
  }

  void add(Node* node) {
    auto own = std::make_unique<Region>(Region{{node}, places_.at(node)});
    Region* region = own.get();
    regions_.push_back(std::move(own));
    region_of_[node] = region;
    for (const Value* input : node->inputs) {
      auto found = input && input->producer ? region_of_.find(input->producer) : region_of_.end();
      if (found != region_of_.end() && found->second != region && can_merge(*found->second, *region))
        merge(found->second, region);
    }
  }

  bool is_in(const Node* node, const Region& region) const {
    auto found = region_of_.find(node);
    return found != region_of_.end() && found->second == &region;
  }

  bool can_merge(const Region& early, const Region& late) const {
    const Value &x = *early.nodes[0]->outputs[0], &y = *late.nodes[0]->outputs[0];
    return x.dims == y.dims && x.layout == y.layout && !(early.sum && late.sum) && can_run_later(early, late);
  }

  // Whether the nodes of `early` can run where `late` stands, and should.
  bool can_run_later(const Region& early, const Region& late) const {
    if (early.nodes[0]->provenance.direction != late.nodes[0]->provenance.direction ||
        early.nodes.size() + late.nodes.size() > most_nodes ||
        inputs_of(early).size() + inputs_of(late).size() > most_inputs)
      return false;
    for (const Node* node : early.nodes) {
      for (const Node* user : node->outputs[0]->users) {
        bool late_reads = is_in(user, late) || std::count(late.nodes.begin(), late.nodes.end(), user) > 0;
        if (late_reads ? node == early.sum : !is_in(user, early) && places_.at(user) <= late.place) return false;
      }
    }
    return is_behind(early, late) || !lengthens_lives(early);
  }

  // Whether nothing that takes memory stands between the two.
  bool is_behind(const Region& early, const Region& late) const {
    for (int64_t place = early.place + 1; place < late.place; ++place) {
      const Node* between = nodes_[static_cast<size_t>(place)];
      if (!is_in(between, early) && !is_in(between, late)) return false;
    }
    return true;
  }

  // A region that runs later keeps its operands for longer, and its results come later: the former are to be no more.
  bool lengthens_lives(const Region& region) const {
    size_t dying = 0;
    for (const Value* input : inputs_of(region)) {
      if (input->role != Role::result || input->dims != region.nodes[0]->outputs[0]->dims || kept_.count(input))
        continue;
      dying += std::all_of(input->users.begin(), input->users.end(),
                           [&](const Node* user) { return is_in(user, region) || places_.at(user) <= region.place; });
    }
    size_t results = 0;
    for (const Node* node : region.nodes) results += is_read_outside(*node->outputs[0], region);
    return dying > results;
  }

  bool is_read_outside(const Value& value, const Region& region) const {
    return kept_.count(&value) ||
           std::any_of(value.users.begin(), value.users.end(), [&](const Node* user) { return !is_in(user, region); });
  }

  // What a region reads.
  std::vector<Value*> inputs_of(const Region& region) const {
    std::vector<Value*> inputs;
    for (const Node* node : region.nodes) {
      for (Value* input : node->inputs) {
        bool own = !input || (input->producer && is_in(input->producer, region));
        if (!own && std::find(inputs.begin(), inputs.end(), input) == inputs.end()) inputs.push_back(input);
      }
    }
    return inputs;
  }

  void merge(Region* early, Region* late) {
    for (Node* node : early->nodes) region_of_[node] = late;
    if (early->sum) late->sum = early->sum;
    late->nodes.insert(late->nodes.begin(), early->nodes.begin(), early->nodes.end());
    std::sort(late->nodes.begin(), late->nodes.end(),
              [&](const Node* a, const Node* b) { return places_.at(a) < places_.at(b); });
    early->nodes.clear();
  }

  void build(const Region& region) {
    auto body = std::make_shared<Graph>();
    body->name = "region";
    std::unordered_map<const Value*, Value*> inner;
    std::vector<Value*> inputs;
    for (Value* input : inputs_of(region)) {
      Value* stand_in = nullptr;
      if (pattern::number(input) || !fits_tiles(*input)) {
        stand_in = body->add_constant(input->data);
      } else {
        stand_in = body->add_input(cat('x', inputs.size()), input->dtype, input->dims);
        stand_in->layout = input->layout;
        inputs.push_back(input);
      }
      inner[input] = stand_in;
    }
    std::vector<Value*> results;
    for (const Node* node : region.nodes) {
      std::vector<Value*> operands;
      for (const Value* input : node->inputs) operands.push_back(input ? inner.at(input) : nullptr);
      Value* y = node->outputs[0];
      Value* result = body->add_node(node->domain, node->type, operands, 1, node->attributes)->outputs[0];
      result->dtype = y->dtype;
      result->ranked = true;
      result->dims = y->dims;
      result->layout = y->layout;
      inner[y] = result;
      if (!is_read_outside(*y, region)) continue;
      results.push_back(y);
      body->outputs.push_back(result);
    }
    Node* last = region.nodes.back();
    graph_.insert_before(last);
    graph_.set_provenance(last->provenance);
    Node* joined = graph_.add_node("graft", "Elementwise", inputs, results.size(), {{"body", body}});
    joined->name = last->name;
    infer(*joined);
    for (size_t i = 0; i < results.size(); ++i) {
      joined->outputs[i]->layout = results[i]->layout;
      pattern::take_over(graph_, results[i], joined, i);
    }
    graph_.insert_before(nullptr);
    for (size_t i = region.nodes.size(); i-- > 0;) graph_.erase(region.nodes[i]);
  }

  Graph& graph_;
  std::vector<Node*> nodes_;
  std::unordered_set<const Value*> kept_;
  std::unordered_map<const Node*, int64_t> places_;
  std::vector<std::unique_ptr<Region>> regions_;
  std::unordered_map<const Node*, Region*> region_of_;
};

}  // namespace

int join_elementwise(Graph& graph) { return RegionJoiner(graph).run(); }

}  // namespace graft
