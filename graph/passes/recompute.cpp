// What to compute again is found on a model of the plan: how many bytes are in use while each node runs. Of all that
// can run again, that is taken first which lowers what exceeds the limit most for its price; what is computed again
// from too far back takes as much as it frees, and is not. The plan itself then says what the choice comes to.
#include "graph/passes/recompute.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <unordered_set>

#include "graph/flops.h"
#include "graph/passes/copy_into_backward.h"

namespace graft {
namespace {

// Nodes by their place in the order of the graph.
using Indices = std::vector<size_t>;

// --- What is kept, and what it costs not to keep it ---

struct Bytes {
  size_t producer = 0;
  int64_t size = 0;
  bool kept = false;      // whatever is chosen
  size_t last_early = 0;  // node of forward that reads it
  size_t last_late = 0;   // node behind forward that does; 0 for none
};

struct Work {
  const Node* node = nullptr;  // of forward
  bool can_run_again = false;
  double price = 0;            // of running again, in bytes that memory moves in the time
  std::vector<size_t> reads;   // bytes that other nodes of forward computed
  std::vector<size_t> writes;  // bytes
};

int64_t size_of_bytes(const Value& value) {
  if (value.opaque) return value.opaque_bytes;
  return checked_mul(value.layout.storage_count(), static_cast<int64_t>(size_of(value.dtype)));
}

// The time of a node that moves so many bytes, in bytes that memory moves meanwhile.
double price_of(const Node& node, int64_t moved) {
  // A core multiplies and adds about so often while memory moves a byte.
  constexpr double flops_a_byte = 8;
  return static_cast<double>(moved) + flops(node) / flops_a_byte;
}

double price_of(const Node& node) {
  int64_t moved = 0;
  for (const auto* values : {&node.inputs, &node.outputs}) {
    for (const Value* value : *values) moved += value ? size_of_bytes(*value) : 0;
  }
  return price_of(node, moved);
}

double price_of(const Graph& graph) {
  double price = 0;
  for (const auto& node : graph.nodes()) price += price_of(*node);
  return price;
}

// What a node behind forward reads of it.
struct LateReads {
  size_t node = 0;
  Indices bytes;
};

// Forward as the search sees it: nodes, and the bytes that lie between them. Views have none of their own.
class Forward {
 public:
  Forward(const Graph& graph, const std::unordered_map<const Node*, Settlement>& settlements)
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

  const std::vector<Node*>& nodes() const { return nodes_; }
  const std::vector<Work>& works() const { return works_; }
  const std::vector<Bytes>& bytes() const { return bytes_; }
  const std::vector<LateReads>& late() const { return late_; }

  // All nodes with which a choice runs again: views go along with what they show.
  std::vector<bool> with_views(const std::vector<bool>& chosen) const {
    std::vector<bool> all = chosen;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (view_of_[i] && chosen[*view_of_[i]]) all[i] = true;
    }
    return all;
  }

 private:
  // Whether backward leaves the node its place where it does not read its results any more. Kernels of backward that
  // were chosen with a look at one of forward want that.
  bool stays(const Work& work) const {
    return !hints_.count(work.node) || std::any_of(work.writes.begin(), work.writes.end(), [&](size_t b) {
      return bytes_[b].kept || bytes_[b].last_early > bytes_[b].producer;
    });
  }

  // Statistics are all that a node may write and still run twice: the copy goes without. Nobody else may read them.
  bool leaves_states(const Node& node) const {
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

  void add(size_t at, const Settlement& settlement) {
    const Node& node = *nodes_[at];
    Work& work = works_[at];
    int64_t moved = 0;
    for (const Value* input : node.inputs) {
      if (!input) continue;
      moved += size_of_bytes(*input);
      auto found = number_.find(input);
      if (found == number_.end()) continue;
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
        moved += size_of_bytes(*output);
        number_[output] = bytes_.size();
        work.writes.push_back(bytes_.size());
        bytes_.push_back({.producer = at, .size = size_of_bytes(*output), .last_early = at});
      }
      Bytes& place = bytes_[number_.at(output)];
      place.kept = place.kept || kept_.count(output);
    }
    work.price = price_of(node, moved);
  }

