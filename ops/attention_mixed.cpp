// Attention with matrices in bfloat16: all sums, scores, exponentials and what is left for backward are float32.
#include "ops/attention.h"
#include "ops/attention_loops.h"
#include "ops/bfloat16_gemm.h"

namespace graft::attention {
namespace {

LowMatrix matrix(const Operand4<const BFloat16>& x, int64_t n, int64_t h, int64_t row = 0) {
  return {x.at(n, h, row), x.strides[2], x.strides[3]};
}

// A thread's scratch, piece by piece. Without memory it counts.
class Pieces {
 public:
  explicit Pieces(float* at) : at_(at) {}

  float* floats(int64_t rows, int64_t columns) { return take(checked_mul(rows, columns)); }
  BFloat16* low(int64_t rows, int64_t columns) {
    return reinterpret_cast<BFloat16*>(take(checked_add(checked_mul(rows, columns), 1) / 2));
  }
  int64_t count() const { return count_; }

 private:
  float* take(int64_t floats) {
    constexpr int64_t line = 16;
    float* piece = at_ ? at_ + count_ : nullptr;
    count_ = checked_add(count_, checked_add(floats, line - 1) / line * line);
    return piece;
  }

  float* at_;
  int64_t count_ = 0;
};

struct Scratch {
  Scratch(const Shape& s, float* at, bool backward) : pieces(at) {
    const int64_t rows = s.step(), deep = std::max(s.depth, s.depth_v);
    gaps = pieces.floats(1, s.columns);
    scores = pieces.floats(rows, s.columns);
    weights = pieces.low(rows, s.columns);
    of_rows = pieces.floats(rows, deep);
    int64_t products =
        std::max({low_gemm_scratch(rows, s.columns, s.depth), low_gemm_scratch(rows, s.depth_v, s.columns)});
    if (backward) {
      gradients = pieces.floats(rows, s.columns);
      dk = pieces.floats(s.columns, s.depth);
      dv = pieces.floats(s.columns, s.depth_v);
      products = std::max({products, low_gemm_scratch(rows, s.columns, s.depth_v),
                           low_gemm_scratch(rows, s.depth, s.columns), low_gemm_scratch(s.columns, deep, rows)});
    }
    packed = pieces.floats(products, 1);
  }

  Pieces pieces;
  float* gaps;                          // of the mask
  float *scores, *gradients = nullptr;  // of the rows under way
  BFloat16* weights;                    // what is multiplied with v, q, k or dy: p or ds
  float* of_rows;                       // y or dq
  float *dk = nullptr, *dv = nullptr;   // sums over all rows
  float* packed;
};

int64_t scratch_floats(const Shape& shape, bool backward) { return Scratch(shape, nullptr, backward).pieces.count(); }

struct Mixed : Work<BFloat16> {
  using Work::Work;

  // y = a b^T: some rows against some columns, whose vectors are `depth` long.
  static void multiply_columns(const LowMatrix& a, const LowMatrix& b, int64_t rows, int64_t columns, int64_t depth,
                               float* y, const Scratch& s) {
    low_gemm({.m = rows, .n = columns, .k = depth, .a = a, .b = b.transposed(), .y = y, .y_row = columns}, s.packed);
  }

  ScoreRows scores(int64_t n, int64_t h, int64_t row, int64_t rows, Range keys, const Scratch& to) const {
    multiply_columns(matrix(q, n, h, row), matrix(k, n, h, keys.begin), rows, keys.count(), shape.depth, to.scores, to);
    return {.s = to.scores,
            .rows = rows,
            .columns = keys.count(),
            .scale = static_cast<float>(shape.scale),
            .mask = mask.data ? mask.at(n, h, row) + keys.begin * mask.strides[3] : nullptr,
            .mask_row = mask.strides[2],
            .mask_column = mask.strides[3]};
  }
};

// y = factor x
void round_all(const float* x, int64_t rows, int64_t columns, double factor, BFloat16* y, int64_t y_row) {
  const auto one = static_cast<float>(factor);
  attention_loops().round(x, rows, columns, &one, 0, y, y_row);
}

struct Forward : Mixed {
  Operand4<BFloat16> y;

  void operator()(Stream&) const {
    const AttentionLoops& loops = attention_loops();
    for_items([&](int64_t item, int64_t n, int64_t h, float* floats) {
      const Scratch s(shape, floats, false);
      for (int64_t row = 0; row < shape.rows; row += shape.step()) {
        const int64_t rows = std::min(shape.step(), shape.rows - row);
        const Range keys = seen_keys(n, h, {row, row + rows}, s.gaps);
        loops.low_exponentials(scores(n, h, row, rows, keys, s), s.weights, largest(item, row), inverse(item, row));
        low_gemm({.m = rows,
                  .n = shape.depth_v,
                  .k = keys.count(),
                  .a = {s.weights, keys.count(), 1},
                  .b = matrix(v, n, h, keys.begin),
                  .y = s.of_rows,
                  .y_row = shape.depth_v},
                 s.packed);
        loops.round(s.of_rows, rows, shape.depth_v, inverse(item, row), 1, y.at(n, h, row), y.strides[2]);
      }
    });
  }
};

// p as forward had it;  dv = p^T dy,  dp = dy v^T,  ds = p (dp - sum of p dp),  dq = scale ds k,  dk = scale ds^T q
struct Backward : Mixed {
  Operand4<const BFloat16> dy;
  Operand4<BFloat16> dq, dk, dv;
  Operand4<float> dmask;

