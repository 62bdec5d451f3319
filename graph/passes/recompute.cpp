// What to compute again is found on a model of the plan: how many bytes are in use while each node runs. Of all that
// can run again, that is taken first which lowers what exceeds the limit most for its price; what is computed again
// from too far back takes as much as it frees, and is not. The plan itself then says what the choice comes to.
#include "graph/passes/recompute.h"

#include <algorithm>
#include <limits>
#include <queue>

#include "graph/flops.h"
#include "graph/passes/copy_into_backward.h"
#include "graph/passes/kept_bytes.h"

namespace graft {
namespace {

using Indices = KeptBytes::Indices;

// Nodes that make sense together.
struct Item {
  Indices nodes;
  double price = 0;
};

// The bytes in use for a choice, and how far they exceed a target, summed over the nodes of a step.
class Model {
 public:
  Model(const KeptBytes& forward, std::vector<int64_t> in_use) : forward_(forward), in_use_(std::move(in_use)) {}

  double excess(const std::vector<bool>& chosen, int64_t target) {
    follow(chosen);
    std::vector<int64_t> change(in_use_.size() + 1);
    auto add = [&](size_t first, size_t last, int64_t size) {  // [first, last)
      change[first] += size;
      change[last] -= size;
    };
    for (size_t b = 0; b < forward_.bytes().size(); ++b) {
      const KeptBytes::Bytes& bytes = forward_.bytes()[b];
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
    const KeptBytes::Bytes& bytes = forward_.bytes()[b];
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
    for (const KeptBytes::LateReads& reads : forward_.late()) {
      auto read = [&](size_t b) {
        size_t from = bytes[b].producer;
        if (!chosen[from] || bytes[b].shared) {
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
        const KeptBytes::Work& work = forward_.works()[pending.back()];
        pending.pop_back();
        for (size_t b : work.reads) read(b);
      }
    }
  }

  struct Life {
    size_t first = 0, last = 0;
  };
  const KeptBytes& forward_;
  std::vector<int64_t> in_use_;  // where nothing is computed again
  Indices last_;                 // node that reads bytes of forward
  std::vector<Life> again_;      // of bytes that are computed again
  std::vector<bool> done_;       // nodes
};

constexpr double any_price = std::numeric_limits<double>::infinity();

// Takes what lowers the excess most for its price until there is none, or no more can be paid.
class Climb {
 public:
  Climb(const KeptBytes& forward, Model& model, std::vector<Item> items, int64_t target, double budget = any_price)
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
    const KeptBytes::Work& work = forward_.works()[node];
    bool serves = std::any_of(work.writes.begin(), work.writes.end(), [&](size_t b) {
      const KeptBytes::Bytes& bytes = forward_.bytes()[b];
      return !bytes.kept && !bytes.shared && bytes.last_late > 0;
    });
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
      const KeptBytes::Work& work = forward_.works()[item.nodes[at]];
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

  const KeptBytes& forward_;
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
  KeptBytes forward_;
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
