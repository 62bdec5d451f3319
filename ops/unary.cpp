// y = f(x), element by element over storage as it lies. Rows of tables: f for float64, whether f(0) = 0, the gradient.
// float32 runs on the loops of vector_loops.cpp where there is one, else through the float64 function.
#include <cmath>

#include "ops/broadcast.h"
#include "ops/elementwise.h"
#include "ops/gradient.h"

namespace graft {
namespace {

// An attribute and its default in ONNX; without a name it is a constant of the function.
struct Parameter {
  const char* name = nullptr;
  double otherwise = 0;
};

struct Unary {
  const char* type;
  double (*f)(double x, double a, double b);
  bool keeps_zero;                 // f(0) = 0: padding stays zero by itself
  GradientFunction differentiate;  // nullptr: the gradient is zero by definition
  Parameter a = {};
  Parameter b = {};
};

double read(const Node& node, const Parameter& parameter) {
  return parameter.name ? node.real(parameter.name, parameter.otherwise) : parameter.otherwise;
}

double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }
double clamp01(double x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

// --- Gradients ---

Val sigmoid(const Val& x) { return call("Sigmoid", {x}); }
Val select(const Val& condition, const Val& x, double otherwise) {
  return where(condition, x, constant_like(x, otherwise));
}
Val positive(const Val& x) { return greater(x, constant_like(x, 0)); }

// One private node (dy, s) -> dx; s is what the derivative is cheaper from.
Val grad(Gradient& g, const char* type, const Val& s, Attributes attributes = {}) {
  return call("graft", type, {g.dy(0), s}, 1, std::move(attributes))[0];
}

Vals relu_rule(Gradient& g) { return {grad(g, "ReluGrad", g.y(0))}; }
Vals sigmoid_rule(Gradient& g) { return {grad(g, "SigmoidGrad", g.y(0))}; }
Vals tanh_rule(Gradient& g) { return {grad(g, "TanhGrad", g.y(0))}; }
Vals leaky_relu_rule(Gradient& g) { return {grad(g, "LeakyReluGrad", g.x(0), g.node().attributes)}; }
Vals hard_sigmoid_rule(Gradient& g) { return {grad(g, "HardSigmoidGrad", g.x(0), g.node().attributes)}; }
Vals hard_swish_rule(Gradient& g) { return {grad(g, "HardSwishGrad", g.x(0))}; }

Vals thresholded_relu_rule(Gradient& g) {
  Val above = greater(g.x(0), constant_like(g.x(0), g.node().real("alpha", 1)));
  return {select(above, g.dy(0), 0)};
}
// y' = y + alpha where x <= 0
Vals elu_rule(Gradient& g) {
  Val slope = g.y(0) + g.node().real("alpha", 1);
  return {g.dy(0) * where(positive(g.x(0)), constant_like(slope, 1), slope)};
}
constexpr double selu_alpha = 1.67326319217681884765625;
constexpr double selu_gamma = 1.05070102214813232421875;
// y' = y + gamma alpha where x <= 0
Vals selu_rule(Gradient& g) {
  double gamma = g.node().real("gamma", selu_gamma);
  Val slope = g.y(0) + gamma * g.node().real("alpha", selu_alpha);
  return {g.dy(0) * where(positive(g.x(0)), constant_like(slope, gamma), slope)};
}
// y' = y / alpha + 1 where x <= 0
Vals celu_rule(Gradient& g) {
  Val slope = g.y(0) / g.node().real("alpha", 1) + 1.0;
  return {g.dy(0) * where(positive(g.x(0)), constant_like(slope, 1), slope)};
}
Vals exp_rule(Gradient& g) { return {g.dy(0) * g.y(0)}; }
Vals log_rule(Gradient& g) { return {g.dy(0) / g.x(0)}; }
Vals sqrt_rule(Gradient& g) { return {g.dy(0) * 0.5 / g.y(0)}; }
Vals reciprocal_rule(Gradient& g) { return {-(g.dy(0) * (g.y(0) * g.y(0)))}; }
Vals abs_rule(Gradient& g) { return {g.dy(0) * sign(g.x(0))}; }
Vals neg_rule(Gradient& g) { return {-g.dy(0)}; }
// 2 / sqrt(pi) exp(-x^2)
Vals erf_rule(Gradient& g) { return {g.dy(0) * (exp(-(g.x(0) * g.x(0))) * 1.1283791670955126)}; }
Vals softplus_rule(Gradient& g) { return {g.dy(0) * sigmoid(g.x(0))}; }
Vals softsign_rule(Gradient& g) {
  Val root = abs(g.x(0)) + 1.0;
  return {g.dy(0) / (root * root)};
}
Vals sin_rule(Gradient& g) { return {g.dy(0) * call("Cos", {g.x(0)})}; }
Vals cos_rule(Gradient& g) { return {-(g.dy(0) * call("Sin", {g.x(0)}))}; }
Vals tan_rule(Gradient& g) { return {g.dy(0) * (g.y(0) * g.y(0) + 1.0)}; }
Vals asin_rule(Gradient& g) { return {g.dy(0) / sqrt(1.0 - g.x(0) * g.x(0))}; }
Vals acos_rule(Gradient& g) { return {-(g.dy(0) / sqrt(1.0 - g.x(0) * g.x(0)))}; }
Vals atan_rule(Gradient& g) { return {g.dy(0) / (g.x(0) * g.x(0) + 1.0)}; }
Vals sinh_rule(Gradient& g) { return {g.dy(0) * call("Cosh", {g.x(0)})}; }
Vals cosh_rule(Gradient& g) { return {g.dy(0) * call("Sinh", {g.x(0)})}; }
Vals asinh_rule(Gradient& g) { return {g.dy(0) / sqrt(g.x(0) * g.x(0) + 1.0)}; }
Vals acosh_rule(Gradient& g) { return {g.dy(0) / sqrt(g.x(0) * g.x(0) - 1.0)}; }
Vals atanh_rule(Gradient& g) { return {g.dy(0) / (1.0 - g.x(0) * g.x(0))}; }
// (x t)' = t + x (1 - t^2) sigmoid(x), t = tanh(softplus(x))
Vals mish_rule(Gradient& g) {
  Val t = tanh(call("Softplus", {g.x(0)}));
  return {g.dy(0) * (t + g.x(0) * ((1.0 - t * t) * sigmoid(g.x(0))))};
}
// (x s)' = s + alpha x s (1 - s), s = sigmoid(alpha x)
Vals swish_rule(Gradient& g) {
  double alpha = g.node().real("alpha", 1);
  Val s = sigmoid(g.x(0) * alpha);
  return {g.dy(0) * (s + g.x(0) * alpha * (s * (1.0 - s)))};
}

const Unary rows[] = {
    {"Relu", [](double x, double, double) { return x < 0 ? 0 : x; }, true, relu_rule},
    {"LeakyRelu", [](double x, double a, double) { return x < 0 ? a * x : x; }, true, leaky_relu_rule, {"alpha", 0.01}},
    {"ThresholdedRelu",
     [](double x, double a, double) { return x > a ? x : 0; },
     true,
     thresholded_relu_rule,
     {"alpha", 1}},
    {"Elu", [](double x, double a, double) { return x < 0 ? a * std::expm1(x) : x; }, true, elu_rule, {"alpha", 1}},
    {"Selu",
     [](double x, double a, double b) { return b * (x < 0 ? a * std::expm1(x) : x); },
     true,
     selu_rule,
     {"alpha", selu_alpha},
     {"gamma", selu_gamma}},
    {"Celu",
     [](double x, double a, double) { return x < 0 ? a * std::expm1(x / a) : x; },
     true,
     celu_rule,
     {"alpha", 1}},
    {"Sigmoid", [](double x, double, double) { return sigmoid(x); }, false, sigmoid_rule},
    {"HardSigmoid",
     [](double x, double a, double b) { return clamp01(a * x + b); },
     false,
     hard_sigmoid_rule,
     {"alpha", 0.2},
     {"beta", 0.5}},
    {"HardSwish",
     [](double x, double a, double b) { return x * clamp01(a * x + b); },
     true,
     hard_swish_rule,
     {nullptr, 1.0 / 6},
     {nullptr, 0.5}},
    {"Tanh", [](double x, double, double) { return std::tanh(x); }, true, tanh_rule},
    {"Exp", [](double x, double, double) { return std::exp(x); }, false, exp_rule},
    {"Log", [](double x, double, double) { return std::log(x); }, false, log_rule},
    {"Sqrt", [](double x, double, double) { return std::sqrt(x); }, true, sqrt_rule},
    {"Reciprocal", [](double x, double, double) { return 1 / x; }, false, reciprocal_rule},
    {"Abs", [](double x, double, double) { return std::fabs(x); }, true, abs_rule},
    {"Neg", [](double x, double, double) { return -x; }, true, neg_rule},
    {"Sign", [](double x, double, double) { return x > 0   ? 1
                                                   : x < 0 ? -1
                                                           : x; }, true, nullptr},
    {"Floor", [](double x, double, double) { return std::floor(x); }, true, nullptr},
    {"Ceil", [](double x, double, double) { return std::ceil(x); }, true, nullptr},
    {"Round", [](double x, double, double) { return std::nearbyint(x); }, true, nullptr},
    {"Erf", [](double x, double, double) { return std::erf(x); }, true, erf_rule},
    {"Softplus", [](double x, double, double) { return softplus(x); }, false, softplus_rule},
    {"Softsign", [](double x, double, double) { return x / (1 + std::fabs(x)); }, true, softsign_rule},
    {"Sin", [](double x, double, double) { return std::sin(x); }, true, sin_rule},
    {"Cos", [](double x, double, double) { return std::cos(x); }, false, cos_rule},
    {"Tan", [](double x, double, double) { return std::tan(x); }, true, tan_rule},
    {"Asin", [](double x, double, double) { return std::asin(x); }, true, asin_rule},
    {"Acos", [](double x, double, double) { return std::acos(x); }, false, acos_rule},
    {"Atan", [](double x, double, double) { return std::atan(x); }, true, atan_rule},
    {"Sinh", [](double x, double, double) { return std::sinh(x); }, true, sinh_rule},
    {"Cosh", [](double x, double, double) { return std::cosh(x); }, false, cosh_rule},
    {"Asinh", [](double x, double, double) { return std::asinh(x); }, true, asinh_rule},
    {"Acosh", [](double x, double, double) { return std::acosh(x); }, false, acosh_rule},
    {"Atanh", [](double x, double, double) { return std::atanh(x); }, true, atanh_rule},
    {"Mish", [](double x, double, double) { return x * std::tanh(softplus(x)); }, true, mish_rule},
    {"Swish", [](double x, double a, double) { return x * sigmoid(a * x); }, true, swish_rule, {"alpha", 1}},
};

const Unary& row_of(const Node& node) {
  for (const Unary& row : rows) {
    if (row.type == node.type) return row;
  }
  throw UsageError(node.where(), " is no unary operator");
}

template <class T>
Kernel prepare_scalar(const Node& node, const Binding& binding) {
  const Unary& row = row_of(node);
  auto f = row.f;
  double a = read(node, row.a);
  double b = read(node, row.b);
  const T* x = binding.in<T>(0);
  T* y = binding.out<T>(0);
  int64_t n = node.outputs[0]->layout.storage_count();
  return with_clean_padding(node, binding, row.keeps_zero, [=](Stream&) {
    parallel_for(n, 30, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(f(static_cast<double>(x[i]), a, b));
    });
  });
}

bool elementwise(const Node& node, ElementwiseStep* step) {
  UnaryLoop loop = unary_loop(node.type);
  if (!loop || !step) return loop != nullptr;
  const Unary& row = row_of(node);
  *step = {.unary = loop,
           .a = static_cast<float>(read(node, row.a)),
           .b = static_cast<float>(read(node, row.b)),
           .keeps_zero = row.keeps_zero};
  return true;
}

Kernel prepare_f32(const Node& node, const Binding& binding) {
  ElementwiseStep step;
  if (!elementwise(node, &step)) return prepare_scalar<float>(node, binding);
  const auto* x = binding.in<float>(0);
  auto* y = binding.out<float>(0);
  int64_t n = node.outputs[0]->layout.storage_count();
  return with_clean_padding(node, binding, step.keeps_zero, [=](Stream&) {
    parallel_for(n, 1,
                 [=](int64_t begin, int64_t end) { step.unary(x + begin, y + begin, end - begin, step.a, step.b); });
  });
}

// Abs, Neg, Sign, Relu and the roundings on integers: through 64-bit integers, which hold all but huge u64 exactly.
Kernel prepare_integer(const Node& node, const Binding& binding) {
  enum class Action : uint8_t { keep, abs, neg, sign, relu };
  static const std::map<std::string, Action> actions = {
      {"Abs", Action::abs}, {"Neg", Action::neg}, {"Sign", Action::sign}, {"Relu", Action::relu}};
  auto found = actions.find(node.type);
  if (found == actions.end()) throw UnsupportedError(node.where(), " has no kernel for ", node.inputs[0]->dtype);
  Action action = found->second;
  Kernel kernel;
  int64_t n = node.outputs[0]->layout.storage_count();
  visit_dtype(node.inputs[0]->dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* x = binding.in<T>(0);
    T* y = binding.out<T>(0);
    kernel = [=](Stream&) {
      for (int64_t i = 0; i < n; ++i) {
        bool negative = std::is_signed_v<T> && x[i] < T{};
        // Unsigned arithmetic: the negative of the smallest integer is itself, not undefined.
        T negated = static_cast<T>(0 - static_cast<uint64_t>(x[i]));
        switch (action) {
          case Action::abs: y[i] = negative ? negated : x[i]; break;
          case Action::neg: y[i] = negated; break;
          case Action::sign: y[i] = static_cast<T>(negative ? -1 : x[i] != T{}); break;
          case Action::relu: y[i] = negative ? T{} : x[i]; break;
          case Action::keep: y[i] = x[i]; break;
        }
      }
    };
  });
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", node.inputs[0]->dtype);
  return kernel;
}

