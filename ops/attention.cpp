// Scaled dot-product attention, y = softmax(scale q k^T + mask) v, as one operator. The scores of a few rows at a time
// stay in the cache; of the probabilities only what makes them again is kept, a maximum and a sum for each row, as in
// Dao et al., "FlashAttention: fast and memory-efficient exact attention with IO-awareness" (2022).
#include <algorithm>
#include <cmath>

#include "ops/attention_loops.h"
#include "ops/axes.h"
#include "ops/gemm_loops.h"
#include "ops/gradient.h"
#include "ops/slices.h"

namespace graft {
namespace {

// q (N, H, L, D), k (N, H, S, D), v (N, H, S, E), mask that broadcasts to (N, H, L, S) -> y (N, H, L, E), bytes. All
// may be without N.
enum Operand : uint8_t { in_q, in_k, in_v, in_mask };
enum Result : uint8_t { to_y, to_saved };
enum GradOperand : uint8_t { of_dy, of_q, of_k, of_v, of_saved, of_mask };
enum GradResult : uint8_t { to_dq, to_dk, to_dv, to_dmask };

constexpr size_t rank = 4;

struct Slots {
  size_t q, k, v, mask;
};
constexpr Slots forward_slots{in_q, in_k, in_v, in_mask};
constexpr Slots grad_slots{of_q, of_k, of_v, of_mask};

struct Shape {
  int64_t batch = 0, heads = 0, rows = 0, columns = 0, depth = 0, depth_v = 0;
  double scale = 1;
  size_t axes = rank;

  // The dims of a tensor with so many rows and columns for each head.
  Dims dims(int64_t of_rows, int64_t of_columns) const {
    return axes == rank ? Dims{batch, heads, of_rows, of_columns} : Dims{heads, of_rows, of_columns};
  }
  int64_t items() const { return batch * heads; }
  // Rows whose scores are under way together.
  int64_t step() const {
    constexpr int64_t floats = 1 << 15, least = 16;
    return std::min(rows, std::max(floats / std::max<int64_t>(columns, 1), least));
  }
};

Shape shape_of(const Node& node, const Slots& slots) {
  const Value &q = *node.inputs[slots.q], &k = *node.inputs[slots.k], &v = *node.inputs[slots.v];
  const size_t last = q.dims.size() - 1;
  auto fits = [&](const Value& value) {
    return (value.dims.size() == rank || value.dims.size() == rank - 1) && value.dims.size() == last + 1 &&
           value.dtype == q.dtype && std::equal(value.dims.begin(), value.dims.end() - 2, q.dims.begin());
  };
  if (!fits(q) || !fits(k) || !fits(v) || k.dims[last] != q.dims[last] || v.dims[last - 1] != k.dims[last - 1])
    throw ModelError(node.where(), " cannot attend with ", q.dims, " to ", k.dims, " and ", v.dims);
  Shape s{last == 3 ? q.dims[0] : 1, q.dims[last - 2], q.dims[last - 1], k.dims[last - 1], q.dims[last], v.dims[last],
          node.real("scale", 1),     last + 1};
  if (const Value* mask = node.input(slots.mask)) {
    const Dims scores = s.dims(s.rows, s.columns);
    bool broadcasts = mask->dims.size() <= scores.size() && mask->dtype == q.dtype;
    for (size_t d = 0; broadcasts && d < mask->dims.size(); ++d) {
      int64_t wanted = scores[scores.size() - mask->dims.size() + d];
      broadcasts = mask->dims[d] == 1 || mask->dims[d] == wanted;
    }
    if (!broadcasts) throw ModelError(node.where(), " has a mask ", mask->dims, " for scores ", scores);
  }
  return s;
}

// An operand by its four axes: strides of 0 where it is broadcast, no data where it is absent.
template <class T>
struct Operand4 {
  T* data = nullptr;
  int64_t strides[rank] = {};

