// Scaled dot-product attention, y = softmax(scale q k^T + mask) v, as one operator. The scores of a few rows at a time
// stay in the cache; of the probabilities only what makes them again is kept, a maximum and a sum for each row, as in
// Dao et al., "FlashAttention: fast and memory-efficient exact attention with IO-awareness" (2022).
#include "ops/attention.h"

#include <algorithm>
#include <limits>

#include "ops/attention_loops.h"
#include "ops/gemm_loops.h"
#include "ops/gradient.h"

namespace graft {
namespace attention {

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
    const DType mask_dtype = q.dtype == DType::bf16 ? DType::f32 : q.dtype;
    bool broadcasts = mask->dims.size() <= scores.size() && mask->dtype == mask_dtype;
    for (size_t d = 0; broadcasts && d < mask->dims.size(); ++d) {
      int64_t wanted = scores[scores.size() - mask->dims.size() + d];
      broadcasts = mask->dims[d] == 1 || mask->dims[d] == wanted;
    }
    if (!broadcasts) throw ModelError(node.where(), " has a mask ", mask->dims, " for scores ", scores);
  }
  return s;
}

int64_t saved_bytes(const Shape& shape) {
  return checked_mul(checked_mul(shape.items(), shape.rows), 2 * int64_t{sizeof(float)});
}

Range seen_columns(const Operand4<const float>& mask, int64_t n, int64_t h, Range rows, int64_t columns, float least,
                   float* gaps) {
  const float* first = mask.at(n, h, rows.begin);
  const int64_t best = std::max_element(first, first + columns) - first;
  std::fill_n(gaps, columns, -std::numeric_limits<float>::infinity());
  // What is no number is seen, and so is everything in a row that does not see `best`.
  const AttentionLoops& loops = attention_loops();
  loops.raise(first, 1, 0, best, 0, columns, gaps);
  Range seen{0, columns};
  while (seen.begin < best && gaps[seen.begin] < -least) ++seen.begin;
  while (seen.end > best + 1 && gaps[seen.end - 1] < -least) --seen.end;
  if (mask.strides[2] == 0 || rows.count() == 1) return seen;
  const float* others = mask.at(n, h, rows.begin + 1);
  loops.raise(others, rows.count() - 1, mask.strides[2], best, 0, seen.begin, gaps);
  loops.raise(others, rows.count() - 1, mask.strides[2], best, seen.end, columns, gaps);
  return seen;
}

Settlement settle_backward(int64_t floats) {
  Settlement settlement;
  const int64_t threads = thread_count();
  settlement.scratch_bytes = checked_mul(checked_mul(threads, floats), int64_t{sizeof(float)});
  settlement.descriptor = threads;
  return settlement;
}

Settlement settle_forward(const Node& node, const Shape& shape, int64_t floats) {
  Settlement settlement = settle_backward(floats);
  int64_t saved = saved_bytes(shape);
  settlement.opaque_bytes.assign(node.outputs.size(), saved);
  if (!node.output(to_saved)) settlement.scratch_bytes = checked_add(settlement.scratch_bytes, saved);
  return settlement;
}

namespace {

// --- float32 ---

MatrixView matrix(const Operand4<const float>& x, int64_t n, int64_t h, int64_t row = 0) {
  if (!x.data) return {};
  return {x.at(n, h, row), x.strides[2], x.strides[3]};
}

struct Float : Work<float> {
  using Work::Work;
  Operand4<const float> dy;  // in backward

  // f(row, rows), a few at a time.
  template <class F>
  static void for_some_rows(int64_t rows, F f) {
    constexpr int64_t few = 4;
    for (int64_t r = 0; r < rows; r += few) f(r, std::min(few, rows - r));
  }

  // Asks for the part of the thread's next item that answers to these rows. Rows of a head lie apart in memory, so that
  // the processor does not see them coming; little by little they arrive while scores are worked on.
  void fetch_next(int64_t item, int64_t row, int64_t rows) const {
    constexpr int64_t most = 1 << 16;  // floats of an item that the cache holds next to the one under way
    const int64_t next = item + threads;
    if (next >= shape.items() || (2 * shape.rows + 2 * shape.columns) * std::max(shape.depth, shape.depth_v) > most)
      return;
    const int64_t n = next / shape.heads, h = next % shape.heads, end = row + rows;
    const int64_t key = row * shape.columns / shape.rows, keys_end = end * shape.columns / shape.rows;
    fetch(q, n, h, row, end, shape.depth);
    fetch(k, n, h, key, keys_end, shape.depth);
    fetch(v, n, h, key, keys_end, shape.depth_v);
    if (dy.data) fetch(dy, n, h, row, end, shape.depth_v);
  }

  static void fetch(const Operand4<const float>& x, int64_t n, int64_t h, int64_t row, int64_t end, int64_t columns) {
    constexpr int64_t line = 64 / sizeof(float);
    for (; row < end; ++row) {
      const float* at = x.at(n, h, row);
      for (int64_t c = 0; c < columns; c += line) __builtin_prefetch(at + c, 0, 2);
    }
  }

