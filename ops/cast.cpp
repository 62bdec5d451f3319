// y = x in another element type, over storage as it lies.
#include <cmath>
#include <limits>
#include <type_traits>

#include "ops/bfloat16_loops.h"
#include "ops/elementwise.h"
#include "ops/gradient.h"

namespace graft {
namespace {

// Bits of a float16 number, with a type of their own.
struct Half {
  uint16_t bits;
};

template <class T>
T widen(T x) {
  return x;
}
float widen(Half x) { return from_f16(x.bits); }
float widen(BFloat16 x) { return from_bf16(x.bits); }

// As a C++ cast, except that floats outside an integer's range give its nearest end and NaN gives 0.
template <class To, class From>
To convert(From from) {
  if constexpr (std::is_same_v<To, Half>) {
    return {to_f16(static_cast<float>(from))};
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return {to_bf16(static_cast<float>(from))};
  } else if constexpr (std::is_same_v<To, bool>) {
    return from != From{};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (std::isnan(from)) return To{};
    // The ends are powers of two, or one less, which rounds up to one in float.
    constexpr From low = static_cast<From>(std::numeric_limits<To>::lowest());
    constexpr From high = static_cast<From>(std::numeric_limits<To>::max());
    if (from <= low) return std::numeric_limits<To>::lowest();
    return from >= high ? std::numeric_limits<To>::max() : static_cast<To>(from);
  } else {
    return static_cast<To>(from);
  }
}

template <class F>
bool visit_all(DType dtype, F&& f) {
  if (dtype == DType::f16) return f(Half{}), true;
  if (dtype == DType::bf16) return f(BFloat16{}), true;
  return visit_dtype(dtype, f);
}

Kernel prepare_cast(const Node& node, const Binding& binding) {
  Kernel kernel;
  int64_t n = node.outputs[0]->layout.storage_count();
  visit_all(node.inputs[0]->dtype, [&](auto from) {
    using From = decltype(from);
    visit_all(node.outputs[0]->dtype, [&](auto to) {
      using To = decltype(to);
      const From* x = binding.in<From>(0);
      To* y = binding.out<To>(0);
      kernel = [=](Stream&) {
        parallel_for(n, 1, [=](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) y[i] = convert<To>(widen(x[i]));
        });
      };
    });
  });
  if (!kernel)
    throw UnsupportedError(node.where(), " has no kernel from ", node.inputs[0]->dtype, " to ", node.outputs[0]->dtype);
  return kernel;
}

// CastLike's second operand gives only its type.
std::vector<Candidate> propose_cast(const Node& node) {
  auto candidates = propose_elementwise(node);
  for (Candidate& candidate : candidates) {
    if (node.input(1)) candidate.inputs[1] = node.inputs[1]->layout;
  }
  return candidates;
}

Settlement settle_cast(const Node& node, const Settlement* forward) {
  bool same_size = size_of(node.inputs[0]->dtype) == size_of(node.outputs[0]->dtype);
  return same_size ? settle_in_place(node, forward) : settle_nothing(node, forward);
}

// Between float32 and bfloat16: tiles hold both as float32.
bool elementwise(const Node& node, ElementwiseStep* step) {
  DType from = node.inputs[0]->dtype, to = node.outputs[0]->dtype;
  if (node.input(1) || from == to) return false;
  for (DType dtype : {from, to}) {
    if (dtype != DType::f32 && dtype != DType::bf16) return false;
  }
  if (step) *step = {.keeps_zero = true};
  return true;
}

// Between float32 and bfloat16, by vectors.
template <class From, class To>
Kernel prepare_mixed(const Node& node, const Binding& binding, void (*convert_run)(const From*, To*, int64_t)) {
  return [=, x = binding.in<From>(0), y = binding.out<To>(0), n = node.outputs[0]->layout.storage_count()](Stream&) {
    parallel_for(n, 1, [=](int64_t begin, int64_t end) { convert_run(x + begin, y + begin, end - begin); });
  };
}

Kernel prepare_any(const Node& node, const Binding& binding) {
  if (!elementwise(node, nullptr)) return prepare_cast(node, binding);
  return node.inputs[0]->dtype == DType::f32 ? prepare_mixed(node, binding, to_bfloat16)
                                             : prepare_mixed(node, binding, to_float);
}

Vals cast_rule(Gradient& g) {
  Vals gradients(g.input_count());
  if (g.needs(0)) gradients[0] = cast(g.dy(0), g.x(0).dtype());
  return gradients;
}

}  // namespace

std::vector<Op> cast_ops() {
  std::vector<Op> ops;
  for (const char* type : {"Cast", "CastLike"}) {
    ops.push_back({.type = type,
                   .cpu = {{DTypes::any, {propose_cast, settle_cast, prepare_any}}},
                   .differentiate = cast_rule,
                   .elementwise = elementwise});
  }
  return ops;
}

}  // namespace graft