  void read_late(size_t at) {
    LateReads reads{at, {}};
    for (const Value* input : nodes_[at]->inputs) {
      auto found = input ? number_.find(input) : number_.end();
      if (found == number_.end()) continue;
      bytes_[found->second].last_late = at;
      reads.bytes.push_back(found->second);
    }
    if (!reads.bytes.empty()) late_.push_back(std::move(reads));
  }

  static const Value* shown_by(const Node& node, const Settlement& settlement, size_t output) {
    for (auto [out, in] : settlement.views) {
      if (static_cast<size_t>(out) == output) return node.input(static_cast<size_t>(in));
    }
    return nullptr;
  }

  std::vector<Node*> nodes_;
  std::unordered_set<const Value*> kept_;
  std::unordered_map<const Value*, const State*> written_;
  std::unordered_set<const Node*> hints_;
  std::vector<Work> works_;
  std::vector<std::optional<size_t>> view_of_;  // the node whose bytes a view shows
  std::vector<Bytes> bytes_;
  std::vector<LateReads> late_;
  std::unordered_map<const Value*, size_t> number_;  // of the bytes in which a value lies
};

// Nodes that make sense together.
struct Item {
  Indices nodes;
  double price = 0;
};

// The bytes in use for a choice, and how far they exceed a target, summed over the nodes of a step.
class Model {
 public:
  Model(const Forward& forward, std::vector<int64_t> in_use) : forward_(forward), in_use_(std::move(in_use)) {}

  double excess(const std::vector<bool>& chosen, int64_t target) {
    follow(chosen);
    std::vector<int64_t> change(in_use_.size() + 1);
    auto add = [&](size_t first, size_t last, int64_t size) {  // [first, last)
      change[first] += size;
      change[last] -= size;
    };
    for (size_t b = 0; b < forward_.bytes().size(); ++b) {
      const Bytes& bytes = forward_.bytes()[b];
      if (bytes.kept) continue;
      add(std::max(bytes.last_early, bytes.last_late) + 1, last_[b] + 1, bytes.size);
      if (again_[b].last > 0) add(again_[b].first, again_[b].last + 1, bytes.size);
    }
    double sum = 0;
    int64_t now = 0;
    for (size_t i = 0; i < in_use_.size(); ++i) {
      now += change[i];
      sum += static_cast<double>(std::max<int64_t>(in_use_[i] + now - target, 0));
    }
    return sum;
  }

  // Of the choice that was looked at last: whether bytes are kept for backward.
  bool is_saved(size_t b) const {
    const Bytes& bytes = forward_.bytes()[b];
    return bytes.kept || last_[b] > bytes.last_early;
  }

 private:
  // Copies run right before the first node that reads them.
  void follow(const std::vector<bool>& chosen) {
    const auto& bytes = forward_.bytes();
    last_.resize(bytes.size());
    for (size_t b = 0; b < bytes.size(); ++b) last_[b] = bytes[b].last_early;
    again_.assign(bytes.size(), {});
    done_.assign(chosen.size(), false);
    Indices pending;
    for (const LateReads& reads : forward_.late()) {
      auto read = [&](size_t b) {
        size_t from = bytes[b].producer;
        if (!chosen[from]) {
          last_[b] = std::max(last_[b], reads.node);
          return;
        }
        if (!done_[from]) pending.push_back(from);
        done_[from] = true;
        again_[b].last = reads.node;
        if (again_[b].first == 0) again_[b].first = reads.node;
      };
      for (size_t b : reads.bytes) read(b);
      while (!pending.empty()) {
        const Work& work = forward_.works()[pending.back()];
        pending.pop_back();
        for (size_t b : work.reads) read(b);
      }
    }
  }

  struct Life {
    size_t first = 0, last = 0;
  };
  const Forward& forward_;
  std::vector<int64_t> in_use_;  // where nothing is computed again
  Indices last_;                 // node that reads bytes of forward
  std::vector<Life> again_;      // of bytes that are computed again
  std::vector<bool> done_;       // nodes
};

constexpr double any_price = std::numeric_limits<double>::infinity();

// Takes what lowers the excess most for its price until there is none, or no more can be paid.
class Climb {
 public:
  Climb(const Forward& forward, Model& model, std::vector<Item> items, int64_t target, double budget = any_price)
      : forward_(forward),
        model_(model),
        items_(std::move(items)),
        target_(target),
        left_(budget),
        chosen_(forward.nodes().size()) {
    for (const Item& item : items_) {
      mark(item, true);
      left_ -= item.price;
    }
  }

