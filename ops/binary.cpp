// y = f(a, b, ...), operands broadcast as ONNX does, over storage as it lies: an operand per channel does not force a
// blocked tensor out of its layout. float32 runs on the tiles of binary_loops.cpp, all other types on plain loops.
#include <cmath>
#include <type_traits>

#include "ops/broadcast.h"
#include "ops/elementwise.h"
#include "ops/gradient.h"

namespace graft {
namespace {

// --- Gradients; the engine sums them over broadcast axes ---

Vals add_rule(Gradient& g) { return {g.dy(0), g.dy(0)}; }
Vals sub_rule(Gradient& g) { return {g.dy(0), g.needs(1) ? -g.dy(0) : Val{}}; }
Vals mul_rule(Gradient& g) { return {g.needs(0) ? g.dy(0) * g.x(1) : Val{}, g.needs(1) ? g.dy(0) * g.x(0) : Val{}}; }
Vals div_rule(Gradient& g) {
  Val scaled = g.dy(0) / g.x(1);
  return {scaled, g.needs(1) ? -(scaled * g.y(0)) : Val{}};
}
// y = a - b trunc(a / b)
Vals mod_rule(Gradient& g) { return {g.dy(0), g.needs(1) ? g.dy(0) * ((g.y(0) - g.x(0)) / g.x(1)) : Val{}}; }

Vals prelu_rule(Gradient& g) {
  Val zero = constant_like(g.x(0), 0);
  Val positive = greater(g.x(0), zero);
  return {g.needs(0) ? where(positive, g.dy(0), g.dy(0) * g.x(1)) : Val{},
          g.needs(1) ? where(positive, zero, g.dy(0) * g.x(0)) : Val{}};
}

Vals sum_rule(Gradient& g) { return Vals(g.input_count(), g.dy(0)); }
Vals mean_rule(Gradient& g) { return Vals(g.input_count(), g.dy(0) / static_cast<double>(g.input_count())); }

// Operands that tie share the gradient evenly.
Vals extremum_rule(Gradient& g) {
  Vals chosen;
  for (size_t i = 0; i < g.input_count(); ++i) chosen.push_back(cast(equal(g.x(i), g.y(0)), g.y(0).dtype()));
  Val ties = chosen[0];
  for (size_t i = 1; i < chosen.size(); ++i) ties = ties + chosen[i];
  Val share = g.dy(0) / ties;
  for (Val& gradient : chosen) gradient = share * gradient;
  return chosen;
}

// y = a^b: b a^(b-1) and y log a, which is taken as 0 where a is not positive
Vals pow_rule(Gradient& g) {
  Val a = g.x(0);
  Val b = cast(g.x(1), a.dtype());
  const Value& exponent = *g.node().inputs[1];
  bool known = exponent.is_constant() && exponent.data.count() == 1;
  double e = known ? exponent.data.cast(DType::f64).data<double>()[0] : 0;
  Val da, db;
  if (g.needs(0)) {
    if (known && e == 2) da = g.dy(0) * (a * 2.0);
    else if (known && e == 0.5) da = g.dy(0) * 0.5 / g.y(0);
    else if (known) da = e == 0 ? g.dy(0) * 0.0 : g.dy(0) * (pow(a, e - 1) * e);
    else da = g.dy(0) * (b * call("Pow", {a, b - 1.0}));
  }
  if (g.needs(1)) {
    Val positive = greater(a, constant_like(a, 0));
    db = g.dy(0) * (g.y(0) * log(where(positive, a, constant_like(a, 1))));
  }
  return {da, db};
}

// --- Kernels ---

struct Binary {
  const char* type;
  bool keeps_zero;  // f(0, 0) = 0
  GradientFunction differentiate;
  std::vector<int> parameter_slots = {};
};

const Binary rows[] = {
    {"Add", true, add_rule, {0, 1}}, {"Sub", true, sub_rule},      {"Mul", true, mul_rule, {0, 1}},
    {"Div", false, div_rule},        {"Max", true, extremum_rule}, {"Min", true, extremum_rule},
    {"Sum", true, sum_rule},         {"Mean", true, mean_rule},    {"PRelu", true, prelu_rule, {1}},
    {"Mod", false, mod_rule},
};

bool keeps_zero(const Node& node) {
  for (const Binary& row : rows) {
    if (row.type == node.type) return row.keeps_zero;
  }
  return false;
}

bool elementwise(const Node& node, ElementwiseStep* step) {
  BinaryTile tile = binary_tile(node.type);
  if (!tile || node.type == "Mean" || node.inputs.size() < 2) return false;
  if (step) *step = {.binary = tile, .keeps_zero = keeps_zero(node)};
  return true;
}

// The axes of step k of a variadic operator: y = f(y or the first operand, operand k).
std::vector<StorageAxis> axes_of_step(const Node& node, size_t k) {
  const Value* y = node.outputs[0];
  return storage_axes({y, k == 1 ? node.inputs[0] : y, node.inputs[k]});
}

// y *= 1 / n, what Mean adds to Sum; a copy where there is but one operand.
template <class T>
Kernel finish(const Node& node, const Binding& binding) {
  const T* x = binding.in<T>(0);
  T* y = binding.out<T>(0);
  int64_t n = node.outputs[0]->layout.storage_count();
  if (node.inputs.size() == 1) {
    return [=](Stream&) {
      if (x != y) std::copy(x, x + n, y);
    };
  }
  if (node.type != "Mean") return [](Stream&) {};
  auto operands = static_cast<double>(node.inputs.size());
  return [=](Stream&) {
    parallel_for(n, 1, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(static_cast<double>(y[i]) / operands);
    });
  };
}

Kernel prepare_f32(const Node& node, const Binding& binding) {
  BinaryTile tile = binary_tile(node.type);
  std::vector<Kernel> steps;
  for (size_t k = 1; k < node.inputs.size(); ++k) {
    auto axes = axes_of_step(node, k);
    const auto* a = k == 1 ? binding.in<float>(0) : binding.out<float>(0);
    const auto* b = binding.in<float>(k);
    auto* y = binding.out<float>(0);
    int64_t n = walked_count(axes);
    steps.push_back([=, axes = std::move(axes)](Stream&) {
      parallel_for(n, 1, [&](int64_t begin, int64_t end) {
        const auto& row = axes[axes.size() > 1 ? axes.size() - 2 : 0].strides;
        const auto& column = axes.back().strides;
        for_each_tile(axes, begin, end, [&](int64_t height, int64_t width, const int64_t* at) {
          tile(height, width, {a + at[1], row[1], column[1]}, {b + at[2], row[2], column[2]}, y + at[0], row[0]);
        });
      });
    });
  }
  steps.push_back(finish<float>(node, binding));
  return with_clean_padding(node, binding, keeps_zero(node), [steps](Stream& stream) {
    for (const Kernel& step : steps) step(stream);
  });
}

[[noreturn]] void refuse_zero_divisor(const std::string& where) {
  throw DataError(where, " divides an integer by zero");
}

// Integer arithmetic wraps, as ONNX's implementations do; a zero divisor is an error.
template <class T>
T wrapped(uint64_t value) {
  return static_cast<T>(value);
}

template <class T>
T divide(T a, T b, const std::string& where) {
  if constexpr (std::is_floating_point_v<T>) {
    return a / b;
  } else {
    if (b == T{}) refuse_zero_divisor(where);
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return wrapped<T>(0 - static_cast<uint64_t>(a));
    return static_cast<T>(a / b);
  }
}

// Remainder with the sign of the dividend (fmod) or of the divisor.
template <class T>
T remainder(T a, T b, bool sign_of_dividend, const std::string& where) {
  if constexpr (std::is_floating_point_v<T>) {
    T r = std::fmod(a, b);
    return !sign_of_dividend && r != 0 && (r < 0) != (b < 0) ? r + b : r;
  } else {
    if (b == T{}) refuse_zero_divisor(where);
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return T{};
    auto r = static_cast<T>(a % b);
    bool differs = r != T{} && (r < T{}) != (b < T{});
    return !sign_of_dividend && differs ? static_cast<T>(r + b) : r;
  }
}

template <class T>
T add(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a + b;
  else return wrapped<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
template <class T>
T subtract(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a - b;
  else return wrapped<T>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}
template <class T>
T multiply(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a * b;
  else return wrapped<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
template <class T>
T larger(T a, T b) {
  return a != a || a > b ? a : b;
}
template <class T>
T smaller(T a, T b) {
  return a != a || a < b ? a : b;
}

// Calls use(f) with the function of a node's type.
template <class T, class Use>
void with_function(const Node& node, const Use& use) {
  const std::string& type = node.type;
  std::string where = node.where();
  bool fmod = node.integer("fmod", 0) != 0;
  if (type == "Add" || type == "Sum" || type == "Mean") use(add<T>);
  else if (type == "Sub") use(subtract<T>);
  else if (type == "Mul") use(multiply<T>);
  else if (type == "Div") use([where](T a, T b) { return divide(a, b, where); });
  else if (type == "Max") use(larger<T>);
  else if (type == "Min") use(smaller<T>);
  else if (type == "PRelu") use([](T a, T b) { return a < T{} ? multiply(a, b) : a; });
  else if (type == "Mod") use([where, fmod](T a, T b) { return remainder(a, b, fmod, where); });
  else throw UsageError(where, " is no binary operator");
}

template <class T>
Kernel prepare_plain_loops(const Node& node, const Binding& binding) {
  std::vector<Kernel> steps;
  with_function<T>(node, [&](auto f) {
    for (size_t k = 1; k < node.inputs.size(); ++k) {
      auto axes = axes_of_step(node, k);
      const T* a = k == 1 ? binding.in<T>(0) : binding.out<T>(0);
      const T* b = binding.in<T>(k);
      T* y = binding.out<T>(0);
      int64_t n = walked_count(axes);
      steps.push_back([=, axes = std::move(axes)](Stream&) { broadcast_apply(axes, 0, n, a, b, y, f); });
    }
  });
  steps.push_back(finish<T>(node, binding));
  return with_clean_padding(node, binding, keeps_zero(node), [steps](Stream& stream) {
    for (const Kernel& step : steps) step(stream);
  });
}

Kernel prepare_any(const Node& node, const Binding& binding) {
  Kernel kernel;
  visit_dtype(node.outputs[0]->dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (!std::is_same_v<T, bool>) kernel = prepare_plain_loops<T>(node, binding);
  });
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", node.outputs[0]->dtype);
  return kernel;
}

// Of more than two operands the later ones are read after y is written.
Settlement settle_variadic(const Node& node, const Settlement* forward) {
  Settlement settlement = settle_broadcast(node, forward);
  if (node.inputs.size() > 2) std::erase_if(settlement.in_place, [](auto pair) { return pair.second > 1; });
  return settlement;
}

// --- Pow, whose exponent may have another type ---

template <class T>
T power(T a, double b) {
  if constexpr (std::is_same_v<T, float>) return std::pow(a, static_cast<float>(b));
  else return static_cast<T>(std::pow(static_cast<double>(a), b));
}

// x^2, x^3, sqrt(x): what exporters write into normalisations. False where the exponent is another.
template <class T>
bool prepare_common_power(const Value& exponent, const T* x, T* y, int64_t n, Kernel& kernel) {
  if (!std::is_floating_point_v<T> || !exponent.is_constant() || exponent.data.count() != 1) return false;
  double e = exponent.data.cast(DType::f64).template data<double>()[0];
  if (e != 2 && e != 3 && e != 0.5) return false;
  kernel = [=](Stream&) {
    parallel_for(n, 2, [=](int64_t begin, int64_t end) {
      if (e == 2)
        for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(x[i] * x[i]);
      else if (e == 3)
        for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(x[i] * x[i] * x[i]);
      else
        for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(std::sqrt(x[i]));
    });
  };
  return true;
}

Kernel prepare_pow(const Node& node, const Binding& binding) {
  Kernel kernel;
  const Value& base = *node.inputs[0];
  const Value& exponent = *node.inputs[1];
  auto axes = storage_axes({node.outputs[0], &base, &exponent});
  int64_t n = walked_count(axes);
  visit_dtype(base.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = binding.in<T>(0);
    T* y = binding.out<T>(0);
    if (base.dims == node.outputs[0]->dims && prepare_common_power(exponent, x, y, n, kernel)) return;
    visit_dtype(exponent.dtype, [&](auto exponent_zero) {
      using E = decltype(exponent_zero);
      const E* e = binding.in<E>(1);
      kernel = [=](Stream&) {
        parallel_for(n, 40, [&](int64_t begin, int64_t end) {
          broadcast_apply(axes, begin, end, x, e, y, [](T a, E b) { return power(a, static_cast<double>(b)); });
        });
      };
    });
  });
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", base.dtype, " to ", exponent.dtype);
  return kernel;
}

}  // namespace

std::vector<Op> binary_ops() {
  std::vector<Op> ops;
  for (const Binary& row : rows) {
    std::vector<KernelEntry> kernels = {{DTypes::any, {propose_broadcast, settle_variadic, prepare_any}}};
    if (binary_tile(row.type))
      kernels.insert(kernels.begin(),
                     {mixed_elementwise_kernel(), {DTypes::f32, {propose_broadcast, settle_variadic, prepare_f32}}});
    ops.push_back({.type = row.type,
                   .cpu = kernels,
                   .differentiate = row.differentiate,
                   .broadcasts = true,
                   .elementwise = elementwise,
                   .mixed_precision = mixed_elementwise,
                   .parameter_slots = row.parameter_slots});
  }
  ops.push_back({.type = "Pow",
                 .cpu = {{DTypes::any, plain_in_place_kernel(prepare_pow)}},
                 .differentiate = pow_rule,
                 .broadcasts = true});
  return ops;
}

}  // namespace graft
