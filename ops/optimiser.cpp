// Nodes around the optimiser's steps: GlobalNorm, Increment, Zero.
#include "ops/optimiser.h"

#include <cmath>

// Compiled once for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/optimiser.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sum of x^2, in double: float32 squares overflow at 1.8e19.
double sum_of_squares_f32(const float* x, int64_t count) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const auto a = hn::PromoteTo(d, hn::LoadU(half, x + i));
    const auto b = hn::PromoteTo(d, hn::LoadU(half, x + i + lanes));
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(sum_of_squares_f32);

namespace {

constexpr size_t w_slot = 0, g_slot = 1, scale_slot = 2, lr_slot = 3, step_slot = 4;

void require(bool holds, const Node& node, const std::string& what, const Value* got) {
  if (holds) return;
  if (!got) throw ModelError(node.where(), " ", what, ", got none");
  throw ModelError(node.where(), " ", what, ", got ", got->dtype, got->dims);
}

bool is_scalar(const Value* value, DType dtype) {
  return value && value->dtype == dtype && value->shaped() && value->count() == 1;
}

bool is_like(const Value* value, const Value& w, const Dims& dims) {
  return value && value->dtype == w.dtype && value->dims == dims;
}

void take_type(Value& result, const Value& from) {
  result.dtype = from.dtype;
  result.ranked = true;
  result.dims = from.dims;
}

}  // namespace

void infer_step(Node& node) {
  infer_step(node, node.input(w_slot) ? node.inputs[w_slot]->dims : Dims{}, node.inputs.size());
}

void infer_step(Node& node, const Dims& gradient, size_t operands) {
  const Value* w = node.input(w_slot);
  require(w && is_float(w->dtype) && w->shaped(), node, "wants a floating-point parameter of known shape", w);
  require(is_like(node.input(g_slot), *w, gradient), node, cat("wants a gradient of type ", w->dtype, gradient),
          node.input(g_slot));
  require(is_scalar(node.input(scale_slot), w->dtype), node, "wants a scalar scale", node.input(scale_slot));
  require(is_scalar(node.input(lr_slot), w->dtype), node, "wants a scalar learning rate", node.input(lr_slot));
  require(is_scalar(node.input(step_slot), DType::i64), node, "wants an int64 scalar step", node.input(step_slot));
  if (node.outputs.size() + first_moment_slot != operands + 1) {
    throw ModelError(node.where(), " has ", node.inputs.size(), " inputs and ", node.outputs.size(),
                     " outputs: one output is wanted for the parameter and one for each moment");
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (i > 0) {
      const Value* moment = node.input(first_moment_slot + i - 1);
      require(is_like(moment, *w, w->dims), node, "wants moments of the parameter's type", moment);
    }
    if (node.outputs[i]) take_type(*node.outputs[i], *w);
  }
}

