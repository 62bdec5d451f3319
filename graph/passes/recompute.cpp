// What to compute again is found in two stages. For a bound on how much is computed again at a time (a segment, between
// two values that are kept), nodes are taken in the order of their price. The memory plan itself then tells what each
// bound comes to, and how much of the list is needed.
#include "graph/passes/recompute.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_set>

#include "graph/flops.h"

namespace graft {
namespace {

// Nodes by their place in the order of the graph.
using Indices = std::vector<size_t>;

bool is_forward(const Node& node) { return node.provenance.direction == Direction::forward; }

// Nodes of a step by when they run: in forward, or behind it. Between the nodes of backward there are some of forward's
// too, which stand where backward wants them, such as a Reorder of what it reads.
enum class Time : uint8_t { prologue, early, late };

std::vector<Time> times_of(const Graph& graph) {
  std::unordered_set<const Value*> kept(graph.outputs.begin(), graph.outputs.end());
  for (const State& state : graph.states) kept.insert(state.out);
  const std::vector<Node*> nodes = graph.node_list();
  std::vector<Time> times(nodes.size(), Time::prologue);
  std::unordered_set<const Node*> early;
  auto is_backward = [](const Node* node) { return node->stage == Stage::step && !is_forward(*node); };
  const auto begin = std::find_if(nodes.begin(), nodes.end(), is_backward) - nodes.begin();
  auto serves_forward = [&](const Value* value) {
    return value && (kept.count(value) || std::any_of(value->users.begin(), value->users.end(),
                                                      [&](const Node* user) { return early.count(user) > 0; }));
  };
  for (size_t i = nodes.size(); i-- > 0;) {
    const Node& node = *nodes[i];
    if (node.stage != Stage::step) continue;
    bool is_early = is_forward(node) && (static_cast<std::ptrdiff_t>(i) < begin ||
                                         std::any_of(node.outputs.begin(), node.outputs.end(), serves_forward));
    times[i] = is_early ? Time::early : Time::late;
    if (is_early) early.insert(&node);
  }
  return times;
}

// --- The graph with some of its nodes computed again ---

class Copier {
 public:
  Copier(Graph& graph, const std::vector<bool>& chosen)
      : graph_(graph), nodes_(graph.node_list()), times_(times_of(graph)) {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (chosen[i]) chosen_.insert(nodes_[i]);
    }
    for (const State& state : graph.states) {
      if (!state.out) continue;
      new_states_.insert(state.out);
      if (state.in->kind == StateKind::statistic) gone_.insert(state.in);
    }
  }

  // Copy -> original.
  Origins run() {
    const Provenance before = graph_.provenance();
    for (size_t at = 0; at < nodes_.size(); ++at) {
      if (times_[at] != Time::late) continue;
      Node* node = nodes_[at];
      graph_.insert_before(node);
      for (size_t i = 0; i < node->inputs.size(); ++i) {
        Value* again = copy_of(node->inputs[i]);
        if (again != node->inputs[i]) graph_.set_input(node, i, again);
      }
    }
    graph_.insert_before(nullptr);
    graph_.set_provenance(before);
    graph_.prune();
    graph_.sort();
    return std::move(origins_);
  }

 private:
  Value* copy_of(Value* value) {
    if (!value || !value->producer || !chosen_.count(value->producer)) return value;
    auto known = copies_.find(value->producer);
    Node* copy = known != copies_.end() ? known->second : copy_node(*value->producer);
    return copy->outputs[static_cast<size_t>(value->index)];
  }

  // Statistics are updated once, and what they were is gone in backward.
  Node* copy_node(const Node& from) {
    std::vector<Value*> operands;
    for (Value* input : from.inputs) operands.push_back(gone_.count(input) ? nullptr : copy_of(input));
    graph_.set_provenance({from.provenance.source, Direction::backward});
    Node* node = graph_.add_node(from.domain, from.type, std::move(operands), from.outputs.size(), from.attributes);
    node->name = from.name;
    node->device = from.device;
    for (size_t i = 0; i < from.outputs.size(); ++i) {
      const Value* original = from.outputs[i];
      if (!original || new_states_.count(original)) {
        graph_.drop_output(node, i);
        continue;
      }
      Value& result = *node->outputs[i];
      result.dtype = original->dtype;
      result.ranked = original->ranked;
      result.dims = original->dims;
      result.layout = original->layout;
      result.device = original->device;
      result.opaque = original->opaque;
      result.opaque_bytes = original->opaque_bytes;
    }
    origins_[node] = &from;
    return copies_[&from] = node;
  }

