// The memory plan: liveness over the order of the graph, results in the bytes of dying operands, and offsets by
// greedy-by-size placement (Pisarchyk & Lee, "Efficient memory management for deep neural net inference", 2020).
#include <algorithm>
#include <numeric>
#include <unordered_set>

#include "runtime/program.h"

namespace graft {
namespace {

using Place = MemoryPlan::Place;
using Space = MemoryPlan::Space;

constexpr int64_t alignment = 64;
int64_t aligned(int64_t bytes) { return (checked_add(bytes, alignment - 1)) / alignment * alignment; }

int64_t bytes_of(const Value& value) {
  if (value.opaque) return aligned(value.opaque_bytes);
  return aligned(
      checked_mul(value.layout.storage_count(), static_cast<int64_t>(std::max<size_t>(size_of(value.dtype), 1))));
}

// A stretch of bytes in the step's arena: [first, last] are positions in the order of nodes.
struct Block {
  int64_t first, last, bytes;
  int64_t offset = -1;
};

class Planner {
 public:
  Planner(const Graph& graph, const Settlements& settlements) : graph_(graph), settlements_(settlements) {}

  MemoryPlan run() {
    number_nodes();
    place_roots();
    for (const auto& node : graph_.nodes()) place_results(*node);
    extend_lives();
    keep_old_states();
    count_use();
    assign_offsets();
    resolve();
    return std::move(plan_);
  }

 private:
  void number_nodes() {
    int64_t position = 0;
    for (const auto& node : graph_.nodes()) position_[node.get()] = position++;
    end_ = position;
    for (const Value* output : graph_.outputs) kept_.insert(output);
    for (const auto& state : graph_.states) {
      if (state.out) {
        kept_.insert(state.out);
        state_of_out_[state.out] = state.in;
      }
    }
  }

  void place_roots() {
    for (const auto& value : graph_.values()) {
      if (value->role == Role::result) continue;
      Space space = value->is_constant() ? Space::constant
                    : value->on_disk     ? Space::disk
                    : value->is_state()  ? Space::state
                                         : Space::input;
      plan_.places[value.get()] = {space, value.get(), 0};
      root_[value.get()] = value.get();
      (space == Space::constant ? plan_.constant_bytes
       : space == Space::disk   ? plan_.disk_bytes
       : space == Space::state  ? plan_.state_bytes
                                : plan_.input_bytes) += bytes_of(*value);
    }
  }

  // Values whose bytes are those of `root`, directly or through views.
  const Value* root_of(const Value* value) const { return root_.at(value); }

  int64_t last_read(const Value* value) const {
    if (kept_.count(value)) return end_;
    int64_t last = value->producer ? position_.at(value->producer) : -1;
    for (const Node* user : value->users) last = std::max(last, position_.at(user));
    return last;
  }
  // The last position at which anything reads the bytes of this root.
  int64_t last_read_of_bytes(const Value* root) const {
    int64_t last = last_read(root);
    auto found = aliases_.find(root);
    if (found == aliases_.end()) return last;
    for (const Value* alias : found->second) last = std::max(last, last_read(alias));
    return last;
  }

  void alias(const Value* value, const Value* root) {
    root_[value] = root;
    aliases_[root].push_back(value);
  }

  void place_results(const Node& node) {
    const Settlement& settlement = settlements_.at(&node);
    std::unordered_set<size_t> done;
    auto each = [&](const std::vector<std::pair<int, int>>& pairs, auto&& take) {
      for (auto [out, in] : pairs) {
        const Value* result = node.output(static_cast<size_t>(out));
        const Value* operand = node.input(static_cast<size_t>(in));
        if (result && operand && !done.count(static_cast<size_t>(out)) && take(*result, *operand))
          done.insert(static_cast<size_t>(out));
      }
    };
    each(settlement.views, [&](const Value& result, const Value& operand) {
      alias(&result, root_of(&operand));
      return true;
    });
    each(settlement.in_place,
         [&](const Value& result, const Value& operand) { return take_over(node, result, operand); });
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (!node.outputs[i] || done.count(i)) continue;
      root_[node.outputs[i]] = node.outputs[i];
    }
    if (settlement.scratch_bytes > 0 && node.stage == Stage::step) {
      int64_t at = position_.at(&node);
      scratch_blocks_[&node] = blocks_.size();
      blocks_.push_back({at, at, aligned(settlement.scratch_bytes)});
    }
  }

  // Whether `result` may lie in the bytes of `operand`, which nobody reads after this node.
  bool take_over(const Node& node, const Value& result, const Value& operand) {
    if (operand.opaque || bytes_of(result) != bytes_of(operand) || node.stage == Stage::prologue) return false;
    const Value* root = root_of(&operand);
    if (bytes_of(*root) != bytes_of(operand)) return false;
    // A second operand slot with the same bytes would be overwritten while it is read.
    auto same_bytes = [&](const Value* v) { return v && root_of(v) == root; };
    if (std::count_if(node.inputs.begin(), node.inputs.end(), same_bytes) > 1) return false;
    if (last_read_of_bytes(root) > position_.at(&node)) return false;
    if (root->is_state()) {
      auto state = state_of_out_.find(&result);
      if (state == state_of_out_.end() || state->second != root) return false;
    } else if (root->role != Role::result || is_prologue(root)) {
      return false;
    }
    alias(&result, root);
    return true;
  }

  static bool is_prologue(const Value* value) { return value->producer && value->producer->stage == Stage::prologue; }

