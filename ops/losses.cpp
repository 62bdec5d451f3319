// Losses that add up over elements, as rows of a table: (x, t) -> (loss_sum, weight_sum), weight_sum the element count.
#include <cmath>

#include "ops/gradient.h"

namespace graft {
namespace {

// Each row: the loss of one element, its slope in x, its slope in t. `delta` is Huber's.
// t log(1 + e^-x) + (1 - t) log(1 + e^x), without overflow
struct SigmoidCrossEntropy {
  static double loss(double x, double t, double) {
    return std::max(x, 0.0) - x * t + std::log1p(std::exp(-std::abs(x)));
  }
  static double slope(double x, double t, double) {
    double e = std::exp(-std::abs(x));
    return (x >= 0 ? 1 / (1 + e) : e / (1 + e)) - t;
  }
  static double target_slope(double x, double, double) { return -x; }
};

// (x - t)^2
struct SquaredError {
  static double loss(double x, double t, double) { return (x - t) * (x - t); }
  static double slope(double x, double t, double) { return 2 * (x - t); }
  static double target_slope(double x, double t, double) { return 2 * (t - x); }
};

// |x - t|
struct AbsoluteError {
  static double loss(double x, double t, double) { return std::abs(x - t); }
  static double slope(double x, double t, double) { return x > t ? 1 : x < t ? -1 : x - t; }
  static double target_slope(double x, double t, double) { return slope(t, x, 0); }
};

// (x - t)^2 / 2 where |x - t| <= delta, else delta (|x - t| - delta / 2)
struct HuberError {
  static double loss(double x, double t, double delta) {
    double e = std::abs(x - t);
    return e <= delta ? e * e / 2 : delta * (e - delta / 2);
  }
  static double slope(double x, double t, double delta) {
    double e = x - t;
    return e > delta ? delta : e < -delta ? -delta : e;
  }
  static double target_slope(double x, double t, double delta) { return slope(t, x, delta); }
};

constexpr int64_t piece = 4096;  // cut the same way for every number of threads, so that sums do not depend on it
constexpr int64_t cost = 16;     // of one element

int64_t pieces_of(const Node& node) { return (node.inputs[0]->count() + piece - 1) / piece; }

void set_type(Value* value, DType dtype, const Dims& dims) {
  if (!value) return;
  value->dtype = dtype;
  value->ranked = true;
  value->dims = dims;
}

void check_operands(const Node& node, size_t inputs) {
  const Value* x = node.input(0);
  const Value* t = node.input(1);
  if (node.inputs.size() != inputs || !x || !t || !is_float(x->dtype) || !x->shaped()) {
    throw ModelError(node.where(), " wants ", inputs, " inputs, a floating-point prediction first");
  }
  if (t->dtype != x->dtype || t->dims != x->dims) {
    throw ModelError(node.where(), " target is ", t->dtype, t->dims, ", wanted is the prediction's type ", x->dtype,
                     x->dims);
  }
  double delta = node.real("delta", 1);
  if (!(delta > 0)) throw ModelError(node.where(), " delta is ", delta, ", allowed is more than 0");
}

void infer_loss(Node& node) {
  check_operands(node, 2);
  set_type(node.output(0), node.inputs[0]->dtype, {});
  set_type(node.output(1), node.inputs[0]->dtype, {});
}

void infer_loss_grad(Node& node) {
  check_operands(node, 3);
  const Value* dloss = node.inputs[2];
  if (!dloss || dloss->dtype != node.inputs[0]->dtype || !dloss->dims.empty()) {
    throw ModelError(node.where(), " wants a scalar gradient");
  }
  set_type(node.output(0), node.inputs[0]->dtype, node.inputs[0]->dims);
  set_type(node.output(1), node.inputs[0]->dtype, node.inputs[0]->dims);
}

Settlement settle_loss(const Node& node, const Settlement*) {
  Settlement settlement;
  settlement.scratch_bytes = pieces_of(node) * static_cast<int64_t>(sizeof(double));
  return settlement;
}

// Targets of cross-entropy are probabilities.
template <class T>
void check_probabilities(const std::string& label, const T* t, int64_t count, int64_t each) {
  for (int64_t i = 0; i < count; ++i) {
    if (t[i] >= 0 && t[i] <= 1) continue;
    throw DataError(label, " sample ", i / each, ": label ", t[i], " is out of range: allowed 0 to 1");
  }
}

template <class Row, class T>
Kernel prepare_loss(const Node& node, const Binding& b) {
  int64_t count = node.inputs[0]->count();
  int64_t samples = node.inputs[0]->dims.empty() ? 1 : std::max<int64_t>(node.inputs[0]->dims[0], 1);
  auto* partial = static_cast<double*>(b.scratch);
  return [x = b.in<T>(0), t = b.in<T>(1), loss = b.out<T>(0), weight = b.out<T>(1), partial, count,
          pieces = pieces_of(node), each = std::max<int64_t>(count / samples, 1), label = node.where(),
          delta = node.real("delta", 1)](Stream&) {
    if constexpr (std::is_same_v<Row, SigmoidCrossEntropy>) check_probabilities(label, t, count, each);
    parallel_for(pieces, piece * cost, [=](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        double sum = 0;
        for (int64_t i = p * piece; i < std::min(count, (p + 1) * piece); ++i) {
          sum += Row::loss(static_cast<double>(x[i]), static_cast<double>(t[i]), delta);
        }
        partial[p] = sum;
      }
    });
    double total = 0;
    for (int64_t p = 0; p < pieces; ++p) total += partial[p];
    if (loss) *loss = static_cast<T>(total);
    if (weight) *weight = static_cast<T>(count);
  };
}

// dx = dloss * slope(x, t); dt = dloss * target_slope(x, t)
template <class Row, class T>
Kernel prepare_loss_grad(const Node& node, const Binding& b) {
  return [x = b.in<T>(0), t = b.in<T>(1), dloss = b.in<T>(2), dx = b.out<T>(0), dt = b.out<T>(1),
          count = node.inputs[0]->count(), delta = node.real("delta", 1)](Stream&) {
    auto seed = static_cast<double>(*dloss);
    parallel_for(count, cost, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        auto at = static_cast<double>(x[i]);
        auto target = static_cast<double>(t[i]);
        if (dx) dx[i] = static_cast<T>(seed * Row::slope(at, target, delta));
        if (dt) dt[i] = static_cast<T>(seed * Row::target_slope(at, target, delta));
      }
    });
  };
}

