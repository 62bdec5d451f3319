// One operator: schema (where ONNX has none), kernels by device and dtype, gradient rule.
//
// A kernel meets the compiler three times:
//   propose(node)           the operands' current layouts are on node.inputs[i]->layout; returns candidates
//   settle(node)            layouts of inputs and outputs are final; returns memory needs and possible aliases
//   prepare(node, binding)  addresses are final; returns a Kernel that only executes
#pragma once

#include <any>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "ops/build.h"
#include "runtime/device/device.h"

namespace graft {

// Layouts a kernel can work with. Entries of absent operands are ignored.
struct Candidate {
  std::vector<Layout> inputs;
  std::vector<Layout> outputs;
  double cost = 0;  // relative to other candidates of this node, in bytes of memory traffic
};

struct Settlement {
  int64_t scratch_bytes = 0;                  // during run only
  std::vector<int64_t> opaque_bytes;          // one for each output; only read where the output is opaque
  std::vector<std::pair<int, int>> in_place;  // {output, input}: may overwrite the input's bytes
  std::vector<std::pair<int, int>> views;     // {output, input}: is the input's bytes; the kernel does nothing for it
  std::any descriptor;                        // for prepare and for the ...Grad nodes whose `forward` this node is
};

// Where a state lies in a file.
class ScratchFile;  // runtime/device/cpu/scratch_file.h
struct DiskBytes {
  ScratchFile* file = nullptr;
  int64_t offset = 0;
};

// Addresses of one node. Pointers are valid for as long as the Kernel lives; absent operands are nullptr.
struct Binding {
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  void* scratch = nullptr;
  const Settlement* settlement = nullptr;
  std::vector<DiskBytes> disk = {};  // by input; of states on the disk, whose pointers are nullptr

  template <class T>
  const T* in(size_t i) const {
    return i < inputs.size() ? static_cast<const T*>(inputs[i]) : nullptr;
  }
  template <class T>
  T* out(size_t i) const {
    return i < outputs.size() ? static_cast<T*>(outputs[i]) : nullptr;
  }
};

using Kernel = std::function<void(Stream&)>;  // empty: nothing to do

using ProposeFunction = std::vector<Candidate> (*)(const Node&);
// `forward` is the settlement of node.forward, nullptr where there is none.
using SettleFunction = Settlement (*)(const Node&, const Settlement* forward);
using PrepareFunction = Kernel (*)(const Node&, const Binding&);
// Names of the kernels that can compute the node as it lies, the one that runs unless another is chosen first; empty
// where there is no choice. Node::kernel holds the choice, and settle and prepare follow it. Neither opaque operands
// nor a forward node may matter to them, so that one node can be timed alone.
using ChoicesFunction = std::vector<std::string> (*)(const Node&);

struct KernelFunctions {
  ProposeFunction propose = nullptr;
  SettleFunction settle = nullptr;
  PrepareFunction prepare = nullptr;
  ChoicesFunction choices = nullptr;
};

// Sets of element types.
enum class DTypes : uint32_t {
  none = 0,
  f32 = 1U << static_cast<int>(DType::f32),
  f64 = 1U << static_cast<int>(DType::f64),
  bf16 = 1U << static_cast<int>(DType::bf16),
  f32_f64 = f32 | f64,
  any = 0xffffffff,
};
inline bool contains(DTypes set, DType dtype) { return (static_cast<uint32_t>(set) >> static_cast<int>(dtype)) & 1U; }

struct KernelEntry {
  DTypes dtypes;
  KernelFunctions functions;
};

// How a node works in mixed precision: bit i of a mask stands for operand i, or result i, which are bfloat16 while all
// other floating-point values of the node stay float32. Arithmetic is float32 throughout.
struct MixedPrecision {
  uint32_t inputs = 0;
  uint32_t outputs = 0;
  uint32_t optional = 0;  // of the outputs: those that the kernel gives as float32 too, where that is wanted
  // Instead of masks: results are bfloat16 where an operand is. One that `mixes` takes operands of both types, another
  // wants them all alike.
  bool follows = false, mixes = false;

