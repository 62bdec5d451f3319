// Clip: y = min(max(x, low), high), over storage as it lies; where low > high, y = high. Inputs: x, low, high
#include <cmath>
#include <limits>
#include <type_traits>

#include "ops/broadcast.h"
#include "ops/elementwise.h"
#include "ops/gradient.h"

namespace graft {
namespace {

// The limits as the node finds them when it runs; absent ones do not limit.
template <class T>
struct Limits {
  static constexpr T least =
      std::is_integral_v<T> ? std::numeric_limits<T>::lowest() : -std::numeric_limits<T>::infinity();
  static constexpr T greatest =
      std::is_integral_v<T> ? std::numeric_limits<T>::max() : std::numeric_limits<T>::infinity();
  const T *low_at, *high_at;

  T low() const { return low_at ? *low_at : least; }
  T high() const { return high_at ? *high_at : greatest; }
};

// The number in a scalar operand, `otherwise` where that is absent, nullopt where it is not known yet.
std::optional<double> known_limit(const Value* limit, double otherwise) {
  if (!limit) return otherwise;
  if (!limit->is_constant() || limit->count() != 1) return std::nullopt;
  return limit->data.cast(DType::f64).data<double>()[0];
}

std::pair<std::optional<double>, std::optional<double>> known_limits(const Node& node) {
  return {known_limit(node.input(1), -HUGE_VAL), known_limit(node.input(2), HUGE_VAL)};
}

bool keeps_zero(const Node& node) {
  auto [low, high] = known_limits(node);
  return low && high && *low <= 0 && *high >= 0;
}

Kernel keep_padding(const Node& node, const Binding& binding, Kernel kernel) {
  return keeps_zero(node) ? kernel : clean_padding(node, binding, std::move(kernel));
}

bool elementwise(const Node& node, ElementwiseStep* step) {
  auto [low, high] = known_limits(node);
  if (!low || !high) return false;
  if (step) {
    *step = {.unary = unary_loop("Clip"),
             .a = static_cast<float>(*low),
             .b = static_cast<float>(*high),
             .keeps_zero = keeps_zero(node)};
  }
  return true;
}

Kernel prepare_f32(const Node& node, const Binding& binding) {
  auto clip = [loop = unary_loop("Clip"), x = binding.in<float>(0), y = binding.out<float>(0),
               n = node.outputs[0]->layout.storage_count(),
               limits = Limits<float>{binding.in<float>(1), binding.in<float>(2)}](Stream&) {
    parallel_for(n, 1, [=, low = limits.low(), high = limits.high()](int64_t begin, int64_t end) {
      loop(x + begin, y + begin, end - begin, low, high);
    });
  };
  return keep_padding(node, binding, clip);
}

template <class T>
Kernel prepare_any(const Node& node, const Binding& binding) {
  auto clip = [x = binding.in<T>(0), y = binding.out<T>(0), n = node.outputs[0]->layout.storage_count(),
               limits = Limits<T>{binding.in<T>(1), binding.in<T>(2)}](Stream&) {
    parallel_for(n, 1, [=, low = limits.low(), high = limits.high()](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T raised = x[i] < low ? low : x[i];
        y[i] = raised > high ? high : raised;
      }
    });
  };
  return keep_padding(node, binding, clip);
}

Kernel prepare_other(const Node& node, const Binding& binding) {
  Kernel kernel;
  visit_dtype(node.inputs[0]->dtype, [&]<class T>(T) {
    if constexpr (!std::is_same_v<T, bool>) kernel = prepare_any<T>(node, binding);
  });
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", node.inputs[0]->dtype);
  return kernel;
}

void infer_clip(Node& node) {
  const Value* x = node.input(0);
  if (node.inputs.size() > 3 || !x) throw ModelError(node.where(), " wants data and at most two limits");
  for (size_t i : {1, 2}) {
    const Value* limit = node.input(i);
    if (limit && (limit->dtype != x->dtype || (limit->shaped() && limit->count() != 1))) {
      throw ModelError(node.where(), " has a limit ", limit->dtype, limit->dims, ": allowed is a scalar of ", x->dtype);
    }
  }
  Value* y = node.outputs.at(0);
  y->dtype = x->dtype;
  y->ranked = x->ranked;
  y->dims = x->dims;
}

Val sum_all(const Val& x, const Dims& dims) {
  std::vector<int64_t> axes;
  for (int64_t d = 0; d < x.rank(); ++d) axes.push_back(d);
  return reshape(axes.empty() ? x : sum(x, axes, false), dims);
}

Vals clip_rule(Gradient& g) {
  Vals gradients(g.input_count());
  Val x = g.x(0), dy = g.dy(0), low = g.x(1), high = g.x(2);
  auto [least, greatest] = known_limits(g.node());
  if (g.needs(0) && least && greatest) {
    gradients[0] = call("graft", "ClipGrad", {dy, x}, 1, {{"min", *least}, {"max", *greatest}})[0];
  } else if (g.needs(0)) {
    gradients[0] = dy;
    Val zero = constant_like(dy, 0);
    if (low) gradients[0] = where(greater(x, low), gradients[0], zero);
    if (high) gradients[0] = where(less(x, high), gradients[0], zero);
  }
  // A limit receives what the elements that it stands for do.
  Val above = high ? greater(low ? call("Max", {x, low}) : x, high) : Val{};
  if (g.needs(1)) {
    Val taken = where(less(x, low), dy, constant_like(dy, 0));
    gradients[1] = sum_all(above ? where(above, constant_like(dy, 0), taken) : taken, low.dims());
  }
  if (g.needs(2)) gradients[2] = sum_all(where(above, dy, constant_like(dy, 0)), high.dims());
  return gradients;
}

}  // namespace

std::vector<Op> clip_ops() {
  return {{.type = "Clip",
           .infer = infer_clip,
           .cpu = {mixed_elementwise_kernel(),
                   {DTypes::f32, elementwise_kernel(prepare_f32)},
                   {DTypes::any, elementwise_kernel(prepare_other)}},
           .differentiate = clip_rule,
           .elementwise = elementwise,
           .mixed_precision = mixed_elementwise}};
}

}  // namespace graft