  Graph& graph_;
  std::vector<Node*> nodes_;
  std::vector<Time> times_;
  std::unordered_set<const Node*> chosen_;
  std::unordered_set<const Value*> new_states_, gone_;
  std::unordered_map<const Node*, Node*> copies_;
  Origins origins_;
};

// --- What is kept, and what it costs not to keep it ---

struct Bytes {
  size_t producer = 0;
  int64_t size = 0;
  bool kept = false;         // whatever is chosen
  bool read_late = false;    // by backward or the optimiser
  std::vector<size_t> into;  // nodes of forward that read it
};

struct Work {
  const Node* node = nullptr;  // of forward
  bool can_run_again = false;
  double price = 0;            // of running again, in bytes that memory moves in the time
  std::vector<size_t> reads;   // bytes that other nodes of forward computed
  std::vector<size_t> writes;  // bytes
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
      if (times[i] == Time::late) read_late(*nodes_[i]);
      if (times[i] == Time::early) add(i, settlements.at(nodes_[i]));
    }
    for (Work& work : works_) work.can_run_again = work.can_run_again && stays(work);
  }

  const std::vector<Node*>& nodes() const { return nodes_; }
  const std::vector<Work>& works() const { return works_; }
  const std::vector<Bytes>& bytes() const { return bytes_; }

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
      return bytes_[b].kept || !bytes_[b].into.empty();
    });
  }

  // Statistics are all that a node may write and still run twice: the copy goes without. Nobody else may read them.
  bool leaves_states(const Node& node) const {
    for (const Value* input : node.inputs) {
      auto state = written_.find(input);
      if (state == written_.end()) continue;
      const Node* writer = state->second->out->producer;
      bool own_statistic = writer == &node && input->kind == StateKind::statistic;
      if (writer && is_forward(*writer) && !own_statistic) return false;
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
      bytes_[found->second].into.push_back(at);
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
        bytes_.push_back({at, size_of_bytes(*output)});
      }
      Bytes& place = bytes_[number_.at(output)];
      place.kept = place.kept || kept_.count(output);
    }
    // A core multiplies and adds about so often while memory moves a byte.
    constexpr double flops_a_byte = 8;
    work.price = static_cast<double>(moved) + flops(node) / flops_a_byte;
  }

  void read_late(const Node& node) {
    for (const Value* input : node.inputs) {
      auto found = input ? number_.find(input) : number_.end();
      if (found != number_.end()) bytes_[found->second].read_late = true;
    }
  }

  static const Value* shown_by(const Node& node, const Settlement& settlement, size_t output) {
    for (auto [out, in] : settlement.views) {
      if (static_cast<size_t>(out) == output) return node.input(static_cast<size_t>(in));
    }
    return nullptr;
  }

  static int64_t size_of_bytes(const Value& value) {
    if (value.opaque) return value.opaque_bytes;
    return checked_mul(value.layout.storage_count(), static_cast<int64_t>(size_of(value.dtype)));
  }

  std::vector<Node*> nodes_;
  std::unordered_set<const Value*> kept_;
  std::unordered_map<const Value*, const State*> written_;
  std::unordered_set<const Node*> hints_;
  std::vector<Work> works_;
  std::vector<std::optional<size_t>> view_of_;  // the node whose bytes a view shows
  std::vector<Bytes> bytes_;
  std::unordered_map<const Value*, size_t> number_;  // of the bytes in which a value lies
};

// Nodes that make sense together.
struct Item {
  Indices nodes;
  double price = 0;
};

// Takes nodes in the order of their price for a byte, as long as no segment of what depends on one another gives more
// than `bound` bytes.
class Greedy {
 public:
  Greedy(const Forward& forward, int64_t bound)
      : forward_(forward),
        bound_(bound),
        chosen_(forward.nodes().size()),
        segment_(forward.nodes().size()),
        segment_bytes_(forward.nodes().size()) {
    std::iota(segment_.begin(), segment_.end(), size_t{0});
    for (const Bytes& bytes : forward.bytes()) saved_.push_back(bytes.read_late);
  }

  std::vector<Item> run() {
    constexpr int most_rounds = 12;
    for (int round = 0; round < most_rounds && take_round(); ++round) continue;
    return std::move(items_);
  }

 private:
  struct Offer {
    Item item;
    Indices saves;  // bytes that it reads, and that nobody kept so far
    int64_t freed = 0, net = 0;
    // Prices within a factor of two are alike, so that segments grow along the network.
    int grade() const { return static_cast<int>(std::floor(std::log2(static_cast<double>(net) / item.price))); }
  };

