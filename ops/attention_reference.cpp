// Attention in float64: plain loops over plain layouts.
#include <cmath>

#include "ops/attention.h"

namespace graft::attention {
namespace {

struct Reference {
  Shape shape;
  Operand4<const double> q, k, v, mask, dy;
  Operand4<double> y, dq, dk, dv, dmask;

  void probabilities(int64_t n, int64_t h, int64_t row, std::vector<double>& p) const {
    double largest = -HUGE_VAL, sum = 0;
    for (int64_t c = 0; c < shape.columns; ++c) {
      double dot = 0;
      for (int64_t d = 0; d < shape.depth; ++d) dot += q.at(n, h, row)[d] * k.at(n, h, c)[d];
      p[static_cast<size_t>(c)] = shape.scale * dot + (mask.data ? mask.at(n, h, row)[c * mask.strides[3]] : 0);
      largest = std::max(largest, p[static_cast<size_t>(c)]);
    }
    for (double& value : p) sum += value = std::exp(value - largest);
    for (double& value : p) value /= sum;
  }

  template <class F>
  void for_rows(F f) const {
    parallel_for(shape.items(), shape.rows * shape.columns * shape.depth, [&](int64_t begin, int64_t end) {
      std::vector<double> p(static_cast<size_t>(shape.columns));
      for (int64_t item = begin; item < end; ++item) {
        for (int64_t row = 0; row < shape.rows; ++row) {
          const int64_t n = item / shape.heads, h = item % shape.heads;
          probabilities(n, h, row, p);
          f(n, h, row, p);
        }
      }
    });
  }

  void forward() const {
    for_rows([&](int64_t n, int64_t h, int64_t row, const std::vector<double>& p) {
      double* to = y.at(n, h, row);
      std::fill_n(to, shape.depth_v, 0.0);
      for (int64_t c = 0; c < shape.columns; ++c) {
        for (int64_t e = 0; e < shape.depth_v; ++e) to[e] += p[static_cast<size_t>(c)] * v.at(n, h, c)[e];
      }
    });
  }

  void backward() const {
    for_rows([&](int64_t n, int64_t h, int64_t row, const std::vector<double>& p) {
      std::vector<double> ds(p.size());
      double mean = 0;
      for (int64_t c = 0; c < shape.columns; ++c) {
        double& dp = ds[static_cast<size_t>(c)];
        for (int64_t e = 0; e < shape.depth_v; ++e) dp += dy.at(n, h, row)[e] * v.at(n, h, c)[e];
        mean += p[static_cast<size_t>(c)] * dp;
      }
      for (int64_t d = 0; dq.data && d < shape.depth; ++d) dq.at(n, h, row)[d] = 0;
      for (int64_t c = 0; c < shape.columns; ++c) {
        const double weight = p[static_cast<size_t>(c)], gradient = weight * (ds[static_cast<size_t>(c)] - mean);
        auto add = [&](double* to, double factor, const double* from, int64_t count) {
          for (int64_t d = 0; d < count; ++d) to[d] = (row == 0 ? 0 : to[d]) + factor * from[d];
        };
        if (dv.data) add(dv.at(n, h, c), weight, dy.at(n, h, row), shape.depth_v);
        if (dk.data) add(dk.at(n, h, c), shape.scale * gradient, q.at(n, h, row), shape.depth);
        for (int64_t d = 0; dq.data && d < shape.depth; ++d)
          dq.at(n, h, row)[d] += shape.scale * gradient * k.at(n, h, c)[d];
        if (dmask.data) dmask.at(n, h, row)[c] = gradient;
      }
    });
  }
};

Reference reference_of(const Node& node, const Binding& binding, const Slots& slots) {
  Reference r;
  r.shape = shape_of(node, slots);
  auto in = [&](size_t slot) { return Operand4<const double>(node.input(slot), binding.in<double>(slot)); };
  r.q = in(slots.q);
  r.k = in(slots.k);
  r.v = in(slots.v);
  r.mask = in(slots.mask);
  return r;
}

Kernel prepare_forward(const Node& node, const Binding& binding) {
  Reference r = reference_of(node, binding, forward_slots);
  r.y = {node.output(to_y), binding.out<double>(to_y)};
  return [r](Stream&) { r.forward(); };
}

Kernel prepare_backward(const Node& node, const Binding& binding) {
  Reference r = reference_of(node, binding, grad_slots);
  r.dy = {node.input(of_dy), binding.in<double>(of_dy)};
  auto out = [&](size_t slot) { return Operand4<double>(node.output(slot), binding.out<double>(slot)); };
  r.dq = out(to_dq);
  r.dk = out(to_dk);
  r.dv = out(to_dv);
  r.dmask = out(to_dmask);
  return [r](Stream&) { r.backward(); };
}

// Keeps nothing.
Settlement settle(const Node& node, const Settlement*) {
  Settlement settlement;
  settlement.opaque_bytes.assign(node.outputs.size(), 0);
  return settlement;
}

}  // namespace

KernelFunctions reference_forward() { return {propose_plain, settle, prepare_forward}; }
KernelFunctions reference_backward() { return plain_kernel(prepare_backward); }

}  // namespace graft::attention