  std::vector<Item> run() {
    constexpr int most_rounds = 6;
    for (int round = 0; round < most_rounds; ++round) {
      bool taken = take_round(), dropped = drop_round();
      if (!taken && !dropped) break;
    }
    return std::move(items_);
  }

 private:
  struct Offer {
    Item item;
    double worth = 0;
  };

  void mark(const Item& item, bool chosen) {
    for (size_t node : item.nodes) chosen_[node] = chosen;
  }

  // What was worth less than another is hardly worth more behind it: offers are made again only when it is their turn.
  bool take_round() {
    double excess = model_.excess(chosen_, target_);
    std::priority_queue<std::pair<double, size_t>> queue;
    for (size_t i = 0; i < chosen_.size() && excess > 0; ++i) {
      Offer offer = best_offer(i, excess);
      if (offer.worth > 0) queue.emplace(offer.worth, i);
    }
    bool taken = false;
    while (!queue.empty() && excess > 0) {
      size_t node = queue.top().second;
      queue.pop();
      Offer offer = best_offer(node, excess);
      if (!(offer.worth > 0) || offer.item.price > left_) continue;
      if (!queue.empty() && offer.worth < queue.top().first) {
        queue.emplace(offer.worth, node);
        continue;
      }
      mark(offer.item, true);
      left_ -= offer.item.price;
      items_.push_back(std::move(offer.item));
      excess = model_.excess(chosen_, target_);
      taken = true;
    }
    return taken;
  }

  // Keeps again what ends a chain that has become too long.
  bool drop_round() {
    double excess = model_.excess(chosen_, target_);
    bool dropped = false;
    for (size_t i = items_.size(); i-- > 0 && excess > 0;) {
      mark(items_[i], false);
      double without = model_.excess(chosen_, target_);
      if (without < excess) {
        excess = without;
        left_ += items_[i].price;
        items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(i));
        dropped = true;
      } else {
        mark(items_[i], true);
      }
    }
    return dropped;
  }

  // What a node reads is kept for it, or computed again too.
  Offer best_offer(size_t node, double excess) {
    const Work& work = forward_.works()[node];
    bool serves = std::any_of(work.writes.begin(), work.writes.end(),
                              [&](size_t b) { return !forward_.bytes()[b].kept && forward_.bytes()[b].last_late > 0; });
    if (chosen_[node] || !work.can_run_again || !serves) return {};
    Offer best;
    for (bool deep : {false, true}) {
      Item item = item_of(node, deep);
      if (deep && item.nodes.size() == 1) break;
      mark(item, true);
      double worth = (excess - model_.excess(chosen_, target_)) / item.price;
      mark(item, false);
      if (worth > best.worth) best = {std::move(item), worth};
    }
    return best;
  }

  Item item_of(size_t node, bool deep) {
    Item item{{node}, 0};
    if (deep) model_.excess(chosen_, target_);
    for (size_t at = 0; at < item.nodes.size(); ++at) {
      const Work& work = forward_.works()[item.nodes[at]];
      item.price += work.price;
      if (!deep) break;
      for (size_t b : work.reads) {
        size_t from = forward_.bytes()[b].producer;
        bool known = chosen_[from] || std::find(item.nodes.begin(), item.nodes.end(), from) != item.nodes.end();
        if (!known && !model_.is_saved(b) && forward_.works()[from].can_run_again) item.nodes.push_back(from);
      }
    }
    return item;
  }

  const Forward& forward_;
  Model& model_;
  std::vector<Item> items_;
  int64_t target_;
  double left_;  // of the budget
  std::vector<bool> chosen_;
};

// --- The search ---

class Search {
 public:
  Search(const Graph& graph, const std::unordered_map<const Node*, Settlement>& settlements, const PlanBytes& plan)
      : graph_(graph),
        plan_(plan),
        forward_(graph, settlements),
        before_(planned({})),
        model_(forward_, before_.in_use) {}

