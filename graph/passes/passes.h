// The passes over the graph, in their order. Each is one file with one function.
#pragma once

#include <functional>
#include <set>

#include "graph/graph.h"

namespace graft {

// Computes one node on constant operands (absent ones are undefined tensors).
using Evaluator = std::function<std::vector<Tensor>(const Node& node, const std::vector<Tensor>& inputs)>;
// A node's ONNX function body, lifted to the internal opset; nullptr where it has none.
using Expander = std::function<std::shared_ptr<Graph>(const Node& node)>;

// Makes states of the constants that are weights or statistics by their place in an operator (Op::parameter_slots,
// statistic_slots), looking through Identity, Transpose, Reshape, Cast and DequantizeLinear. Their data stays readable
// in the returned map: name -> tensor.
std::map<std::string, Tensor> classify(Graph& graph);

// Float becomes double everywhere (values, constants, Cast targets), for gradient checks.
void widen(Graph& graph);

// Makes train and inference semantics explicit. Training: BatchNormalization nodes whose scale is in `live_scales` use
// and update batch statistics (their running statistics become written states), the others stay frozen; Dropout is on.
// Inference: statistics are frozen, Dropout is gone. The file's own form does not matter and is not changed.
void set_mode(Graph& graph, bool train, const std::set<std::string>& live_scales);

// Binds concrete dims to the graph inputs (by name; an absent input must be static), infers every shape, folds what
// depends on constants only, and inlines If nodes whose condition is known. ModelError or UsageError that lists the
// free dims that were not bound; UnsupportedError that lists every node whose shape depends on data.
void specialise(Graph& graph, const std::map<std::string, Dims>& input_dims, const Evaluator& evaluate);

// Gives every Dropout in training mode its random numbers: Philox keyed by `seed` and the ONNX value name, counted by
// logical index, and a counter state "random/step" that counts the runs of the graph. Shapes are known here.
void seed_dropout(Graph& graph, uint64_t seed);

// Expands operators without a kernel by their function bodies (a whitelist: some bodies train badly).
// UnsupportedError that lists all nodes that have neither.
void decompose(Graph& graph, const Expander& expand, const Evaluator& evaluate);

// The names of all patterns and fusions that can be left alone: what `disabled` may hold below.
const std::vector<std::string>& fusion_names();
// What texts name, with commas between names; "all" stands for every one. UsageError with the nearest for other names.
std::set<std::string> fusions_named(const std::set<std::string>& texts);

// Turns patterns that exporters spell out into composites with kernels and rules of their own. `disabled` names
// patterns to leave alone. Returns how often each pattern was found.
std::map<std::string, int> recognise(Graph& graph, const std::set<std::string>& disabled = {});

// A pattern of recognise, "normalization_activation": BatchNormalization, perhaps an Add of the same shape,
// Relu, Clip or HardSwish become one node. Returns how many it found.
int extend_normalization(Graph& graph);

// Behind it, "depthwise_normalization": a live BatchNormalization, perhaps with an activation, a depthwise convolution
// and another such normalisation become one node. Returns how many it found.
int join_depthwise(Graph& graph);

// "attention": what stands between two products and their softmax becomes one node with them. Returns how many.
int join_attention(Graph& graph);

// "fold_normalization": a BatchNormalization with the statistics of the file goes into the weights of the convolution
// before it, where none of its numbers nor of the convolution's are `trained` or written. "convolution_epilogue", which
// `finish` stands for: so does one with an addition and an activation behind it, where nothing before is `trained` or
// written either. Before differentiation. Returns how many.
int fold_normalization(Graph& graph, const std::set<std::string>& trained, bool finish = true);

// Where the part of a graph ends that gives a sample the same values whenever it runs.
struct Frontier {
  std::vector<Value*> values;   // that nodes behind read, inputs of the graph among them
  const Node* first = nullptr;  // behind
};
// Behind it is what depends on `trained` states, on states that are written (statistics that follow the batch, the
// count of random numbers) or on chance, and what cannot be cut off: a result that `can_cut` refuses, and whatever only
// constants and states lead to.
Frontier find_frontier(const Graph& graph, const std::set<std::string>& trained,
                       const std::function<bool(const Value&)>& can_cut);
// Makes these values the inputs of the graph, under their names; what led to them goes. All that its outputs need must
// be there.
void cut_at(Graph& graph, const std::vector<Value*>& values);

// Adds the nodes that compute d(sum of seeds * targets)/d(wanted). Targets and wanted are values of the graph; a seed
// is a value of its target's shape. Returns one gradient for each wanted value, nullptr where none flows.
// UnsupportedError that lists every node on the way whose operator has no gradient.
std::vector<Value*> differentiate(Graph& graph, const std::vector<Value*>& targets, const std::vector<Value*>& seeds,
                                  const std::vector<Value*>& wanted);

// Merges equal nodes, removes identities, lets products take in the vector behind them.
void fuse(Graph& graph, const std::set<std::string>& disabled = {});

// "sparse_gradients": an optimiser's step whose gradient is that of picked rows alone takes the rows and their indices.
// Returns how many.
int sparse_gradients(Graph& graph);

// "skip_padding": tells kernels to look for what padding makes zero, keys that a mask hides and rows of gradients, and
// to leave it out. Returns how many.
int skip_padding(Graph& graph);

// What mix_precision found.
struct MixedNodes {
  int64_t low = 0;                    // nodes that read or give bfloat16
  std::map<std::string, int> wide{};  // by type: nodes that have no kernel for the bfloat16 that they are given
};

// Values become bfloat16 where Op::mixed_precision has it so, with a Cast wherever it meets float32. States and the
// outputs of the graph stay float32. The graph is sorted. Nothing changes on a machine that does not multiply bfloat16.
MixedNodes mix_precision(Graph& graph);

// What narrow_saved found: values, and their bytes as bfloat16.
struct NarrowedValues {
  int64_t values = 0, bytes = 0;
};

// Keeps what backward reads of forward as bfloat16: half the bytes, and gradients that are rounded as those of mixed
// precision; forward stays as it is. The graph is sorted.
NarrowedValues narrow_saved(Graph& graph);

// Marks the nodes that depend on constants and unwritten states only: they run when states are bound, not every step.
void split_prologue(Graph& graph);

// Chooses a candidate of every node's kernel over the whole graph, sets the layouts of all values and inserts Reorder
// nodes. `masters` gives the layouts of states that are fixed, and those that are wanted of inputs, which come plain;
// states without one take what the graph likes best.
void lay_out(Graph& graph, const std::map<std::string, Layout>& masters);

// "join_sums": lets kernels that can add while they read take in an Add of two values that lie alike. Layouts are final
// here. Returns how many.
int join_sums(Graph& graph);

// "product_epilogue": products of matrices take in what is done to their result. Layouts are final here, the graph is
// sorted. Returns how many.
int join_products(Graph& graph);

// "join_statistics": kernels that can leave the sums of their result over each channel do, for normalisations behind
// them. Layouts are final here. Returns how many.
int join_statistics(Graph& graph);

// "elementwise": joins element-wise nodes that read one another into regions. Layouts are final here. Returns how many.
int join_elementwise(Graph& graph);

// "release_gradients": orders a sorted graph so that optimiser nodes come as early as they can.
void release_gradients(Graph& graph);

}  // namespace graft