  Operand4() = default;
  Operand4(const Value* value, T* address) {
    if (!value) return;
    data = address;
    const Dims& from = value->layout.strides;
    for (size_t d = 0; d < from.size(); ++d) {
      if (value->dims[d] != 1) strides[rank - from.size() + d] = from[d];
    }
  }
  T* at(int64_t n, int64_t h, int64_t row = 0) const {
    return data + n * strides[0] + h * strides[1] + row * strides[2];
  }
  MatrixView matrix(int64_t n, int64_t h, int64_t row = 0) const {
    if (!data) return {};
    return {at(n, h, row), strides[2], strides[3]};
  }
};

// What the threads share out: heads of samples.
struct Attention {
  Shape shape;
  int64_t threads = 1;
  Operand4<const float> q, k, v, mask;
  float* saved = nullptr;  // the largest score and 1 / sum of exponentials, of every row
  float* scratch = nullptr;
  int64_t per_thread = 0;

  float* largest(int64_t item, int64_t row) const { return saved + item * 2 * shape.rows + row; }
  float* inverse(int64_t item, int64_t row) const { return largest(item, row) + shape.rows; }

  GemmBlock scores(int64_t n, int64_t h, int64_t row, int64_t rows, float* s) const {
    return {.m = rows,
            .n = shape.columns,
            .k = shape.depth,
            .a = q.matrix(n, h, row),
            .b = k.matrix(n, h).transposed(),
            .start = mask.matrix(n, h, row),
            .y = s,
            .y_row = shape.columns,
            .alpha = static_cast<float>(shape.scale)};
  }

  // f(item, n, h, scratch of the thread)
  template <class F>
  void for_items(F f) const {
    for_slices(shape.items(), threads, [&](int64_t thread, int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item)
        f(item, item / shape.heads, item % shape.heads, scratch + thread * per_thread);
    });
  }
};

struct AttentionForward : Attention {
  Operand4<float> y;

  void scale_row(float* row, float factor) const {
#pragma omp simd
    for (int64_t e = 0; e < shape.depth_v; ++e) row[e] *= factor;
  }

  void operator()(Stream&) const {
    const AttentionLoops& loops = attention_loops();
    for_items([&](int64_t item, int64_t n, int64_t h, float* s) {
      float* packed = s + shape.step() * shape.columns;
      for (int64_t row = 0; row < shape.rows; row += shape.step()) {
        const int64_t rows = std::min(shape.step(), shape.rows - row);
        gemm(scores(n, h, row, rows, s), packed);
        float *maxima = largest(item, row), *inverses = inverse(item, row);
        loops.exponentials(s, rows, shape.columns, maxima, inverses);
        float* to = y.at(n, h, row);
        gemm({.m = rows,
              .n = shape.depth_v,
              .k = shape.columns,
              .a = {s, shape.columns, 1},
              .b = v.matrix(n, h),
              .y = to,
              .y_row = y.strides[2]},
             packed);
        for (int64_t r = 0; r < rows; ++r) scale_row(to + r * y.strides[2], inverses[r]);
      }
    });
  }
};

// p as forward had it;  dv = p^T dy,  dp = dy v^T,  ds = p (dp - sum of p dp),  dq = scale ds k,  dk = scale ds^T q
struct AttentionBackward : Attention {
  Operand4<const float> dy;
  Operand4<float> dq, dk, dv, dmask;

  void operator()(Stream&) const {
    const AttentionLoops& loops = attention_loops();
    for_items([&](int64_t item, int64_t n, int64_t h, float* p) {
      float* ds = p + shape.step() * shape.columns;
      float* packed = ds + shape.step() * shape.columns;
      for (int64_t row = 0; row < shape.rows; row += shape.step()) {
        const int64_t rows = std::min(shape.step(), shape.rows - row);
        const MatrixView p_rows{p, shape.columns, 1}, ds_rows{ds, shape.columns, 1};
        gemm(scores(n, h, row, rows, p), packed);
        loops.probabilities(p, rows, shape.columns, largest(item, row), inverse(item, row));
        if (dv.data)
          add(p_rows.transposed(), dy.matrix(n, h, row), shape.columns, shape.depth_v, rows, 1, dv, n, h, 0, row > 0,
              packed);
        if (!dq.data && !dk.data && !dmask.data) continue;
        gemm({.m = rows,
              .n = shape.columns,
              .k = shape.depth_v,
              .a = dy.matrix(n, h, row),
              .b = v.matrix(n, h).transposed(),
              .y = ds,
              .y_row = shape.columns},
             packed);
        loops.gradients(p, ds, rows, shape.columns);
        if (dq.data)
          add(ds_rows, k.matrix(n, h), rows, shape.depth, shape.columns, shape.scale, dq, n, h, row, false, packed);
        if (dk.data)
          add(ds_rows.transposed(), q.matrix(n, h, row), shape.columns, shape.depth, rows, shape.scale, dk, n, h, 0,
              row > 0, packed);
        if (dmask.data) std::copy_n(ds, rows * shape.columns, dmask.at(n, h, row));
      }
    });
  }