Vals differentiate_loss(Gradient& g) {
  if (!g.dy(0)) return Vals(2);
  auto grads = g.grad_node(g.node().type + "Grad", {g.x(0), g.x(1), g.dy(0)}, 2, g.node().attributes);
  Vals results(2);
  for (size_t i = 0; i < 2; ++i) {
    if (g.needs(i)) results[i] = grads[i];
  }
  return results;
}

template <class Row>
void add_rows(std::vector<Op>& ops, const std::string& type) {
  ops.push_back({.type = type,
                 .domain = "graft",
                 .infer = infer_loss,
                 .cpu = {{DTypes::f32, {propose_plain, settle_loss, prepare_loss<Row, float>}},
                         {DTypes::f64, {propose_plain, settle_loss, prepare_loss<Row, double>}}},
                 .differentiate = differentiate_loss});
  ops.push_back({.type = type + "Grad",
                 .domain = "graft",
                 .infer = infer_loss_grad,
                 .cpu = {{DTypes::f32, plain_kernel(prepare_loss_grad<Row, float>)},
                         {DTypes::f64, plain_kernel(prepare_loss_grad<Row, double>)}}});
}

}  // namespace

std::vector<Op> losses_ops() {
  std::vector<Op> ops;
  add_rows<SigmoidCrossEntropy>(ops, "SigmoidCrossEntropy");
  add_rows<SquaredError>(ops, "SquaredError");
  add_rows<AbsoluteError>(ops, "AbsoluteError");
  add_rows<HuberError>(ops, "HuberError");
  return ops;
}

}  // namespace graft
