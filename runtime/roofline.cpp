#include "runtime/roofline.h"

#include <algorithm>
#include <array>

#include "graph/flops.h"
#include "runtime/cache_model.h"
#include "runtime/evaluate.h"

namespace graft {
namespace {

using Space = MemoryPlan::Space;

constexpr std::array picks{std::string_view("Gather"), std::string_view("GatherElements"), std::string_view("GatherND"),
                           std::string_view("Slice")};

// What consists of products, which matrix tiles can do in float32 too.
constexpr std::array products{std::string_view("MatMul"),       std::string_view("Gemm"),
                              std::string_view("Conv"),         std::string_view("ConvTranspose"),
                              std::string_view("ConvGradData"), std::string_view("ConvGradWeights"),
                              std::string_view("Attention"),    std::string_view("AttentionGrad")};

int64_t bytes_of(const Value& value) {
  if (value.opaque) return value.opaque_bytes;
  return value.layout.storage_count() * static_cast<int64_t>(size_of(value.dtype));
}

// A value that a node reads or writes: `root` is whose bytes they are.
struct Access {
  const void* root;
  int64_t bytes;
  bool in_arena;
};

class Walk {
 public:
  Walk(const std::vector<const Node*>& nodes, const MemoryPlan& plan, const Settlements& settlements,
       int64_t cache_bytes)
      : plan_(plan), settlements_(settlements), cache_(cache_bytes) {
    for (const Node* node : nodes) {
      reads_.push_back(reads_of(*node));
      writes_.push_back(writes_of(*node));
      limits_.push_back({.node = node, .flops = flops(*node)});
    }
    for (size_t i = 0; i < nodes.size(); ++i) {
      for (const auto* accesses : {&reads_[i], &writes_[i]}) {
        for (const Access& access : *accesses) last_use_[access.root] = i;
      }
    }
  }

  std::vector<NodeLimit> run() {
    step();
    for (NodeLimit& limit : limits_) limit = {.node = limit.node, .flops = limit.flops};
    step();
    return std::move(limits_);
  }

 private:
  Access access(const Value& value) const {
    const auto& place = plan_.places.at(&value);
    return {place.root, bytes_of(value), place.space == Space::arena};
  }

  static void add(std::vector<Access>& accesses, const Access& access) {
    auto same = [&](const Access& known) { return known.root == access.root; };
    auto known = std::find_if(accesses.begin(), accesses.end(), same);
    if (known == accesses.end()) accesses.push_back(access);
    else known->bytes = std::max(known->bytes, access.bytes);
  }

  // Of `bytes` of a table, what a step moves.
  static int64_t picked_bytes(const Node& node, int64_t bytes) {
    return steps_picked_rows_only(node) ? std::min(bytes, bytes_of(*node.input(1))) : bytes;
  }

  std::vector<Access> reads_of(const Node& node) const {
    std::vector<Access> reads;
    bool is_pick = std::find(picks.begin(), picks.end(), node.type) != picks.end();
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      if (!node.inputs[i]) continue;
      Access read = access(*node.inputs[i]);
      if (is_pick && i == 0 && node.output(0)) read.bytes = std::min(read.bytes, bytes_of(*node.output(0)));
      if (i == 0) read.bytes = picked_bytes(node, read.bytes);
      add(reads, read);
    }
    return reads;
  }

  std::vector<Access> writes_of(const Node& node) const {
    std::vector<Access> writes;
    const auto& views = settlements_.at(&node).views;
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      bool view = std::any_of(views.begin(), views.end(), [&](auto pair) { return pair.first == static_cast<int>(i); });
      if (!node.outputs[i] || view) continue;
      Access write = access(*node.outputs[i]);
      write.bytes = picked_bytes(node, write.bytes);
      add(writes, write);
    }
    return writes;
  }

  // A written value goes to the cache; when it has to give way, its writer pays for the way to memory.
  void touch(const Access& access, size_t position, bool writes) {
    evicted_.clear();
    bool hit = cache_.touch(access.root, access.bytes, evicted_);
    NodeLimit& limit = limits_[position];
    (writes ? limit.written_bytes : limit.read_bytes) += access.bytes;
    if (writes) {
      limit.cache_bytes += access.bytes;
      dirty_[access.root] = {position, access.bytes};
    } else {
      (hit ? limit.cache_bytes : limit.memory_bytes) += access.bytes;
    }
    for (const void* root : evicted_) {
      auto found = dirty_.find(root);
      if (found == dirty_.end()) continue;
      auto [writer, bytes] = found->second;
      limits_[writer].cache_bytes -= bytes;
      limits_[writer].memory_bytes += bytes;
      dirty_.erase(found);
    }
  }

  void forget_if_dead(const Access& access, size_t position) {
    if (!access.in_arena || last_use_.at(access.root) != position) return;
    cache_.drop(access.root);
    dirty_.erase(access.root);
  }

  void step() {
    for (size_t i = 0; i < limits_.size(); ++i) {
      for (const Access& read : reads_[i]) {
        touch(read, i, false);
        forget_if_dead(read, i);
      }
      for (const Access& written : writes_[i]) touch(written, i, true);
      for (const Access& written : writes_[i]) forget_if_dead(written, i);
    }
  }

  struct Written {
    size_t position;
    int64_t bytes;
  };
  const MemoryPlan& plan_;
  const Settlements& settlements_;
  CacheModel cache_;
  std::vector<std::vector<Access>> reads_, writes_;  // by node
  std::vector<NodeLimit> limits_;
  std::unordered_map<const void*, size_t> last_use_;
  std::unordered_map<const void*, Written> dirty_;
  std::vector<const void*> evicted_;
};

// The rate of a node's arithmetic.
double rate_of(const Node& node, const MachineLimits& machine) {
  const DType dtype = kernel_dtype(node);
  const bool product = std::find(products.begin(), products.end(), node.type) != products.end();
  return dtype == DType::f32 && product ? std::max(machine.flops_f32, machine.flops_tiles) : machine.flops(dtype);
}

}  // namespace

Roofline roofline(const std::vector<const Node*>& nodes, const MemoryPlan& plan, const Settlements& settlements,
                  const MachineLimits& machine) {
  Roofline result;
  result.nodes = Walk(nodes, plan, settlements, machine.cache_bytes).run();
  for (NodeLimit& limit : result.nodes) {
    double arithmetic = limit.flops / rate_of(*limit.node, machine);
    double memory = static_cast<double>(limit.memory_bytes) / machine.memory_bandwidth;
    double cache = static_cast<double>(limit.cache_bytes) / machine.cache_bandwidth;
    limit.seconds = std::max({arithmetic, memory, cache});
    result.flops += limit.flops;
    result.memory_bytes += limit.memory_bytes;
    result.cache_bytes += limit.cache_bytes;
    result.seconds += limit.seconds;
  }
  return result;
}

Roofline roofline(const Program& program, const MachineLimits& machine) {
  return roofline(program.step_nodes(), program.plan(), program.settlements(), machine);
}

Roofline roofline(const Graph& graph, const MachineLimits& machine) {
  const Settlements settlements = settle(graph);
  std::vector<const Node*> nodes;
  for (const auto& node : graph.nodes()) {
    if (node->stage == Stage::step && computes(*node, settlements.at(node.get()))) nodes.push_back(node.get());
  }
  return roofline(nodes, plan_memory(graph, settlements), settlements, machine);
}

}  // namespace graft