Op make_op(const Unary& row) {
  Op op{.type = row.type,
        .cpu = {mixed_elementwise_kernel(),
                {DTypes::f32, elementwise_kernel(prepare_f32)},
                {DTypes::f64, elementwise_kernel(prepare_scalar<double>)},
                {DTypes::any, elementwise_kernel(prepare_integer)}},
        .differentiate = row.differentiate,
        .elementwise = elementwise,
        .mixed_precision = mixed_elementwise};
  if (!row.differentiate) op.gradient = GradientStatus::zero;
  return op;
}

// --- Private gradients of hot activations: dx = dy * f'(s) in one pass ---

struct ActivationGrad {
  const char* type;
  double (*f)(double dy, double s, double a, double b);
  GradientFunction differentiate;
  Parameter a = {};
  Parameter b = {};
};

// dx is linear in dy, with the same slope: the rule for dy is the operator itself. `second` is d(dx)/ds / dy.
Vals slope_rule(Gradient& g, Val second = {}) {
  Val for_dy = g.needs(0) ? call("graft", g.node().type, {g.dy(0), g.x(1)}, 1, g.node().attributes)[0] : Val{};
  return {for_dy, second && g.needs(1) ? g.dy(0) * g.x(0) * second : Val{}};
}

Vals piecewise_linear_rule(Gradient& g) { return slope_rule(g); }
// (s - s^2)' = 1 - 2 s
Vals sigmoid_grad_rule(Gradient& g) { return slope_rule(g, g.needs(1) ? 1.0 - g.x(1) * 2.0 : Val{}); }
// (1 - s^2)' = -2 s
Vals tanh_grad_rule(Gradient& g) { return slope_rule(g, g.needs(1) ? g.x(1) * -2.0 : Val{}); }
// Between the kinks x (x / 6 + 1 / 2) has the second derivative 1 / 3.
Vals hard_swish_grad_rule(Gradient& g) {
  if (!g.needs(1)) return slope_rule(g);
  Val inside = less(abs(g.x(1)), constant_like(g.x(1), 3));
  return slope_rule(g, where(inside, constant_like(g.x(1), 1.0 / 3), constant_like(g.x(1), 0)));
}

