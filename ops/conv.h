// Convolution as the three linear maps between x, w and y; ConvTranspose is the map from y to x.
#pragma once

#include "ops/batch_normalization.h"
#include "ops/op.h"
#include "ops/window.h"

namespace graft {

enum class ConvWay : uint8_t { forward, data, weights };  // gives y, x, w

// Where a node keeps its operands: an input's index, or ~index of an output.
struct ConvSlots {
  ConvWay way;
  int x, w, y, bias;
};

// x (N, C, ...), w (M, C/group, ...), y (N, M, ...), bias (M), or (C) where the way is `data`. A graft.Conv finishes
// its result: it may add an operand like y to it, and goes on with an activation.
struct ConvProblem {
  ConvSlots slots;
  DType dtype = DType::undefined;                           // by which the kernel is looked up
  DType x_dtype = dtype, w_dtype = dtype, y_dtype = dtype;  // they differ in mixed precision only
  Dims x, w, y;
  int64_t group = 1;
  Window window;
  bool bias = false;
  Activation activation;
  bool adds = false;  // the operand `conv_beside`

  bool finishes() const { return adds || activation.epilogue != Epilogue::none; }
  bool empty() const;
  bool picks_pixels() const;  // windows of one pixel
  bool is_pointwise() const;  // and each at its own place
  int64_t multiplications() const;
};

ConvSlots conv_slots(const Node& node);
// Reads and checks the node. ModelError, UnsupportedError for more than three spatial axes.
ConvProblem conv_problem(const Node& node);

// What the result of a graft.Conv meets.
constexpr size_t conv_beside = 3;

// The result of a Conv in which it may leave ChannelStatistics of y.
constexpr size_t conv_statistics = 1;
// Whether the kernel that runs the node can.
bool conv_gives_statistics(const Node& node);

// Which output a negative slot is.
inline size_t conv_output(int slot) { return ~static_cast<unsigned>(slot); }
inline Value* conv_value(const Node& node, int slot) {
  return slot < 0 ? node.output(conv_output(slot)) : node.input(static_cast<size_t>(slot));
}
inline void* conv_address(const Binding& binding, int slot) {
  if (slot < 0) return binding.out<void>(conv_output(slot));
  return const_cast<void*>(binding.in<void>(static_cast<size_t>(slot)));
}

inline void set_layout(Candidate& candidate, int slot, const Layout& layout) {
  if (slot < 0) candidate.outputs[conv_output(slot)] = layout;
  else candidate.inputs[static_cast<size_t>(slot)] = layout;
}

// y, with what is added to it.
inline void set_result_layout(Candidate& candidate, const ConvProblem& p, const Layout& layout) {
  set_layout(candidate, p.slots.y, layout);
  if (p.adds) candidate.inputs[conv_beside] = layout;
}

// Activations in blocks of channel_block() channels: makes a candidate's lie so; whether the node's do.
void set_blocks(const ConvProblem& p, Candidate& candidate);
bool lies_in_blocks(const Node& node, const ConvProblem& p);

// Bytes of a piece of scratch, with what aligns the one behind it.
inline int64_t aligned(size_t bytes) {
  constexpr int64_t alignment = 64;
  return checked_add(static_cast<int64_t>(bytes), alignment - 1) / alignment * alignment;
}

// db[m] = sum over batch and space of dy[.., m, ..], behind the kernel of a weight gradient that has the output db.
int64_t bias_gradient_scratch(const Node& node, const ConvProblem& p);
Kernel then_sum_bias(const Node& node, const ConvProblem& p, const Binding& binding, void* scratch, Kernel kernel);

// What finishes the result of a kernel, with the bias.
template <class S>
Finish<S> finish_of(const ConvProblem& p, const Binding& binding) {
  return {.bias = p.bias ? static_cast<const float*>(conv_address(binding, p.slots.bias)) : nullptr,
          .beside = p.adds ? binding.in<S>(conv_beside) : nullptr,
          .epilogue = p.activation.epilogue,
          .low = static_cast<float>(p.activation.low),
          .high = static_cast<float>(p.activation.high)};
}
// Behind a kernel that does not finish its result itself: another pass over it.
Kernel then_finish(const Node& node, const ConvProblem& p, const Binding& binding, Kernel kernel);

// Plain loops on plain layouts.
Kernel prepare_conv_reference(const Node& node, const Binding& binding);
// oneDNN, float32 and mixed precision.
std::vector<Candidate> propose_conv(const Node& node);
Settlement settle_conv(const Node& node, const Settlement* forward);
Kernel prepare_conv(const Node& node, const Binding& binding);
std::optional<MixedPrecision> mix_conv(const Node& node);
// Whether oneDNN has a convolution of the activations and weights as they lie that is more than plain loops.
bool takes_direct(const Node& node, const ConvProblem& p);

// What stands beside oneDNN, see ops/conv_choices.cpp: nullopt, or no kernel, where the node runs on oneDNN.
std::vector<std::string> conv_choices(const Node& node);
std::optional<Settlement> settle_conv_way(const Node& node, const ConvProblem& p);
Kernel prepare_conv_way(const Node& node, const ConvProblem& p, const Binding& binding);

// Gradients of 1x1 weights as products, mixed precision: as below. Sets layouts of a candidate.
bool pointwise_fits(const ConvProblem& p);
void propose_pointwise(const ConvProblem& p, Candidate& candidate);
bool takes_pointwise(const Node& node, const ConvProblem& p);
Layout pointwise_weights_layout(const ConvProblem& p);
Settlement settle_pointwise(const Node& node, const ConvProblem& p);
Kernel prepare_pointwise(const Node& node, const ConvProblem& p, const Binding& binding);

// 1x1 convolutions of few channels over many pixels, float32: as above.
bool narrow_fits(const ConvProblem& p);
void propose_narrow(const ConvProblem& p, Candidate& candidate);
bool takes_narrow(const Node& node, const ConvProblem& p);
Layout narrow_weights_layout(const ConvProblem& p);
Settlement settle_narrow(const Node& node, const ConvProblem& p);
Kernel prepare_narrow(const Node& node, const ConvProblem& p, const Binding& binding);

// 1x1 convolutions in bfloat16 on matrix tiles: as above.
bool tiles_fit(const ConvProblem& p);
void propose_tiles(const ConvProblem& p, Candidate& candidate);
bool takes_tiles(const Node& node, const ConvProblem& p);
Layout tiles_weights_layout(const ConvProblem& p);
Settlement settle_tiles(const Node& node, const ConvProblem& p);
Kernel prepare_tiles(const Node& node, const ConvProblem& p, const Binding& binding);

// 1x1 convolutions in float32 on matrix tiles: as above.
bool float_tiles_fit(const ConvProblem& p);
void propose_float_tiles(const ConvProblem& p, Candidate& candidate);
bool takes_float_tiles(const Node& node, const ConvProblem& p);
Layout float_tiles_weights_layout(const ConvProblem& p);
Settlement settle_float_tiles(const Node& node, const ConvProblem& p);
Kernel prepare_float_tiles(const Node& node, const ConvProblem& p, const Binding& binding);

// Winograd's algorithm, float32: whether it can, what it wants, whether the activations lie so, and how the weights
// should. The attribute winograd = 0 forbids it.
bool winograd_fits(const Node& node, const ConvProblem& p);
Candidate propose_winograd(const Node& node, const ConvProblem& p);
bool takes_winograd(const Node& node, const ConvProblem& p);
Layout winograd_weights_layout(const ConvProblem& p);
Settlement settle_winograd(const Node& node, const ConvProblem& p);
Kernel prepare_winograd(const Node& node, const ConvProblem& p, const Binding& binding);

}  // namespace graft