  // What only the prologue reads lies in the arena, which the step has not begun to use then.
  bool is_read_by_step(const Value* root) const {
    auto outlives = [&](const Value* value) {
      return kept_.count(value) || std::any_of(value->users.begin(), value->users.end(),
                                               [](const Node* user) { return user->stage == Stage::step; });
    };
    auto found = aliases_.find(root);
    return outlives(root) ||
           (found != aliases_.end() && std::any_of(found->second.begin(), found->second.end(), outlives));
  }

  void extend_lives() {
    for (const auto& node : graph_.nodes()) {
      for (const Value* output : node->outputs) {
        if (!output || root_of(output) != output) continue;
        if (is_prologue(output) && is_read_by_step(output)) {
          plan_.places[output] = {Space::prologue, output, plan_.prologue_bytes};
          plan_.prologue_bytes = checked_add(plan_.prologue_bytes, bytes_of(*output));
        } else {
          value_blocks_[output] = blocks_.size();
          blocks_.push_back({position_.at(node.get()), last_read_of_bytes(output), bytes_of(*output)});
        }
      }
    }
  }

  // Outputs in the bytes of a state that the step writes get bytes of their own behind the last node.
  void keep_old_states() {
    std::unordered_set<const Value*> written;
    for (const auto& state : graph_.states) {
      if (state.out) written.insert(state.in);
    }
    for (const Value* output : graph_.outputs) {
      const Value* root = root_of(output);
      auto state = state_of_out_.find(output);
      bool is_new = state != state_of_out_.end() && state->second == root;
      if (!written.count(root) || is_new || output_blocks_.count(output)) continue;
      output_blocks_[output] = blocks_.size();
      blocks_.push_back({end_, end_, bytes_of(*output)});
    }
  }

  void count_use() {
    std::vector<int64_t> change(static_cast<size_t>(end_) + 2);
    for (const Block& block : blocks_) {
      change[static_cast<size_t>(block.first)] += block.bytes;
      change[static_cast<size_t>(block.last) + 1] -= block.bytes;
    }
    std::partial_sum(change.begin(), change.end(), change.begin());
    change.resize(static_cast<size_t>(end_));
    plan_.in_use = std::move(change);
  }

  // Largest first, each at the lowest offset that is free throughout its life.
  void assign_offsets() {
    std::vector<size_t> order(blocks_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return blocks_[a].bytes > blocks_[b].bytes; });
    std::vector<const Block*> placed;  // by offset
    for (size_t i : order) {
      Block& block = blocks_[i];
      int64_t offset = 0;
      for (const Block* other : placed) {
        if (other->last < block.first || other->first > block.last) continue;
        if (other->offset >= checked_add(offset, block.bytes)) break;
        offset = std::max(offset, other->offset + other->bytes);
      }
      block.offset = offset;
      plan_.arena_bytes = std::max(plan_.arena_bytes, checked_add(offset, block.bytes));
      auto by_offset = [](const Block* a, const Block* b) { return a->offset < b->offset; };
      placed.insert(std::upper_bound(placed.begin(), placed.end(), &block, by_offset), &block);
    }
  }

  void resolve() {
    for (auto [value, block] : value_blocks_) plan_.places[value] = {Space::arena, value, blocks_[block].offset};
    for (auto [node, block] : scratch_blocks_) plan_.scratch[node] = blocks_[block].offset;
    for (auto [value, root] : root_) plan_.places[value] = plan_.places.at(root);
    for (const Value* output : graph_.outputs) {
      auto own = output_blocks_.find(output);
      plan_.outputs.push_back(own == output_blocks_.end() ? plan_.places.at(output)
                                                          : Place{Space::arena, output, blocks_[own->second].offset});
    }
    for (const auto& state : graph_.states) {
      if (!state.out || root_of(state.out) == state.in) continue;
      if (state.in->on_disk) throw ModelError("the state \"", state.in->name, "\" on the disk is not written in place");
      plan_.state_copies.emplace_back(state.out, state.in);
    }
  }

  const Graph& graph_;
  const Settlements& settlements_;
  MemoryPlan plan_;
  int64_t end_ = 0;
  std::unordered_map<const Node*, int64_t> position_;
  std::unordered_set<const Value*> kept_;
  std::unordered_map<const Value*, const Value*> state_of_out_;
  std::unordered_map<const Value*, const Value*> root_;
  std::unordered_map<const Value*, std::vector<const Value*>> aliases_;
  std::vector<Block> blocks_;
  std::unordered_map<const Value*, size_t> value_blocks_;
  std::unordered_map<const Value*, size_t> output_blocks_;
  std::unordered_map<const Node*, size_t> scratch_blocks_;
};

}  // namespace

MemoryPlan plan_memory(const Graph& graph, const Settlements& settlements) { return Planner(graph, settlements).run(); }

void require_memory(int64_t peak_bytes) {
  if (peak_bytes <= physical_memory()) return;
  throw DeviceError("the plan needs ", peak_bytes >> 20, " MiB, this machine has ", physical_memory() >> 20,
                    " MiB: use a smaller batch or train fewer parameters");
}

void require_memory(const Graph& graph) {
  for (const Value* input : graph.inputs) require_memory(byte_count(input->dtype, input->dims));
  for (const auto& node : graph.nodes()) {
    for (const Value* value : node->outputs) {
      if (!value || value->opaque || byte_count(value->dtype, value->dims) <= physical_memory()) continue;
      throw DeviceError(node->where(), " gives ", value->dims, ", ", byte_count(value->dtype, value->dims) >> 20,
                        " MiB, this machine has ", physical_memory() >> 20, " MiB: use a smaller batch");
    }
  }
}

}  // namespace graft