bool in_ramp(double x) { return x > 0 && x < 1; }

const ActivationGrad grad_rows[] = {
    {"ReluGrad", [](double dy, double s, double, double) { return s > 0 ? dy : 0; }, piecewise_linear_rule},
    {"LeakyReluGrad",
     [](double dy, double s, double a, double) { return s > 0 ? dy : a * dy; },
     piecewise_linear_rule,
     {"alpha", 0.01}},
    {"SigmoidGrad", [](double dy, double s, double, double) { return dy * (s * (1 - s)); }, sigmoid_grad_rule},
    {"TanhGrad", [](double dy, double s, double, double) { return dy * (1 - s * s); }, tanh_grad_rule},
    {"ClipGrad",
     [](double dy, double s, double a, double b) { return s > a && s < b ? dy : 0; },
     piecewise_linear_rule,
     {"min", -HUGE_VAL},
     {"max", HUGE_VAL}},
    {"HardSigmoidGrad",
     [](double dy, double s, double a, double b) { return in_ramp(a * s + b) ? a * dy : 0; },
     piecewise_linear_rule,
     {"alpha", 0.2},
     {"beta", 0.5}},
    {"HardSwishGrad",
     [](double dy, double s, double a, double b) {
       return dy * clamp01(a * s + b) + (in_ramp(a * s + b) ? a * s * dy : 0);
     },
     hard_swish_grad_rule,
     {nullptr, 1.0 / 6},
     {nullptr, 0.5}},
};