  void operator()(Stream&) const {
    for_items([&](int64_t item, int64_t n, int64_t h, float* floats) {
      const Scratch s(shape, floats, true);
      std::fill_n(s.dk, shape.columns * shape.depth, 0.0F);
      std::fill_n(s.dv, shape.columns * shape.depth_v, 0.0F);
      const Range wanted = rows_with_gradient(dy, n, h);
      for (int64_t row = 0; dq.data && row < shape.rows; ++row) {
        if (row < wanted.begin || row >= wanted.end) std::fill_n(dq.at(n, h, row), shape.depth, BFloat16{});
      }
      for (int64_t row = wanted.begin; row < wanted.end; row += shape.step())
        give_rows(item, n, h, row, std::min(shape.step(), wanted.end - row), s);
      if (dk.data) round_all(s.dk, shape.columns, shape.depth, shape.scale, dk.at(n, h), dk.strides[2]);
      if (dv.data) round_all(s.dv, shape.columns, shape.depth_v, 1, dv.at(n, h), dv.strides[2]);
    });
  }

  void give_rows(int64_t item, int64_t n, int64_t h, int64_t row, int64_t rows, const Scratch& s) const {
    const AttentionLoops& loops = attention_loops();
    const Range keys = seen_keys(n, h, {row, row + rows}, s.gaps);
    const LowMatrix weights{s.weights, keys.count(), 1};
    loops.probabilities(scores(n, h, row, rows, keys, s), s.scores, largest(item, row), inverse(item, row));
    if (dv.data) {
      round_all(s.scores, rows, keys.count(), 1, s.weights, keys.count());
      add_rows(weights.transposed(), matrix(dy, n, h, row), rows, shape.depth_v, keys, s.dv, s);
    }
    if (!dq.data && !dk.data && !dmask.data) return;
    multiply_columns(matrix(dy, n, h, row), matrix(v, n, h, keys.begin), rows, keys.count(), shape.depth_v, s.gradients,
                     s);
    loops.gradients(s.scores, s.gradients, rows, keys.count());
    if (dmask.data) std::copy_n(s.gradients, rows * shape.columns, dmask.at(n, h, row));
    round_all(s.gradients, rows, keys.count(), 1, s.weights, keys.count());
    if (dk.data) add_rows(weights.transposed(), matrix(q, n, h, row), rows, shape.depth, keys, s.dk, s);
    if (!dq.data) return;
    low_gemm({.m = rows,
              .n = shape.depth,
              .k = keys.count(),
              .a = weights,
              .b = matrix(k, n, h, keys.begin),
              .y = s.of_rows,
              .y_row = shape.depth},
             s.packed);
    round_all(s.of_rows, rows, shape.depth, shape.scale, dq.at(n, h, row), dq.strides[2]);
  }

  // A sum over rows of which these are some, for some keys.
  static void add_rows(const LowMatrix& a, const LowMatrix& b, int64_t rows, int64_t width, Range keys, float* sums,
                       const Scratch& s) {
    low_gemm({.m = keys.count(),
              .n = width,
              .k = rows,
              .a = a,
              .b = b,
              .y = sums + keys.begin * width,
              .y_row = width,
              .adds = true},
             s.packed);
  }
};

Settlement settle_mixed_forward(const Node& node, const Settlement*) {
  Shape shape = shape_of(node, forward_slots);
  return settle_forward(node, shape, scratch_floats(shape, false));
}

Settlement settle_mixed_backward(const Node& node, const Settlement*) {
  return settle_backward(scratch_floats(shape_of(node, grad_slots), true));
}

Kernel prepare_forward(const Node& node, const Binding& binding) {
  Forward work{{node, binding, forward_slots, scratch_floats(shape_of(node, forward_slots), false)}};
  work.saved = saved_of_forward(work, binding);
  work.y = operand(node.output(to_y), binding.out<BFloat16>(to_y));
  return work;
}

Kernel prepare_backward(const Node& node, const Binding& binding) {
  Backward work{{node, binding, grad_slots, scratch_floats(shape_of(node, grad_slots), true)}};
  work.saved = const_cast<float*>(binding.in<float>(of_saved));
  work.dy = operand(node.input(of_dy), binding.in<BFloat16>(of_dy));
  auto out = [&](size_t slot) { return operand(node.output(slot), binding.out<BFloat16>(slot)); };
  work.dq = out(to_dq);
  work.dk = out(to_dk);
  work.dv = out(to_dv);
  work.dmask = operand(node.output(to_dmask), binding.out<float>(to_dmask));
  work.skips = work.skips && !work.dmask.data;
  return work;
}

}  // namespace

KernelFunctions mixed_forward() { return {nullptr, settle_mixed_forward, prepare_forward}; }
KernelFunctions mixed_backward() { return {nullptr, settle_mixed_backward, prepare_backward}; }

}  // namespace graft::attention
