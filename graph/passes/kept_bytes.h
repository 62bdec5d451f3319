// Forward as recompute sees it: nodes, and the bytes that lie between them. What is kept, and what it costs not to keep
// it.
#pragma once

#include <unordered_map>
#include <unordered_set>

#include "ops/op.h"

namespace graft {

// The time of a step, or of a node, in bytes that memory moves meanwhile.
double price_of(const Graph& graph);
double price_of(const Node& node);

// Nodes go by their place in the order of the graph. Views have no bytes of their own.
class KeptBytes {
 public:
  using Indices = std::vector<size_t>;
  using Settlements = std::unordered_map<const Node*, Settlement>;

  struct Bytes {
    size_t producer = 0;
    int64_t size = 0;
    bool kept = false;      // whatever is chosen
    bool shared = false;    // a second run of the producer reads them too
    size_t last_early = 0;  // node of forward that reads it
    size_t last_late = 0;   // node behind forward that does; 0 for none
  };
  struct Work {
    const Node* node = nullptr;  // of forward
    bool can_run_again = false;
    double price = 0;  // of running again
    Indices reads;     // bytes that other nodes of forward computed
    Indices writes;    // bytes
  };
  // What a node behind forward reads of it.
  struct LateReads {
    size_t node = 0;
    Indices bytes;
  };

  KeptBytes(const Graph& graph, const Settlements& settlements);

  const std::vector<Node*>& nodes() const { return nodes_; }
  const std::vector<Work>& works() const { return works_; }
  const std::vector<Bytes>& bytes() const { return bytes_; }
  const std::vector<LateReads>& late() const { return late_; }
  // All nodes with which a choice runs again: views go along with what they show.
  std::vector<bool> with_views(const std::vector<bool>& chosen) const;

 private:
  bool stays(const Work& work) const;
  bool leaves_states(const Node& node) const;
  void add(size_t at, const Settlement& settlement);
  void read_late(size_t at);

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

}  // namespace graft