const ActivationGrad& grad_row_of(const Node& node) {
  for (const ActivationGrad& row : grad_rows) {
    if (row.type == node.type) return row;
  }
  throw UsageError(node.where(), " is no activation gradient");
}

bool elementwise_grad(const Node& node, ElementwiseStep* step) {
  if (!step) return true;
  const ActivationGrad& row = grad_row_of(node);
  *step = {.gradient = activation_grad_loop(node.type),
           .a = static_cast<float>(read(node, row.a)),
           .b = static_cast<float>(read(node, row.b)),
           .keeps_zero = true};
  return true;
}

Kernel prepare_grad_f32(const Node& node, const Binding& binding) {
  ElementwiseStep step;
  elementwise_grad(node, &step);
  const auto* dy = binding.in<float>(0);
  const auto* s = binding.in<float>(1);
  auto* dx = binding.out<float>(0);
  int64_t n = node.outputs[0]->layout.storage_count();
  return [=](Stream&) {
    parallel_for(n, 1, [=](int64_t begin, int64_t end) {
      step.gradient(dy + begin, s + begin, dx + begin, end - begin, step.a, step.b);
    });
  };
}

Kernel prepare_grad_f64(const Node& node, const Binding& binding) {
  const ActivationGrad& row = grad_row_of(node);
  auto f = row.f;
  double a = read(node, row.a);
  double b = read(node, row.b);
  const auto* dy = binding.in<double>(0);
  const auto* s = binding.in<double>(1);
  auto* dx = binding.out<double>(0);
  int64_t n = node.outputs[0]->layout.storage_count();
  return [=](Stream&) {
    for (int64_t i = 0; i < n; ++i) dx[i] = f(dy[i], s[i], a, b);
  };
}