// All in the layout of the gradient, or all in that of the parameter: a parameter that other nodes read where it lies
// would have to be brought back.
std::vector<Candidate> propose_step(const Node& node) {
  std::vector<Candidate> candidates;
  for (size_t leader : {g_slot, w_slot}) {
    const Layout& layout = node.inputs[leader]->layout;
    Candidate candidate = propose_plain(node)[0];
    candidate.inputs[w_slot] = candidate.inputs[g_slot] = layout;
    for (size_t i = first_moment_slot; i < candidate.inputs.size(); ++i) candidate.inputs[i] = layout;
    for (auto& output : candidate.outputs) output = layout;
    const Value& w = *node.inputs[w_slot];
    if (w.layout != layout) candidate.cost += 2.0 * static_cast<double>(byte_count(w.dtype, w.dims));
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

Settlement settle_step(const Node& node, const Settlement*) {
  Settlement settlement;
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    settlement.in_place.emplace_back(static_cast<int>(i),
                                     static_cast<int>(i == 0 ? w_slot : first_moment_slot + i - 1));
  }
  settle_moments(node, settlement);
  return settlement;
}

namespace {

// --- GlobalNorm: y = sqrt(sum_i sum(g_i^2)) over all operands, whatever their layouts: padding is zero ---

// Partial sums of fixed pieces keep the result the same for every number of threads.
constexpr int64_t piece = 16384;

void infer_global_norm(Node& node) {
  const Value* first = node.input(0);
  require(first && is_float(first->dtype), node, "wants floating-point operands", first);
  for (const Value* input : node.inputs) {
    require(input && input->dtype == first->dtype, node, "wants operands of one dtype", input);
  }
  node.outputs[0]->dtype = first->dtype;
  node.outputs[0]->ranked = true;
  node.outputs[0]->dims = {};
}

std::vector<Candidate> propose_global_norm(const Node& node) {
  auto candidates = propose_plain(node);
  for (size_t i = 0; i < node.inputs.size(); ++i) candidates[0].inputs[i] = node.inputs[i]->layout;
  return candidates;
}

int64_t pieces_of(const Value& value) { return (value.layout.storage_count() + piece - 1) / piece; }

Settlement settle_global_norm(const Node& node, const Settlement*) {
  Settlement settlement;
  for (const Value* input : node.inputs) {
    settlement.scratch_bytes += pieces_of(*input) * static_cast<int64_t>(sizeof(double));
  }
  return settlement;
}

double sum_of_squares(const float* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(sum_of_squares_f32)(x, count); }

double sum_of_squares(const double* x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return sum;
}

template <class T>
Kernel prepare_global_norm(const Node& node, const Binding& binding) {
  struct Piece {
    const T* begin;
    int64_t count;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    int64_t count = node.inputs[i]->layout.storage_count();
    for (int64_t at = 0; at < count; at += piece) {
      pieces.push_back({binding.in<T>(i) + at, std::min(piece, count - at)});
    }
  }
  auto* partial = static_cast<double*>(binding.scratch);
  T* y = binding.out<T>(0);
  return [pieces = std::move(pieces), partial, y](Stream&) {
    auto count = static_cast<int64_t>(pieces.size());
    parallel_for(count, piece, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Piece& at = pieces[static_cast<size_t>(i)];
        partial[i] = sum_of_squares(at.begin, at.count);
      }
    });
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += partial[i];
    *y = static_cast<T>(std::sqrt(sum));
  };
}

template <class T>
KernelFunctions global_norm_kernel() {
  return {propose_global_norm, settle_global_norm, prepare_global_norm<T>};
}

// --- Increment: y = x + 1, the step counter ---

void infer_increment(Node& node) {
  require(is_scalar(node.input(0), DType::i64), node, "wants an int64 scalar", node.input(0));
  take_type(*node.outputs[0], *node.inputs[0]);
}

Kernel prepare_increment(const Node&, const Binding& binding) {
  const auto* x = binding.in<int64_t>(0);
  auto* y = binding.out<int64_t>(0);
  return [x, y](Stream&) { *y = *x == INT64_MAX ? *x : *x + 1; };
}

// --- Zero: y = 0 of x's type and layout; empties an accumulator where it lies ---

void infer_zero(Node& node) {
  const Value* x = node.input(0);
  require(x && is_float(x->dtype) && x->shaped(), node, "wants a floating-point operand of known shape", x);
  take_type(*node.outputs[0], *x);
}

Kernel prepare_zero(const Node& node, const Binding& binding) {
  auto* y = static_cast<std::byte*>(binding.outputs[0]);
  const Value& value = *node.outputs[0];
  int64_t bytes = value.layout.storage_count() * static_cast<int64_t>(size_of(value.dtype));
  return [y, bytes](Stream&) {
    parallel_for(bytes, 1,
                 [y](int64_t begin, int64_t end) { std::memset(y + begin, 0, static_cast<size_t>(end - begin)); });
  };
}

}  // namespace

std::vector<Op> optimiser_ops() {
  return {
      {.type = "GlobalNorm",
       .domain = "graft",
       .infer = infer_global_norm,
       .cpu = {{DTypes::f32, global_norm_kernel<float>()}, {DTypes::f64, global_norm_kernel<double>()}}},
      {.type = "Increment",
       .domain = "graft",
       .infer = infer_increment,
       .cpu = {{DTypes::any, plain_in_place_kernel(prepare_increment)}},
       .gradient = GradientStatus::zero},
      {.type = "Zero",
       .domain = "graft",
       .infer = infer_zero,
       .cpu = {{DTypes::f32_f64, elementwise_kernel(prepare_zero)}},
       .gradient = GradientStatus::zero},
  };
}

}  // namespace graft
#endif  // HWY_ONCE
