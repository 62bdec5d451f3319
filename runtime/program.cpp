#include "runtime/program.h"

#include <algorithm>
#include <chrono>

#include "runtime/evaluate.h"

namespace graft {

Program::Program(std::unique_ptr<Graph> graph, ParameterStore& store, std::shared_ptr<Arena> arena)
    : graph_(std::move(graph)), store_(store), arena_(std::move(arena)) {
  graph_->sort();
  verify(*graph_);
  bind_states();
  settlements_ = settle(*graph_);
  plan_ = plan_memory(*graph_, settlements_);
  require_memory(plan_.peak_bytes());
  prepare();
}

Program::~Program() = default;

void Program::bind_states() {
  for (const auto& state : graph_->states) {
    const auto& entry = store_.entry(state.in->name);
    if (entry.dtype != state.in->dtype || entry.dims != state.in->dims) {
      throw UsageError("state \"", state.in->name, "\" is ", entry.dtype, entry.dims, " in the store and ",
                       state.in->dtype, state.in->dims, " in the graph");
    }
    if (!state.in->on_disk) store_.convert(state.in->name, state.in->layout);
    else if (!entry.on_disk() || entry.layout != state.in->layout)
      throw UsageError("state \"", state.in->name, "\" does not lie on the disk as the graph has it");
    states_.push_back(&entry);
    writes_states_ = writes_states_ || state.out;
  }
  layout_generation_ = store_.layout_generation();
}

Settlements settle(const Graph& graph) {
  Settlements settlements;
  for (const auto& node : graph.nodes()) {
    const KernelFunctions* functions = find_kernel(*node);
    if (!functions) throw UnsupportedError(node->where(), " has no kernel for ", kernel_dtype(*node));
    check_kernel_choice(*node);
    const Settlement* forward = nullptr;
    if (node->forward) {
      auto found = settlements.find(node->forward);
      if (found == settlements.end()) throw ModelError(node->where(), " lost the forward node that it belongs to");
      forward = &found->second;
    }
    Settlement& settlement = settlements[node.get()] = functions->settle(*node, forward);
    for (size_t i = 0; i < node->outputs.size(); ++i) {
      Value* output = node->outputs[i];
      if (output && output->opaque)
        output->opaque_bytes = i < settlement.opaque_bytes.size() ? settlement.opaque_bytes[i] : 0;
    }
  }
  return settlements;
}

bool Program::stale() const {
  return layout_generation_ != store_.layout_generation() &&
         std::any_of(states_.begin(), states_.end(),
                     [&](const auto* state) { return state->layout_generation > layout_generation_; });
}

void* Program::address(const MemoryPlan::Place& place) const {
  switch (place.space) {
    case MemoryPlan::Space::arena: return arena_->bytes.get() + place.offset;
    case MemoryPlan::Space::prologue: return prologue_arena_.get() + place.offset;
    case MemoryPlan::Space::constant: return const_cast<void*>(place.root->data.raw());
    case MemoryPlan::Space::state: return store_.entry(place.root->name).bytes.get();
    case MemoryPlan::Space::disk: return nullptr;
    case MemoryPlan::Space::input: return const_cast<void*>(slots_.at(place.root).raw());
  }
  return nullptr;
}

void Program::prepare() {
  if (!arena_ || arena_->size < plan_.arena_bytes)
    arena_ = std::make_shared<Arena>(Arena{allocate_bytes(plan_.arena_bytes, false), plan_.arena_bytes});
  // Padding between a prologue result's elements must be zero from the start.
  prologue_arena_ = allocate_bytes(plan_.prologue_bytes, true);
  for (const Value* input : graph_->inputs) slots_[input] = Tensor(input->dtype, input->dims);
  Segment segment;
  for (const Value* input : graph_->inputs) segment.shape_key += cat(input->dims);
  segment.stream = make_stream(segment.device);
  // Prologue nodes run once: they share the largest scratch that one of them wants.
  int64_t prologue_scratch = 0;
  for (const auto& node : graph_->nodes()) {
    if (node->stage == Stage::prologue)
      prologue_scratch = std::max(prologue_scratch, settlements_.at(node.get()).scratch_bytes);
  }
  prologue_scratch_ = allocate_bytes(prologue_scratch, false);
  for (const auto& node : graph_->nodes()) {
    Binding binding;
    for (const Value* input : node->inputs) binding.inputs.push_back(address(input));
    for (const Value* output : node->outputs) binding.outputs.push_back(address(output));
    for (const Value* input : node->inputs) {
      DiskBytes& bytes = binding.disk.emplace_back();
      if (!input || !input->on_disk) continue;
      const DiskPlace& place = store_.entry(input->name).disk;
      bytes = {place.file.get(), place.offset};
    }
    auto scratch = plan_.scratch.find(node.get());
    binding.scratch = scratch != plan_.scratch.end() ? arena_->bytes.get() + scratch->second : prologue_scratch_.get();
    binding.settlement = &settlements_.at(node.get());
    Kernel kernel = prepare_kernel(*node, binding);
    if (!kernel) continue;
    ++counters_.kernels;
    bool step = node->stage == Stage::step;
    if (step && node->type == "Reorder")
      ++(node->inputs[0]->is_state() ? counters_.working_copies : counters_.reorders);
    (step ? segment.step : segment.prologue).push_back({node.get(), std::move(kernel)});
  }
  auto bytes = [](const Value& v) { return static_cast<size_t>(v.layout.storage_count()) * size_of(v.dtype); };
  for (size_t i = 0; i < plan_.outputs.size(); ++i) {
    const Value* output = graph_->outputs[i];
    if (plan_.outputs[i] != plan_.places.at(output))
      copies_.push_back({address(output), address(plan_.outputs[i]), bytes(*output)});
  }
  for (auto [out, in] : plan_.state_copies) copies_.push_back({address(out), address(in), bytes(*in)});
  segments_.push_back(std::move(segment));
}

std::vector<const Node*> Program::step_nodes() const {
  std::vector<const Node*> nodes;
  for (const Segment& segment : segments_) {
    for (const Step& step : segment.step) nodes.push_back(step.node);
  }
  return nodes;
}

bool Program::has_input(const std::string& name) const {
  const Value* value = graph_->find(name);
  return value && value->role == Role::input;
}

void Program::set_input(const std::string& name, const Tensor& value) {
  const Value* input = graph_->find(name);
  if (!input || input->role != Role::input) throw UsageError("the program has no input \"", name, "\"");
  Tensor& slot = slots_.at(input);
  if (value.dtype() != slot.dtype() || value.dims() != slot.dims()) {
    throw DataError("input \"", name, "\" must be ", slot.dtype(), slot.dims(), ", got ", value.dtype(), value.dims());
  }
  std::memcpy(slot.raw(), value.raw(), static_cast<size_t>(value.bytes()));
}

void Program::run_steps(Segment& segment, const std::vector<Step>& steps) {
  if (!timing_) {
    for (const Step& step : steps) step.kernel(*segment.stream);
    return;
  }
  for (const Step& step : steps) {
    auto start = std::chrono::steady_clock::now();
    step.kernel(*segment.stream);
    segment.stream->synchronize();
    timing_(*step.node, std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count());
  }
}

void Program::run() {
  if (stale()) {
    throw UsageError(
        "this program was compiled before a parameter moved to another layout: ask the session for it again");
  }
  last_run_ = ++arena_->runs;
  int64_t allocated = allocation_count(), described = descriptor_count();
  bool changed = seen_values_ != store_.value_generation();
  for (Segment& segment : segments_) {
    if (changed && !segment.prologue.empty()) {
      run_steps(segment, segment.prologue);
      ++counters_.prologues;
    }
    run_steps(segment, segment.step);
    segment.stream->synchronize();
  }
  for (const Copy& copy : copies_) std::memcpy(copy.to, copy.from, copy.bytes);
  // Own writes never touch what the own prologue read: those states have no writer in this graph.
  if (writes_states_) store_.values_changed();
  seen_values_ = store_.value_generation();
  ++counters_.steps;
  counters_.allocations += allocation_count() - allocated;
  counters_.descriptors += descriptor_count() - described;
}

Tensor Program::output(size_t index) const {
  const Value* value = graph_->outputs.at(index);
  const MemoryPlan::Place& place = plan_.outputs.at(index);
  bool overwritten = place.space == MemoryPlan::Space::arena && last_run_ != arena_->runs;
  if (overwritten || (place.space == MemoryPlan::Space::state && stale())) {
    throw UsageError("output \"", value->name, "\" is gone: another program ran or was compiled since, run this one ",
                     "again before it is read");
  }
  Tensor copy = Tensor::uninitialized(value->dtype, value->dims);
  relayout(value->dims, size_of(value->dtype), value->layout, address(place), Layout::plain(value->dims), copy.raw());
  return copy;
}

Tensor Program::output(const std::string& name) const {
  for (size_t i = 0; i < graph_->outputs.size(); ++i) {
    if (graph_->outputs[i]->name == name) return output(i);
  }
  throw UsageError("the program has no output \"", name, "\"");
}

double Program::scalar(const std::string& name) const {
  Tensor value = output(name).cast(DType::f64);
  if (value.count() != 1) throw UsageError("output \"", name, "\" of shape ", value.dims(), " is no scalar");
  return value.data<double>()[0];
}

}  // namespace graft