  static constexpr uint32_t bit(size_t operand) { return operand < 32 ? uint32_t{1} << operand : 0; }
  bool takes_low(size_t input) const { return (inputs & bit(input)) != 0; }
  bool gives_low(size_t output) const { return (outputs & bit(output)) != 0; }
  bool gives_either(size_t output) const { return (optional & bit(output)) != 0; }
};

// Where a node leaves what a second run of it can begin from, and the slot that takes that in the second run.
struct Shortcut {
  size_t result, slot;
};

class Gradient;          // ops/gradient.h
struct ElementwiseStep;  // ops/elementwise.h
// One result for each input of the node; an empty Val where no gradient flows.
using Vals = std::vector<Val>;
using GradientFunction = Vals (*)(Gradient&);

enum class GradientStatus : uint8_t {
  unsupported,  // an error at plan time, never silent zeros
  rule,         // `differentiate` gives it
  zero,         // non-differentiable by definition: no gradient flows
};

struct Op {
  std::string type;
  std::string domain = "";            // "graft": private
  void (*infer)(Node&) = nullptr;     // sets dtype and dims of results; nullptr: ONNX's schema does
  std::vector<KernelEntry> cpu = {};  // the first entry that contains the node's dtype is taken
  std::vector<KernelEntry> cuda = {};
  GradientFunction differentiate = nullptr;
  GradientStatus gradient = GradientStatus::unsupported;  // `rule` is implied by `differentiate`
  bool broadcasts = false;  // ONNX's multidirectional broadcasting: the engine un-broadcasts gradients
  // Whether the node can be a step of an element-wise region, and which; `step` may be nullptr.
  bool (*elementwise)(const Node& node, ElementwiseStep* step) = nullptr;
  // nullopt, or no function: the node has no kernel for bfloat16 that is worth it on this machine.
  std::optional<MixedPrecision> (*mixed_precision)(const Node& node) = nullptr;
  // Input slots that hold trainable weights when they are constants; statistics slots of normalisations.
  std::vector<int> parameter_slots = {};
  std::vector<int> statistic_slots = {};
  // How a second run of a node does with less work: it takes an opaque result of the first, and gives result 0, with
  // the same bits, and nothing else. nullopt, or no function: it does all that the first did.
  std::optional<Shortcut> (*shortcut)(const Node& node) = nullptr;
  // Whether the node, as it lies, can leave the sums of result 0 over each channel (ops/channel_statistics.h) in one
  // more result, which is opaque; the slot that takes those of input 0, none where it is negative.
  bool (*gives_statistics)(const Node& node) = nullptr;
  int statistics_slot = -1;
  // Input slots of states that the kernel can take from a file and put back there, piece by piece. Where they lie on
  // the disk (Value::on_disk), all of them do, and their results have no address.
  std::vector<int> disk_slots = {};
};

// nullptr when there is none.
const Op* find_op(const std::string& domain, const std::string& type);
inline const Op* find_op(const Node& node) { return find_op(node.domain, node.type); }
std::vector<const Op*> all_ops();

// The dtype by which a node's kernel is looked up: bfloat16 where any operand or result has it, else the first
// floating-point dtype among its inputs, then its outputs, else the dtype of the first operand.
DType kernel_dtype(const Node& node);
// nullptr where the operator has no kernel for the node's device and dtype.
const KernelFunctions* find_kernel(const Node& node);

// Fills the node's results by Op::infer or the ONNX schema. ModelError, UnsupportedError for unknown operators.
void infer(Node& node);

// --- Kernels that most operators share ---

// Any number of operands, all in plain layout, nothing in place.
KernelFunctions plain_kernel(PrepareFunction prepare);
// As plain_kernel; output 0 may overwrite input 0 (same byte size).
KernelFunctions plain_in_place_kernel(PrepareFunction prepare);
// All operands of the first input's dims take one common layout, whichever the first input has; others are plain.
// f(0) = 0 must hold, or the kernel must keep padding zero. Output 0 may overwrite input 0.
KernelFunctions elementwise_kernel(PrepareFunction prepare);
// Output 0 is a view of input 0: Reshape, Squeeze, Identity...
KernelFunctions view_kernel();

// Op::mixed_precision of operators that only move elements.
std::optional<MixedPrecision> moves_elements(const Node& node);

// UsageError where the kernel chosen for the node is none that its operator lists.
void check_kernel_choice(const Node& node);

// ModelError where an operand is there and is not as many opaque bytes, as another node leaves for this one.
void check_workspace(const Node& node, size_t input, int64_t bytes);

std::vector<Candidate> propose_plain(const Node& node);
std::vector<Candidate> propose_elementwise(const Node& node);
Settlement settle_nothing(const Node& node, const Settlement* forward);
Settlement settle_in_place(const Node& node, const Settlement* forward);

}  // namespace graft