  GemmBlock scores(int64_t n, int64_t h, int64_t row, int64_t rows, Range keys, float* s) const {
    return {.m = rows,
            .n = keys.count(),
            .k = shape.depth,
            .a = matrix(q, n, h, row),
            .b = matrix(k, n, h, keys.begin).transposed(),
            .start = matrix(mask, n, h, row).from(0, keys.begin),
            .y = s,
            .y_row = keys.count(),
            .alpha = static_cast<float>(shape.scale),
            .whole_m = shape.rows,
            .whole_n = shape.columns};
  }
};

struct Forward : Float {
  Operand4<float> y;

  void scale_row(float* row, float factor) const {
#pragma omp simd
    for (int64_t e = 0; e < shape.depth_v; ++e) row[e] *= factor;
  }

  void operator()(Stream&) const {
    const AttentionLoops& loops = attention_loops();
    for_items([&](int64_t item, int64_t n, int64_t h, float* gaps) {
      float* s = gaps + shape.columns;
      float* packed = s + shape.step() * shape.columns;
      for (int64_t row = 0; row < shape.rows; row += shape.step()) {
        const int64_t rows = std::min(shape.step(), shape.rows - row);
        const Range keys = seen_keys(n, h, {row, row + rows}, gaps);
        gemm(scores(n, h, row, rows, keys, s), packed);
        float* inverses = inverse(item, row);
        for_some_rows(rows, [&](int64_t r, int64_t some) {
          float* at = s + r * keys.count();
          loops.exponentials({at, some, keys.count()}, at, largest(item, row + r), inverses + r);
          fetch_next(item, row + r, some);
        });
        float* to = y.at(n, h, row);
        gemm({.m = rows,
              .n = shape.depth_v,
              .k = keys.count(),
              .a = {s, keys.count(), 1},
              .b = matrix(v, n, h, keys.begin),
              .y = to,
              .y_row = y.strides[2]},
             packed);
        for (int64_t r = 0; r < rows; ++r) scale_row(to + r * y.strides[2], inverses[r]);
      }
    });
  }
};

// p as forward had it;  dv = p^T dy,  dp = dy v^T,  ds = p (dp - sum of p dp),  dq = scale ds k,  dk = scale ds^T q
struct Backward : Float {
  Operand4<float> dq, dk, dv, dmask;

  void operator()(Stream&) const {
    for_items([&](int64_t item, int64_t n, int64_t h, float* gaps) {
      const Range wanted = rows_with_gradient(dy, n, h);
      if (wanted.count() < shape.rows) clear(dq, n, h, shape.rows, shape.depth);
      bool adds = false;  // to what is in dk and dv; the first rows that see all keys need nothing there
      for (int64_t row = wanted.begin; row < wanted.end; row += shape.step()) {
        const int64_t rows = std::min(shape.step(), wanted.end - row);
        const Range keys = seen_keys(n, h, {row, row + rows}, gaps);
        if (!adds && keys.count() < shape.columns) adds = clear_sums(n, h);
        give_rows(item, n, h, row, rows, keys, adds, gaps + shape.columns);
        adds = true;
      }
      if (!adds) clear_sums(n, h);
    });
  }

  void give_rows(int64_t item, int64_t n, int64_t h, int64_t row, int64_t rows, Range keys, bool adds,
                 float* floats) const {
    const AttentionLoops& loops = attention_loops();
    float *p = floats, *ds = p + shape.step() * shape.columns, *packed = ds + shape.step() * shape.columns;
    const MatrixView p_rows{p, keys.count(), 1}, ds_rows{ds, keys.count(), 1};
    gemm(scores(n, h, row, rows, keys, p), packed);
    for_some_rows(rows, [&](int64_t r, int64_t some) {
      float* at = p + r * keys.count();
      loops.probabilities({at, some, keys.count()}, at, largest(item, row + r), inverse(item, row + r));
      fetch_next(item, row + r, some);
    });
    if (dv.data)
      put(p_rows.transposed(), matrix(dy, n, h, row), keys.count(), shape.depth_v, rows, 1, dv, n, h, keys.begin, adds,
          packed);
    if (!dq.data && !dk.data && !dmask.data) return;
    gemm({.m = rows,
          .n = keys.count(),
          .k = shape.depth_v,
          .a = matrix(dy, n, h, row),
          .b = matrix(v, n, h, keys.begin).transposed(),
          .y = ds,
          .y_row = keys.count(),
          .whole_m = shape.rows,
          .whole_n = shape.columns},
         packed);
    loops.gradients(p, ds, rows, keys.count());
    if (dq.data)
      put(ds_rows, matrix(k, n, h, keys.begin), rows, shape.depth, keys.count(), shape.scale, dq, n, h, row, false,
          packed);
    if (dk.data)
      put(ds_rows.transposed(), matrix(q, n, h, row), keys.count(), shape.depth, rows, shape.scale, dk, n, h,
          keys.begin, adds, packed);
    if (dmask.data) std::copy_n(ds, rows * shape.columns, dmask.at(n, h, row));
  }