  // to = scale a b, on top of what is there where it `adds`
  static void add(const MatrixView& a, const MatrixView& b, int64_t m, int64_t n, int64_t k, double scale,
                  const Operand4<float>& to, int64_t sample, int64_t head, int64_t row, bool adds, float* packed) {
    float* y = to.at(sample, head, row);
    const MatrixView there{y, to.strides[2], to.strides[3]};
    gemm({.m = m,
          .n = n,
          .k = k,
          .a = a,
          .b = b,
          .start = adds ? there : MatrixView{},
          .y = y,
          .y_row = to.strides[2],
          .y_column = to.strides[3],
          .alpha = static_cast<float>(scale)},
         packed);
  }
};

// --- The three meetings ---

// Matrices of one scores map for each of `maps`, and what gemm wants.
int64_t scratch_floats(const Shape& s, int64_t maps) {
  return checked_add(checked_mul(maps, checked_mul(s.step(), s.columns)), gemm_scratch());
}

Settlement settle(const Shape& shape, int64_t maps) {
  Settlement settlement;
  const int64_t threads = thread_count();
  settlement.scratch_bytes = checked_mul(checked_mul(threads, scratch_floats(shape, maps)), int64_t{sizeof(float)});
  settlement.descriptor = threads;
  return settlement;
}

int64_t saved_bytes(const Shape& s) { return checked_mul(checked_mul(s.items(), s.rows), 2 * int64_t{sizeof(float)}); }

Settlement settle_forward(const Node& node, const Settlement*) {
  Shape shape = shape_of(node, forward_slots);
  Settlement settlement = settle(shape, 1);
  int64_t saved = saved_bytes(shape);
  settlement.opaque_bytes.assign(node.outputs.size(), saved);
  if (!node.output(to_saved)) settlement.scratch_bytes = checked_add(settlement.scratch_bytes, saved);
  return settlement;
}

Settlement settle_backward(const Node& node, const Settlement*) { return settle(shape_of(node, grad_slots), 2); }

// Of dims of size 1 the stride does not count, but products want one.
template <class T>
Operand4<T> operand(const Value* value, T* address) {
  Operand4<T> found(value, address);
  if (value && found.strides[3] == 0 && !value->dims.empty() && value->dims.back() == 1) found.strides[3] = 1;
  return found;
}

void bind(Attention& work, const Node& node, const Binding& binding, const Slots& slots, int64_t maps) {
  work.shape = shape_of(node, slots);
  work.threads = std::any_cast<int64_t>(binding.settlement->descriptor);
  auto in = [&](size_t slot) { return operand(node.input(slot), binding.in<float>(slot)); };
  work.q = in(slots.q);
  work.k = in(slots.k);
  work.v = in(slots.v);
  work.mask = Operand4<const float>(node.input(slots.mask), binding.in<float>(slots.mask));
  work.scratch = static_cast<float*>(binding.scratch);
  work.per_thread = scratch_floats(work.shape, maps);
}

Kernel prepare_forward(const Node& node, const Binding& binding) {
  AttentionForward work;
  bind(work, node, binding, forward_slots, 1);
  work.saved = binding.out<float>(to_saved);
  if (!work.saved) work.saved = work.scratch + work.threads * work.per_thread;
  work.y = operand(node.output(to_y), binding.out<float>(to_y));
  return work;
}

Kernel prepare_backward(const Node& node, const Binding& binding) {
  AttentionBackward work;
  bind(work, node, binding, grad_slots, 2);
  work.saved = const_cast<float*>(binding.in<float>(of_saved));
  work.dy = operand(node.input(of_dy), binding.in<float>(of_dy));
  auto out = [&](size_t slot) { return operand(node.output(slot), binding.out<float>(slot)); };
  work.dq = out(to_dq);
  work.dk = out(to_dk);
  work.dv = out(to_dv);
  work.dmask = out(to_dmask);
  return work;
}

// float64 keeps nothing.
Settlement settle_reference(const Node& node, const Settlement*) {
  Settlement settlement;
  settlement.opaque_bytes.assign(node.outputs.size(), 0);
  return settlement;
}

// Rows may lie anywhere as long as each is whole; results so that a Transpose behind them leaves them plain.
std::vector<Candidate> propose(const Node& node) {
  std::vector<Candidate> candidates = propose_plain(node);
  Candidate strided = candidates[0];
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const Value* x = node.inputs[i];
    bool is_matrix = x && !x->opaque && i != (node.type == "Attention" ? size_t{in_mask} : size_t{of_mask});
    if (is_matrix && x->layout.blocks.empty() && !x->layout.is_padded(x->dims) && x->layout.strides.back() == 1)
      strided.inputs[i] = x->layout;
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const Value* y = node.outputs[i];
    if (!y || y->opaque || i == to_dmask) continue;
    if (auto layout = layout_for_transpose(*y); layout && layout->strides.back() == 1) strided.outputs[i] = *layout;
  }
  candidates.insert(candidates.begin(), strided);
  return candidates;
}

