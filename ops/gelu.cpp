// Gelu over storage as it lies: f(0) = 0 keeps padding zero.
#include <cmath>

#include "ops/elementwise.h"
#include "ops/gradient.h"

namespace graft {
namespace {

constexpr double inverse_sqrt2 = 0.70710678118654752440;
constexpr double inverse_sqrt_2pi = 0.39894228040143267794;
constexpr double sqrt_2_over_pi = 0.79788456080286535588;
constexpr double cubic = 0.044715;
constexpr int64_t cost = 4;  // of an element

bool is_tanh(const Node& node) {
  std::string form = node.text("approximate", "none");
  if (form != "none" && form != "tanh")
    throw ModelError(node.where(), " approximate is \"", form, "\", allowed are none and tanh");
  return form == "tanh";
}

bool elementwise(const Node& node, ElementwiseStep* step) {
  if (step) *step = {.unary = unary_loop(is_tanh(node) ? "GeluTanh" : "Gelu"), .keeps_zero = true};
  return true;
}

bool elementwise_grad(const Node& node, ElementwiseStep* step) {
  if (step) *step = {.gradient = activation_grad_loop(is_tanh(node) ? "GeluTanhGrad" : "GeluGrad"), .keeps_zero = true};
  return true;
}

// y = x/2 (1 + erf(x / sqrt 2)), or with tanh y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
Kernel prepare_f32(const Node& node, const Binding& b) {
  ElementwiseStep step;
  elementwise(node, &step);
  return [loop = step.unary, x = b.in<float>(0), y = b.out<float>(0),
          count = node.inputs[0]->layout.storage_count()](Stream&) {
    parallel_for(count, cost, [&](int64_t begin, int64_t end) { loop(x + begin, y + begin, end - begin, 0, 0); });
  };
}

Kernel prepare_grad_f32(const Node& node, const Binding& b) {
  ElementwiseStep step;
  elementwise_grad(node, &step);
  return [loop = step.gradient, dy = b.in<float>(0), x = b.in<float>(1), dx = b.out<float>(0),
          count = node.inputs[0]->layout.storage_count()](Stream&) {
    parallel_for(count, cost,
                 [&](int64_t begin, int64_t end) { loop(dy + begin, x + begin, dx + begin, end - begin, 0, 0); });
  };
}

double gelu(double x, bool by_tanh) {
  double inner = by_tanh ? std::tanh(sqrt_2_over_pi * (x + cubic * x * x * x)) : std::erf(x * inverse_sqrt2);
  return 0.5 * x * (1 + inner);
}

double gelu_slope(double x, bool by_tanh) {
  if (!by_tanh) return 0.5 * (1 + std::erf(x * inverse_sqrt2)) + x * inverse_sqrt_2pi * std::exp(-0.5 * x * x);
  double t = std::tanh(sqrt_2_over_pi * (x + cubic * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt_2_over_pi * (1 + 3 * cubic * x * x);
}

Kernel prepare_f64(const Node& node, const Binding& b) {
  return [x = b.in<double>(0), y = b.out<double>(0), count = node.inputs[0]->layout.storage_count(),
          by_tanh = is_tanh(node)](Stream&) {
    for (int64_t i = 0; i < count; ++i) y[i] = gelu(x[i], by_tanh);
  };
}

Kernel prepare_grad_f64(const Node& node, const Binding& b) {
  return [dy = b.in<double>(0), x = b.in<double>(1), dx = b.out<double>(0),
          count = node.inputs[0]->layout.storage_count(), by_tanh = is_tanh(node)](Stream&) {
    for (int64_t i = 0; i < count; ++i) dx[i] = dy[i] * gelu_slope(x[i], by_tanh);
  };
}

// (dy, x) -> dx
void infer_grad(Node& node) {
  const Value* dy = node.input(0);
  const Value* x = node.input(1);
  if (node.inputs.size() != 2 || !dy || !x || !is_float(x->dtype) || dy->dtype != x->dtype || dy->dims != x->dims) {
    throw ModelError(node.where(), " wants dy and x of one floating-point type");
  }
  is_tanh(node);
  node.outputs[0]->dtype = x->dtype;
  node.outputs[0]->ranked = true;
  node.outputs[0]->dims = x->dims;
}

Vals differentiate_gelu(Gradient& g) {
  return {call("graft", "GeluGrad", {g.dy(0), g.x(0)}, 1, g.node().attributes)[0]};
}

// The second derivative as arithmetic: d(dy f'(x))/dx = dy f''(x)
// erf: f'' = (2 - x^2) phi(x); tanh is left out, since nothing asks for it twice.
Vals differentiate_gelu_grad(Gradient& g) {
  Vals gradients(2);
  if (g.needs(0)) gradients[0] = call("graft", "GeluGrad", {g.dy(0), g.x(1)}, 1, g.node().attributes)[0];
  if (g.needs(1)) {
    if (is_tanh(g.node())) throw UnsupportedError(g.node().where(), " has no second derivative for the tanh form");
    Val x = g.x(1);
    Val density = exp(x * x * -0.5) * inverse_sqrt_2pi;
    gradients[1] = g.dy(0) * g.x(0) * density * (2.0 - x * x);
  }
  return gradients;
}

}  // namespace

std::vector<Op> gelu_ops() {
  return {
      {.type = "Gelu",
       .cpu = {mixed_elementwise_kernel(),
               {DTypes::f32, elementwise_kernel(prepare_f32)},
               {DTypes::f64, elementwise_kernel(prepare_f64)}},
       .differentiate = differentiate_gelu,
       .elementwise = elementwise,
       .mixed_precision = mixed_elementwise},
      {.type = "GeluGrad",
       .domain = "graft",
       .infer = infer_grad,
       .cpu = {mixed_elementwise_kernel(),
               {DTypes::f32, elementwise_kernel(prepare_grad_f32)},
               {DTypes::f64, elementwise_kernel(prepare_grad_f64)}},
       .differentiate = differentiate_gelu_grad,
       .elementwise = elementwise_grad,
       .mixed_precision = mixed_elementwise},
  };
}

}  // namespace graft