void infer_as_first(Node& node) {
  node.outputs[0]->dtype = node.inputs[0]->dtype;
  node.outputs[0]->dims = node.inputs[0]->dims;
  node.outputs[0]->ranked = node.inputs[0]->ranked;
}

// --- Results of another type: Not, IsNaN, IsInf ---

bool is_inf(double x, const Node& node) {
  return std::isinf(x) && node.integer(x > 0 ? "detect_positive" : "detect_negative", 1) != 0;
}

Kernel prepare_predicate(const Node& node, const Binding& binding) {
  Kernel kernel;
  bool nan = node.type == "IsNaN";
  bool above = is_inf(HUGE_VAL, node);
  bool below = is_inf(-HUGE_VAL, node);
  int64_t n = node.outputs[0]->layout.storage_count();
  bool* y = binding.out<bool>(0);
  visit_dtype(node.inputs[0]->dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<T>) {
      const T* x = binding.in<T>(0);
      kernel = [=](Stream&) {
        for (int64_t i = 0; i < n; ++i) y[i] = nan ? std::isnan(x[i]) : std::isinf(x[i]) && (x[i] > 0 ? above : below);
      };
    }
  });
  return kernel;
}

Kernel prepare_not(const Node& node, const Binding& binding) {
  const bool* x = binding.in<bool>(0);
  bool* y = binding.out<bool>(0);
  int64_t n = node.outputs[0]->count();
  return [=](Stream&) {
    for (int64_t i = 0; i < n; ++i) y[i] = !x[i];
  };
}

}  // namespace

std::vector<Op> unary_ops() {
  std::vector<Op> ops;
  for (const Unary& row : rows) ops.push_back(make_op(row));
  for (const ActivationGrad& row : grad_rows) {
    ops.push_back({.type = row.type,
                   .domain = "graft",
                   .infer = infer_as_first,
                   .cpu = {mixed_elementwise_kernel(),
                           {DTypes::f32, elementwise_kernel(prepare_grad_f32)},
                           {DTypes::f64, elementwise_kernel(prepare_grad_f64)}},
                   .differentiate = row.differentiate,
                   .elementwise = elementwise_grad,
                   .mixed_precision = mixed_elementwise});
  }
  for (const char* type : {"IsNaN", "IsInf"}) {
    ops.push_back(
        {.type = type, .cpu = {{DTypes::f32_f64, plain_kernel(prepare_predicate)}}, .gradient = GradientStatus::zero});
  }
  ops.push_back(
      {.type = "Not", .cpu = {{DTypes::any, plain_in_place_kernel(prepare_not)}}, .gradient = GradientStatus::zero});
  return ops;
}

}  // namespace graft