  bool take_round() {
    std::vector<std::pair<int, size_t>> order;
    for (size_t i = 0; i < chosen_.size(); ++i) {
      if (auto offer = best_offer(i)) order.emplace_back(-offer->grade(), i);
    }
    std::sort(order.begin(), order.end());
    bool taken = false;
    for (auto [grade, node] : order) {
      auto offer = best_offer(node);
      if (!offer || -offer->grade() > grade || !fits(*offer)) continue;
      take(*offer);
      taken = true;
    }
    return taken;
  }

  // What a node reads is kept for it, or computed again too.
  std::optional<Offer> best_offer(size_t node) const {
    if (chosen_[node] || !forward_.works()[node].can_run_again) return std::nullopt;
    const Indices& writes = forward_.works()[node].writes;
    if (std::none_of(writes.begin(), writes.end(), [&](size_t b) { return saved_[b]; })) return std::nullopt;
    Offer shallow = offer_of(node, false), deep = offer_of(node, true);
    auto worth = [](const Offer& o) { return static_cast<double>(o.net) / o.item.price; };
    Offer& best = worth(deep) > worth(shallow) ? deep : shallow;
    if (best.net <= 0) return std::nullopt;
    return std::move(best);
  }

  Offer offer_of(size_t node, bool deep) const {
    Offer offer;
    offer.item.nodes.push_back(node);
    auto is_in = [](const Indices& list, size_t i) { return std::find(list.begin(), list.end(), i) != list.end(); };
    for (size_t at = 0; at < offer.item.nodes.size(); ++at) {
      const Work& work = forward_.works()[offer.item.nodes[at]];
      offer.item.price += work.price;
      for (size_t b : work.writes) offer.freed += saved_[b] && !forward_.bytes()[b].kept ? forward_.bytes()[b].size : 0;
      for (size_t b : work.reads) {
        const Bytes& bytes = forward_.bytes()[b];
        if (saved_[b] || bytes.kept || chosen_[bytes.producer] || is_in(offer.item.nodes, bytes.producer)) continue;
        if (deep && forward_.works()[bytes.producer].can_run_again) offer.item.nodes.push_back(bytes.producer);
        else if (!is_in(offer.saves, b)) offer.saves.push_back(b);
      }
    }
    offer.net = offer.freed;
    for (size_t b : offer.saves) offer.net -= forward_.bytes()[b].size;
    return offer;
  }

  size_t segment_of(size_t node) const {
    while (segment_[node] != node) node = segment_[node];
    return node;
  }

  // Segments that an offer would join.
  Indices neighbours(const Offer& offer) const {
    Indices found;
    auto add = [&](size_t node) {
      size_t segment = segment_of(node);
      if (chosen_[node] && std::find(found.begin(), found.end(), segment) == found.end()) found.push_back(segment);
    };
    for (size_t node : offer.item.nodes) {
      for (size_t b : forward_.works()[node].reads) add(forward_.bytes()[b].producer);
      for (size_t b : forward_.works()[node].writes) {
        for (size_t reader : forward_.bytes()[b].into) add(reader);
      }
    }
    return found;
  }

  // Bytes that are computed again alone are there when they are read, and no longer.
  bool fits(const Offer& offer) const {
    Indices joined = neighbours(offer);
    int64_t bytes = offer.freed;
    for (size_t segment : joined) bytes += segment_bytes_[segment];
    return joined.empty() || bytes <= bound_;
  }

  void take(const Offer& offer) {
    size_t segment = offer.item.nodes[0];
    int64_t bytes = offer.freed;
    for (size_t joined : neighbours(offer)) {
      bytes += segment_bytes_[joined];
      segment_[joined] = segment;
    }
    for (size_t node : offer.item.nodes) {
      chosen_[node] = true;
      segment_[node] = segment;
      for (size_t b : forward_.works()[node].writes) saved_[b] = false;
    }
    for (size_t b : offer.saves) saved_[b] = true;
    segment_bytes_[segment] = bytes;
    items_.push_back(offer.item);
  }

  const Forward& forward_;
  int64_t bound_;
  std::vector<bool> chosen_;
  std::vector<bool> saved_;  // by bytes: kept for backward, or for what is computed again
  Indices segment_;          // of each chosen node the next one on the way to that which stands for its segment
  std::vector<int64_t> segment_bytes_;
  std::vector<Item> items_;
};

// --- The search ---

class Search {
 public:
  Search(const Graph& graph, const std::unordered_map<const Node*, Settlement>& settlements,
         const PlannedPeak& planned_peak)
      : graph_(graph), planned_peak_(planned_peak), forward_(graph, settlements) {}

  const Forward& forward() const { return forward_; }

  std::vector<bool> chosen(const std::vector<Item>& items) const {
    std::vector<bool> chosen(forward_.nodes().size());
    for (const Item& item : items) {
      for (size_t node : item.nodes) chosen[node] = true;
    }
    return forward_.with_views(chosen);
  }

