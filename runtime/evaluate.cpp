#include "runtime/evaluate.h"

#include <algorithm>

namespace graft {
namespace {

// Buffers of one node run on its own: every operand in plain layout.
struct NodeRun {
  explicit NodeRun(const Node& node) : functions(find_kernel(node)) {
    if (!functions) throw UnsupportedError(node.where(), " has no CPU kernel for ", kernel_dtype(node));
  }
  const KernelFunctions* functions;
  Settlement settlement;
};

using Bytes = std::shared_ptr<std::byte[]>;

// Runs `node` on addresses; opaque results are allocated here and kept in `opaque`.
void run_node(const Node& node, const Settlement* forward, const std::vector<const void*>& inputs,
              std::vector<void*> outputs, std::vector<Bytes>& opaque, Settlement& settlement) {
  NodeRun run(node);
  settlement = run.functions->settle(node, forward);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (!node.outputs[i] || !node.outputs[i]->opaque) continue;
    node.outputs[i]->opaque_bytes = i < settlement.opaque_bytes.size() ? settlement.opaque_bytes[i] : 0;
    opaque.push_back(allocate_bytes(node.outputs[i]->opaque_bytes, true));
    outputs[i] = opaque.back().get();
  }
  Bytes scratch = allocate_bytes(settlement.scratch_bytes, false);
  Binding binding{inputs, outputs, scratch.get(), &settlement};
  for (auto [out, in] : settlement.views) {
    const Value& value = *node.outputs[static_cast<size_t>(out)];
    std::memcpy(outputs[static_cast<size_t>(out)], inputs[static_cast<size_t>(in)],
                static_cast<size_t>(byte_count(value.dtype, value.dims)));
  }
  Kernel kernel = prepare_kernel(node, binding);
  if (!kernel) return;
  static thread_local std::unique_ptr<Stream> stream = make_stream(Device::cpu);
  kernel(*stream);
  stream->synchronize();
}

// Kernels read layouts from the values: here all are plain.
void set_plain_layouts(const Node& node) {
  for (const auto* operands : {&node.inputs, &node.outputs}) {
    for (Value* value : *operands) {
      if (value && !value->opaque) value->layout = Layout::plain(value->dims);
    }
  }
}

std::vector<Tensor> allocate_results(const Node& node, std::vector<void*>& addresses) {
  std::vector<Tensor> results;
  for (const Value* output : node.outputs) {
    bool wanted = output && !output->opaque;
    if (wanted && !output->shaped()) throw ModelError(node.where(), " has a result of unknown shape");
    results.push_back(wanted ? Tensor::uninitialized(output->dtype, output->dims) : Tensor{});
    addresses.push_back(wanted ? results.back().raw() : nullptr);
  }
  return results;
}

}  // namespace

bool computes(const Node& node, const Settlement& settlement) {
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const Value* output = node.outputs[i];
    bool viewed = std::any_of(settlement.views.begin(), settlement.views.end(),
                              [&](auto pair) { return pair.first == static_cast<int>(i); });
    if (output && !viewed && (output->opaque || output->count() > 0)) return true;
  }
  return false;
}

Kernel prepare_kernel(const Node& node, const Binding& binding) {
  Kernel kernel = find_kernel(node)->prepare(node, binding);  // which checks the node, results without elements or not
  if (!computes(node, *binding.settlement)) return {};
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", kernel_dtype(node));
  return kernel;
}

std::vector<Tensor> evaluate(const Node& node, const std::vector<Tensor>& inputs) {
  set_plain_layouts(node);
  std::vector<const void*> operands;
  for (size_t i = 0; i < node.inputs.size(); ++i)
    operands.push_back(i < inputs.size() && inputs[i].defined() ? inputs[i].raw() : nullptr);
  std::vector<void*> addresses;
  std::vector<Tensor> results = allocate_results(node, addresses);
  std::vector<Bytes> opaque;
  Settlement settlement;
  run_node(node, nullptr, operands, addresses, opaque, settlement);
  return results;
}

std::vector<Tensor> evaluate(const Graph& graph, const std::map<std::string, Tensor>& inputs,
                             const std::map<std::string, Tensor>& states) {
  std::unordered_map<const Value*, Tensor> known;
  std::unordered_map<const Value*, const void*> opaque_known;
  std::unordered_map<const Node*, Settlement> settlements;
  std::vector<Bytes> opaque;
  auto take = [&](const Value* value, const std::map<std::string, Tensor>& from, const char* what) {
    auto found = from.find(value->name);
    if (found == from.end()) throw UsageError(what, " \"", value->name, "\" is not given");
    if (found->second.dtype() != value->dtype || found->second.dims() != value->dims) {
      throw UsageError(what, " \"", value->name, "\" must be ", value->dtype, value->dims, ", got ",
                       found->second.dtype(), found->second.dims());
    }
    known[value] = found->second;
  };
  for (const Value* input : graph.inputs) take(input, inputs, "input");
  for (const auto& state : graph.states) take(state.in, states, "state");
  for (const auto& value : graph.values()) {
    if (value->is_constant()) known[value.get()] = value->data;
  }
  for (const auto& node : graph.nodes()) {
    set_plain_layouts(*node);
    std::vector<const void*> operands;
    for (const Value* input : node->inputs) {
      operands.push_back(!input ? nullptr : input->opaque ? opaque_known.at(input) : known.at(input).raw());
    }
    std::vector<void*> addresses;
    std::vector<Tensor> results = allocate_results(*node, addresses);
    const Settlement* forward = node->forward ? &settlements.at(node->forward) : nullptr;
    size_t before = opaque.size();
    run_node(*node, forward, operands, addresses, opaque, settlements[node.get()]);
    for (size_t i = 0; i < node->outputs.size(); ++i) {
      const Value* output = node->outputs[i];
      if (!output) continue;
      if (output->opaque) opaque_known[output] = opaque[before++].get();
      else known[output] = results[i];
    }
  }
  std::vector<Tensor> results;
  for (const Value* output : graph.outputs) results.push_back(known.at(output));
  return results;
}

}  // namespace graft
