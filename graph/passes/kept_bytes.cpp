#include "graph/passes/kept_bytes.h"

#include <algorithm>

#include "graph/flops.h"
#include "graph/passes/copy_into_backward.h"

namespace graft {
namespace {

int64_t size_of_bytes(const Value& value) {
  if (value.opaque) return value.opaque_bytes;
  return checked_mul(value.layout.storage_count(), static_cast<int64_t>(size_of(value.dtype)));
}

const Value* shown_by(const Node& node, const Settlement& settlement, size_t output) {
  for (auto [out, in] : settlement.views) {
    if (static_cast<size_t>(out) == output) return node.input(static_cast<size_t>(in));
  }
  return nullptr;
}

}  // namespace

double price_of(const Node& node) {
  int64_t moved = 0;
  for (const auto* values : {&node.inputs, &node.outputs}) {
    for (const Value* value : *values) moved += value ? size_of_bytes(*value) : 0;
  }
  // A core multiplies and adds about so often while memory moves a byte.
  constexpr double flops_a_byte = 8;
  return static_cast<double>(moved) + flops(node) / flops_a_byte;
}

double price_of(const Graph& graph) {
  double price = 0;
  for (const auto& node : graph.nodes()) price += price_of(*node);
  return price;
}

KeptBytes::KeptBytes(const Graph& graph, const Settlements& settlements)
    : nodes_(graph.node_list()), works_(nodes_.size()), view_of_(nodes_.size()) {
  for (const Value* output : graph.outputs) kept_.insert(output);
  for (const State& state : graph.states) {
    if (!state.out) continue;
    kept_.insert(state.out);
    written_[state.in] = &state;
  }
  for (const Node* node : nodes_) hints_.insert(node->forward);
  const std::vector<Time> times = times_of(graph);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (times[i] == Time::late) read_late(i);
    if (times[i] == Time::early) add(i, settlements.at(nodes_[i]));
  }
  for (Work& work : works_) work.can_run_again = work.can_run_again && stays(work);
}

std::vector<bool> KeptBytes::with_views(const std::vector<bool>& chosen) const {
  std::vector<bool> all = chosen;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (view_of_[i] && chosen[*view_of_[i]]) all[i] = true;
  }
  return all;
}

// Whether backward leaves the node its place where it does not read its results any more. Kernels of backward that
// were chosen with a look at one of forward want that.
bool KeptBytes::stays(const Work& work) const {
  return !hints_.count(work.node) || std::any_of(work.writes.begin(), work.writes.end(), [&](size_t b) {
    return bytes_[b].kept || bytes_[b].last_early > bytes_[b].producer;
  });
}

// Statistics are all that a node may write and still run twice: the copy goes without. Nobody else may read them.
bool KeptBytes::leaves_states(const Node& node) const {
  for (const Value* input : node.inputs) {
    auto state = written_.find(input);
    if (state == written_.end()) continue;
    const Node* writer = state->second->out->producer;
    bool own_statistic = writer == &node && input->kind == StateKind::statistic;
    if (writer && writer->provenance.direction == Direction::forward && !own_statistic) return false;
  }
  return std::all_of(node.outputs.begin(), node.outputs.end(), [&](const Value* output) {
    return std::none_of(written_.begin(), written_.end(), [&](const auto& entry) {
      return entry.second->out == output && entry.first->kind != StateKind::statistic;
    });
  });
}

void KeptBytes::add(size_t at, const Settlement& settlement) {
  const Node& node = *nodes_[at];
  Work& work = works_[at];
  const Value* shared = shared_result(node);
  const int statistics = shared ? find_op(node)->statistics_slot : -1;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const Value* input = node.inputs[i];
    auto found = input ? number_.find(input) : number_.end();
    if (found == number_.end()) continue;
    if (static_cast<int>(i) == statistics) {  // what runs again does without
      bytes_[found->second].last_early = at;
      continue;
    }
    if (std::find(work.reads.begin(), work.reads.end(), found->second) != work.reads.end()) continue;
    work.reads.push_back(found->second);
    bytes_[found->second].last_early = at;
  }
  work.node = &node;
  work.can_run_again = leaves_states(node);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const Value* output = node.outputs[i];
    if (!output) continue;
    if (const Value* shown = shown_by(node, settlement, i)) {
      work.can_run_again = false;  // on its own
      auto found = number_.find(shown);
      if (found == number_.end()) continue;
      number_[output] = found->second;
      view_of_[at] = bytes_[found->second].producer;
    } else {
      number_[output] = bytes_.size();
      work.writes.push_back(bytes_.size());
      bytes_.push_back({.producer = at, .size = size_of_bytes(*output), .shared = output == shared, .last_early = at});
    }
    Bytes& place = bytes_[number_.at(output)];
    place.kept = place.kept || kept_.count(output);
  }
  work.price = price_of(node);
}

void KeptBytes::read_late(size_t at) {
  LateReads reads{at, {}};
  for (const Value* input : nodes_[at]->inputs) {
    auto found = input ? number_.find(input) : number_.end();
    if (found == number_.end()) continue;
    bytes_[found->second].last_late = at;
    reads.bytes.push_back(found->second);
  }
  if (!reads.bytes.empty()) late_.push_back(std::move(reads));
}

}  // namespace graft