  int64_t peak(const std::vector<Item>& items) const {
    auto trial = graph_.clone();
    Origins origins;
    auto copy = trial->nodes().begin();
    for (const Node* node : forward_.nodes()) origins[(copy++)->get()] = node;
    for (auto [again, original] : Copier(*trial, chosen(items)).run()) origins[again] = origins.at(original);
    return planned_peak_(*trial, origins);
  }

  // The cheapest choice within `limit`, or the smallest where there is none.
  std::vector<Item> run(int64_t limit) const {
    std::vector<Plan> plans = whole_plans();
    auto smallest = std::min_element(plans.begin(), plans.end(), [](const Plan& a, const Plan& b) {
      return std::pair(a.peak, price(a.items)) < std::pair(b.peak, price(b.items));
    });
    limit = std::max(limit, smallest->peak);
    const Plan* cheapest = nullptr;
    for (Plan& plan : plans) {
      if (plan.peak > limit) continue;
      shorten(plan, limit);
      if (!cheapest || price(plan.items) < price(cheapest->items)) cheapest = &plan;
    }
    return thinned(cheapest->items, limit);
  }

 private:
  struct Plan {
    std::vector<Item> items;
    int64_t peak = 0;
  };

  static double price(const std::vector<Item>& items) {
    return std::accumulate(items.begin(), items.end(), 0.0, [](double sum, const Item& i) { return sum + i.price; });
  }

  // All that goes under several bounds.
  std::vector<Plan> whole_plans() const {
    constexpr int finest = 9;
    int64_t all = 0;
    for (const Bytes& bytes : forward_.bytes()) all += bytes.read_late ? bytes.size : 0;
    std::vector<Plan> plans = {{{}, peak({})}};
    for (int i = 0; i <= 2 * finest; ++i) {
      std::vector<Item> items = Greedy(forward_, static_cast<int64_t>(static_cast<double>(all) / std::exp2(0.5 * i))).run();
      bool known = std::any_of(plans.begin(), plans.end(), [&](const Plan& p) { return chosen(p.items) == chosen(items); });
      if (known) continue;
      int64_t bytes = peak(items);
      plans.push_back({std::move(items), bytes});
    }
    return plans;
  }

  // Leaves as much off the end of the list as the limit allows.
  void shorten(Plan& plan, int64_t limit) const {
    size_t too_few = 0, enough = plan.items.size();
    while (too_few + 1 < enough) {
      size_t middle = (too_few + enough) / 2;
      bool fits = peak({plan.items.begin(), plan.items.begin() + static_cast<std::ptrdiff_t>(middle)}) <= limit;
      (fits ? enough : too_few) = middle;
    }
    plan.items.resize(enough);
  }

  // Leaves out what can be kept after all, the dearest first.
  std::vector<Item> thinned(std::vector<Item> items, int64_t limit) const {
    constexpr size_t most_trials = 40;
    std::vector<double> prices;
    for (const Item& item : items) prices.push_back(item.price);
    std::sort(prices.rbegin(), prices.rend());
    for (size_t i = 0; i < std::min(prices.size(), most_trials); ++i) {
      auto dear = std::find_if(items.begin(), items.end(), [&](const Item& item) { return item.price == prices[i]; });
      if (dear == items.end()) continue;
      std::vector<Item> fewer = items;
      fewer.erase(fewer.begin() + (dear - items.begin()));
      if (peak(fewer) <= limit) items = std::move(fewer);
    }
    return items;
  }

  const Graph& graph_;
  const PlannedPeak& planned_peak_;
  Forward forward_;
};

}  // namespace

Recomputed recompute(Graph& graph, const std::unordered_map<const Node*, Settlement>& settlements, int64_t limit,
                     const PlannedPeak& planned_peak) {
  Search search(graph, settlements, planned_peak);
  Recomputed found{.flops = flops(graph)};
  found.peak_before = found.peak_after = search.peak({});
  if (limit > 0 && found.peak_before <= limit) return found;
  std::vector<Item> items = search.run(limit);
  found.peak_after = search.peak(items);
  if (limit > 0 && found.peak_after > limit) return found;
  Origins copies = Copier(graph, search.chosen(items)).run();
  for (const auto& [copy, original] : copies) {
    ++found.nodes;
    found.more_flops += flops(*copy);
    for (const Value* output : copy->outputs) {
      found.values += output && std::any_of(output->users.begin(), output->users.end(),
                                            [&](const Node* user) { return !copies.count(user); });
    }
  }
  return found;
}

}  // namespace graft