// --- float64: plain loops over plain layouts ---

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

Kernel prepare_forward_reference(const Node& node, const Binding& binding) {
  Reference r = reference_of(node, binding, forward_slots);
  r.y = {node.output(to_y), binding.out<double>(to_y)};
  return [r](Stream&) { r.forward(); };
}

Kernel prepare_backward_reference(const Node& node, const Binding& binding) {
  Reference r = reference_of(node, binding, grad_slots);
  r.dy = {node.input(of_dy), binding.in<double>(of_dy)};
  auto out = [&](size_t slot) { return Operand4<double>(node.output(slot), binding.out<double>(slot)); };
  r.dq = out(to_dq);
  r.dk = out(to_dk);
  r.dv = out(to_dv);
  r.dmask = out(to_dmask);
  return [r](Stream&) { r.backward(); };
}

// --- Shapes and the gradient rule ---

void infer_as(Value* result, DType dtype, const Dims& dims) {
  if (!result) return;
  result->dtype = dtype;
  result->ranked = true;
  result->dims = dims;
}

void infer_forward(Node& node) {
  Shape s = shape_of(node, forward_slots);
  infer_as(node.output(to_y), node.inputs[in_q]->dtype, s.dims(s.rows, s.depth_v));
}

void infer_backward(Node& node) {
  Shape s = shape_of(node, grad_slots);
  DType dtype = node.inputs[of_q]->dtype;
  infer_as(node.output(to_dq), dtype, node.inputs[of_q]->dims);
  infer_as(node.output(to_dk), dtype, node.inputs[of_k]->dims);
  infer_as(node.output(to_dv), dtype, node.inputs[of_v]->dims);
  infer_as(node.output(to_dmask), dtype, s.dims(s.rows, s.columns));
}

Vals differentiate(Gradient& g) {
  const bool mask = g.node().input(in_mask) && g.needs(in_mask);
  Vals result(g.input_count());
  auto grads = g.grad_node(
      "AttentionGrad",
      {g.dy(to_y), g.x(in_q), g.x(in_k), g.x(in_v), g.workspace(), g.node().input(in_mask) ? g.x(in_mask) : Val{}},
      {g.needs(in_q), g.needs(in_k), g.needs(in_v), mask}, g.node().attributes);
  result[in_q] = grads[to_dq];
  result[in_k] = grads[to_dk];
  result[in_v] = grads[to_dv];
  if (mask) result[in_mask] = unbroadcast(grads[to_dmask], g.x(in_mask).dims());
  return result;
}

}  // namespace

std::vector<Op> attention_ops() {
  return {{.type = "Attention",
           .domain = "graft",
           .infer = infer_forward,
           .cpu = {{DTypes::f32, {propose, settle_forward, prepare_forward}},
                   {DTypes::f64, {propose_plain, settle_reference, prepare_forward_reference}}},
           .differentiate = differentiate},
          {.type = "AttentionGrad",
           .domain = "graft",
           .infer = infer_backward,
           .cpu = {{DTypes::f32, {propose, settle_backward, prepare_backward}},
                   {DTypes::f64, plain_kernel(prepare_backward_reference)}}}};
}

}  // namespace graft