  std::vector<bool> chosen(const std::vector<Item>& items) const {
    std::vector<bool> chosen(forward_.nodes().size());
    for (const Item& item : items) {
      for (size_t node : item.nodes) chosen[node] = true;
    }
    return forward_.with_views(chosen);
  }

  int64_t peak_before() const { return before_.peak; }
  int64_t peak(const std::vector<Item>& items) const { return planned(items).peak; }

  // The smallest plan for what a share of the step's work buys.
  std::vector<Item> run_for(double share) { return smallest(share * price_of(graph_)).first; }

  // The cheapest choice within `limit`; the smallest where there is none, or no limit.
  std::vector<Item> run(int64_t limit) {
    constexpr int most_tries = 6;
    int64_t target = limit;
    for (int i = 0; i < most_tries && target > 0; ++i) {  // the plan takes a little more than the model
      std::vector<Item> items = Climb(forward_, model_, {}, target).run();
      int64_t over = peak(items) - limit;
      if (over <= 0) return thinned(std::move(items), limit);
      target -= over + limit / 500;
    }
    auto [items, least] = smallest(any_price);
    return thinned(std::move(items), std::max(least, limit));
  }

 private:
  PlannedBytes planned(const std::vector<Item>& items) const {
    auto trial = graph_.clone();
    Origins origins;
    auto copy = trial->nodes().begin();
    for (const Node* node : forward_.nodes()) origins[(copy++)->get()] = node;
    for (auto [again, original] : copy_into_backward(*trial, chosen(items))) origins[again] = origins.at(original);
    return plan_(*trial, origins);
  }

  // Lower and lower targets, each from what the one before took.
  std::pair<std::vector<Item>, int64_t> smallest(double budget) {
    constexpr int most_failures = 4;
    constexpr double step = 0.96;
    std::vector<Item> items, best;
    int64_t least = before_.peak;
    auto target = static_cast<double>(least);
    for (int failures = 0; failures < most_failures; target *= step) {
      items = Climb(forward_, model_, std::move(items), static_cast<int64_t>(target), budget).run();
      int64_t bytes = peak(items);
      failures = bytes < least ? 0 : failures + 1;
      if (bytes >= least) continue;
      least = bytes;
      best = items;
    }
    return {best, least};
  }

  // Leaves out what can be kept after all, the dearest first.
  std::vector<Item> thinned(std::vector<Item> items, int64_t limit) const {
    constexpr size_t most_trials = 32;
    std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.price > b.price; });
    size_t at = 0;
    for (size_t trial = 0; trial < most_trials && at < items.size(); ++trial) {
      std::vector<Item> fewer = items;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(at));
      if (peak(fewer) <= limit) items = std::move(fewer);
      else ++at;
    }
    return items;
  }

  const Graph& graph_;
  const PlanBytes& plan_;
  Forward forward_;
  PlannedBytes before_;
  Model model_;
};

}  // namespace

Recomputed recompute(Graph& graph, const std::unordered_map<const Node*, Settlement>& settlements,
                     const RecomputeGoal& goal, const PlanBytes& plan) {
  Search search(graph, settlements, plan);
  Recomputed found{.peak_before = search.peak_before(), .peak_after = search.peak_before(), .flops = flops(graph)};
  std::vector<Item> items;
  if (goal.share > 0) items = search.run_for(goal.share);
  found.peak_after = search.peak(items);
  if (goal.limit == 0 || found.peak_after > goal.limit) {
    items = search.run(goal.limit);
    found.peak_after = search.peak(items);
  }
  if (goal.limit > 0 && found.peak_after > goal.limit) return found;
  const double price = price_of(graph);
  Origins copies = copy_into_backward(graph, search.chosen(items));
  for (const auto& [copy, original] : copies) {
    ++found.nodes;
    found.more_flops += flops(*copy);
    found.more_work += price_of(*copy) / price;
    for (const Value* output : copy->outputs) {
      found.values += output && std::any_of(output->users.begin(), output->users.end(),
                                            [&](const Node* user) { return !copies.count(user); });
    }
  }
  return found;
}

}  // namespace graft
