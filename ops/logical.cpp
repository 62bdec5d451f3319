// Comparisons, logic and bits: y = f(a, b) with broadcasting, on plain loops; no gradient by definition.
#include <type_traits>

#include "ops/broadcast.h"

namespace graft {
namespace {

template <class A, class R, class F>
Kernel apply(const Node& node, const Binding& binding, F f) {
  auto axes = storage_axes({node.outputs[0], node.inputs[0], node.inputs[1]});
  const A* a = binding.in<A>(0);
  const A* b = binding.in<A>(1);
  R* y = binding.out<R>(0);
  int64_t n = walked_count(axes);
  return [=](Stream&) {
    parallel_for(n, 4, [&](int64_t begin, int64_t end) { broadcast_apply(axes, begin, end, a, b, y, f); });
  };
}

Kernel prepare_compare(const Node& node, const Binding& binding) {
  Kernel kernel;
  const std::string& type = node.type;
  visit_dtype(node.inputs[0]->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (type == "Equal") kernel = apply<T, bool>(node, binding, [](T a, T b) { return a == b; });
    else if (type == "Less") kernel = apply<T, bool>(node, binding, [](T a, T b) { return a < b; });
    else if (type == "Greater") kernel = apply<T, bool>(node, binding, [](T a, T b) { return a > b; });
    else if (type == "LessOrEqual") kernel = apply<T, bool>(node, binding, [](T a, T b) { return a <= b; });
    else if (type == "GreaterOrEqual") kernel = apply<T, bool>(node, binding, [](T a, T b) { return a >= b; });
  });
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", node.inputs[0]->dtype);
  return kernel;
}

Kernel prepare_logic(const Node& node, const Binding& binding) {
  if (node.type == "And") return apply<bool, bool>(node, binding, [](bool a, bool b) { return a && b; });
  if (node.type == "Or") return apply<bool, bool>(node, binding, [](bool a, bool b) { return a || b; });
  return apply<bool, bool>(node, binding, [](bool a, bool b) { return a != b; });
}

Kernel prepare_bits(const Node& node, const Binding& binding) {
  Kernel kernel;
  const std::string& type = node.type;
  bool left = node.text("direction", "") == "LEFT";
  visit_dtype(node.inputs[0]->dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
      if (type == "BitwiseAnd") kernel = apply<T, T>(node, binding, [](T a, T b) { return static_cast<T>(a & b); });
      else if (type == "BitwiseOr") kernel = apply<T, T>(node, binding, [](T a, T b) { return static_cast<T>(a | b); });
      else if (type == "BitwiseXor")
        kernel = apply<T, T>(node, binding, [](T a, T b) { return static_cast<T>(a ^ b); });
      else if (type == "BitShift") {
        kernel = apply<T, T>(node, binding, [left](T a, T b) {
          auto wide = static_cast<uint64_t>(a);
          auto bits = static_cast<uint64_t>(b);
          if (bits >= 8 * sizeof(T)) return T{};  // a shift by the width or more is undefined in C++
          return static_cast<T>(left ? wide << bits : wide >> bits);
        });
      }
    }
  });
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", node.inputs[0]->dtype);
  return kernel;
}

}  // namespace

std::vector<Op> logical_ops() {
  std::vector<Op> ops;
  auto add = [&](const char* type, PrepareFunction prepare) {
    ops.push_back({.type = type, .cpu = {{DTypes::any, plain_kernel(prepare)}}, .gradient = GradientStatus::zero});
  };
  for (const char* type : {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"}) add(type, prepare_compare);
  for (const char* type : {"And", "Or", "Xor"}) add(type, prepare_logic);
  for (const char* type : {"BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"}) add(type, prepare_bits);
  return ops;
}

}  // namespace graft