  bool clear_sums(int64_t n, int64_t h) const {
    clear(dk, n, h, shape.columns, shape.depth);
    clear(dv, n, h, shape.columns, shape.depth_v);
    return true;
  }

  static void clear(const Operand4<float>& to, int64_t n, int64_t h, int64_t rows, int64_t columns) {
    for (int64_t row = 0; to.data && row < rows; ++row) std::fill_n(to.at(n, h, row), columns, 0.0F);
  }

  // to = scale a b, on top of what is there where it `adds`
  static void put(const MatrixView& a, const MatrixView& b, int64_t m, int64_t n, int64_t k, double scale,
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

// What the mask's gaps take, matrices of one scores map for each of `maps`, and what gemm wants.
int64_t scratch_floats(const Shape& s, int64_t maps) {
  const int64_t matrices = checked_mul(maps, checked_mul(s.step(), s.columns));
  const int64_t deep = std::max(s.depth, s.depth_v), long_side = std::max(s.step(), s.columns);
  return checked_add(checked_add(s.columns, matrices),
                     gemm_scratch(long_side, std::max(long_side, deep), std::max(long_side, deep)));
}

Settlement settle_float_forward(const Node& node, const Settlement*) {
  Shape shape = shape_of(node, forward_slots);
  return settle_forward(node, shape, scratch_floats(shape, 1));
}

Settlement settle_float_backward(const Node& node, const Settlement*) {
  return settle_backward(scratch_floats(shape_of(node, grad_slots), 2));
}

Kernel prepare_forward(const Node& node, const Binding& binding) {
  Forward work{{node, binding, forward_slots, scratch_floats(shape_of(node, forward_slots), 1)}};
  work.saved = saved_of_forward(work, binding);
  work.y = operand(node.output(to_y), binding.out<float>(to_y));
  return work;
}

Kernel prepare_backward(const Node& node, const Binding& binding) {
  Backward work{{node, binding, grad_slots, scratch_floats(shape_of(node, grad_slots), 2)}};
  work.saved = const_cast<float*>(binding.in<float>(of_saved));
  work.dy = operand(node.input(of_dy), binding.in<float>(of_dy));
  auto out = [&](size_t slot) { return operand(node.output(slot), binding.out<float>(slot)); };
  work.dq = out(to_dq);
  work.dk = out(to_dk);
  work.dv = out(to_dv);
  work.dmask = out(to_dmask);
  work.skips = work.skips && !work.dmask.data;
  return work;
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
  const Value* mask = node.input(of_mask);
  infer_as(node.output(to_dmask), mask ? mask->dtype : dtype, s.dims(s.rows, s.columns));
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

// Matrices in bfloat16; what is as large as the scores, and what is left for backward, in float32.
std::optional<MixedPrecision> mix(const Node& node, const Slots& slots, uint32_t inputs, uint32_t outputs) {
  const Shape shape = shape_of(node, slots);
  const DType dtype = node.inputs[slots.q]->dtype;
  if ((dtype != DType::f32 && dtype != DType::bf16) || shape.is_empty()) return std::nullopt;
  return MixedPrecision{.inputs = inputs, .outputs = outputs};
}

std::optional<MixedPrecision> mix_forward(const Node& node) {
  return mix(node, forward_slots, 1 << in_q | 1 << in_k | 1 << in_v, 1 << to_y);
}
std::optional<MixedPrecision> mix_backward(const Node& node) {
  return mix(node, grad_slots, 1 << of_dy | 1 << of_q | 1 << of_k | 1 << of_v, 1 << to_dq | 1 << to_dk | 1 << to_dv);
}

KernelFunctions proposing(KernelFunctions functions) {
  functions.propose = propose;
  return functions;
}

}  // namespace
}  // namespace attention

std::vector<Op> attention_ops() {
  using namespace attention;
  return {{.type = "Attention",
           .domain = "graft",
           .infer = infer_forward,
           .cpu = {{DTypes::f32, {propose, settle_float_forward, prepare_forward}},
                   {DTypes::bf16, proposing(mixed_forward())},
                   {DTypes::f64, reference_forward()}},
           .differentiate = differentiate,
           .mixed_precision = mix_forward},
          {.type = "AttentionGrad",
           .domain = "graft",
           .infer = infer_backward,
           .cpu = {{DTypes::f32, {propose, settle_float_backward, prepare_backward}},
                   {DTypes::bf16, proposing(mixed_backward())},
                   {DTypes::f64, reference_backward()}},
           .mixed_precision = mix_backward}};
}

}  // namespace graft
