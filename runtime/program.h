// A compiled graph: every kernel prepared, every pointer bound. Running it allocates nothing and looks nothing up.
#pragma once

#include <atomic>

#include "ops/op.h"
#include "runtime/store.h"

namespace graft {

// Where each value lies and how much memory that takes. One arena for the step, one for what the prologue leaves.
struct MemoryPlan {
  enum class Space : uint8_t { arena, prologue, constant, state, disk, input };
  struct Place {
    Space space = Space::arena;
    const Value* root = nullptr;  // of constant, state, disk, input: whose bytes they are
    int64_t offset = 0;           // of arena, prologue
    bool operator==(const Place&) const = default;
  };
  std::unordered_map<const Value*, Place> places;
  // Of graph outputs after the step. One that shows what a state was before the step wrote it is copied in time: its
  // place here is another than that in `places`.
  std::vector<Place> outputs;
  std::unordered_map<const Node*, int64_t> scratch;     // arena offset
  std::vector<std::pair<Value*, Value*>> state_copies;  // {out, in} that could not share bytes: copied after the step
  std::vector<int64_t> in_use;                          // bytes of the arena while each node runs, in their order
  int64_t arena_bytes = 0;
  int64_t prologue_bytes = 0;
  int64_t constant_bytes = 0;
  int64_t state_bytes = 0;
  int64_t input_bytes = 0;
  int64_t disk_bytes = 0;  // of states on the disk; no memory
  int64_t peak_bytes() const { return arena_bytes + prologue_bytes + constant_bytes + state_bytes + input_bytes; }
};

using Settlements = std::unordered_map<const Node*, Settlement>;

// What each kernel wants, by node; sets the sizes of opaque values. UnsupportedError for a node without a kernel.
Settlements settle(const Graph& graph);

// Assigns offsets by liveness; results take over the bytes of dying operands where kernels allow it.
MemoryPlan plan_memory(const Graph& graph, const Settlements& settlements);
// DeviceError when so much does not fit the machine's memory.
void require_memory(int64_t peak_bytes);
// The same where a single value is larger. Kernels are not asked about such sizes: libraries crash there, or take
// minutes.
void require_memory(const Graph& graph);

struct Counters {
  int64_t steps = 0;
  int64_t prologues = 0;
  int64_t kernels = 0;         // prepared
  int64_t reorders = 0;        // of activations, in a step
  int64_t working_copies = 0;  // of states in another layout, made in a step
  int64_t allocations = 0;     // of buffers, while running
  int64_t descriptors = 0;     // made while running, see descriptor_count
};

// Working memory that several Programs use in turn: what one leaves there is gone when another runs.
struct Arena {
  std::shared_ptr<std::byte[]> bytes;
  int64_t size = 0;
  uint64_t runs = 0;  // of all its Programs
};

// Called around each kernel when set: nanoseconds that the node took.
using TimingHook = std::function<void(const Node& node, int64_t nanoseconds)>;

class Program {
 public:
  // `graph` has passed lay_out. States are bound to `store`, which must outlive the Program and receives the layouts
  // that the graph gives its states. The Program works in `arena` where that is large enough, else in one of its own.
  Program(std::unique_ptr<Graph> graph, ParameterStore& store, std::shared_ptr<Arena> arena = nullptr);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Copies into the input's slot. UsageError for an unknown name, DataError for another dtype or shape.
  void set_input(const std::string& name, const Tensor& value);
  bool has_input(const std::string& name) const;
  // One step. The prologue runs first where states changed since.
  void run();
  // A copy of a graph output in plain layout, by ONNX name or by position. UsageError where it is gone: another Program
  // ran in the same arena since, or moved the state that it is.
  Tensor output(const std::string& name) const;
  Tensor output(size_t index) const;
  double scalar(const std::string& name) const;  // a one-element float output

  // One of its states moved to another layout since: this Program must not run again.
  bool stale() const;

  const Graph& graph() const { return *graph_; }
  const MemoryPlan& plan() const { return plan_; }
  const std::shared_ptr<Arena>& arena() const { return arena_; }
  const Settlements& settlements() const { return settlements_; }
  // The nodes whose kernels a step runs, in order: views have none.
  std::vector<const Node*> step_nodes() const;
  const Counters& counters() const { return counters_; }
  void set_timing_hook(TimingHook hook) { timing_ = std::move(hook); }
  // A segment per device and shape key; static models have one.
  size_t segment_count() const { return segments_.size(); }

 private:
  struct Step {
    const Node* node;
    Kernel kernel;
  };
  struct Segment {
    Device device = Device::cpu;
    std::string shape_key;
    std::unique_ptr<Stream> stream;
    std::vector<Step> prologue;
    std::vector<Step> step;
  };
  struct Copy {
    const void* from;
    void* to;
    size_t bytes;
  };

  void bind_states();
  void prepare();
  void* address(const MemoryPlan::Place& place) const;
  void* address(const Value* value) const { return value ? address(plan_.places.at(value)) : nullptr; }
  void run_steps(Segment& segment, const std::vector<Step>& steps);

  std::unique_ptr<Graph> graph_;
  ParameterStore& store_;
  std::vector<const ParameterStore::Entry*> states_;
  Settlements settlements_;
  MemoryPlan plan_;
  std::shared_ptr<Arena> arena_;
  uint64_t last_run_ = 0;  // as the arena counts
  std::shared_ptr<std::byte[]> prologue_arena_, prologue_scratch_;
  std::unordered_map<const Value*, Tensor> slots_;
  std::vector<Segment> segments_;
  std::vector<Copy> copies_;  // after the step: outputs first, then states
  bool writes_states_ = false;
  Counters counters_;
  TimingHook timing_;
  uint64_t seen_values_ = 0;
  uint64_t layout_generation_ = 0;
};

}  // namespace graft
