// Scaled dot-product attention: what its kernels for float32, bfloat16 and float64 have in common.
#pragma once

#include <algorithm>
#include <cmath>

#include "ops/attention_loops.h"
#include "ops/axes.h"
#include "ops/bfloat16.h"
#include "ops/op.h"
#include "ops/slices.h"

namespace graft::attention {

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
  bool is_empty() const { return batch == 0 || heads == 0 || rows == 0 || columns == 0 || depth == 0 || depth_v == 0; }
  // Rows whose scores are under way together.
  int64_t step() const {
    constexpr int64_t floats = 1 << 15, least = 16;
    return std::min(rows, std::max(floats / std::max<int64_t>(columns, 1), least));
  }
};

Shape shape_of(const Node& node, const Slots& slots);

// Bytes that forward leaves: the largest score and 1 / sum of exponentials, of every row, in float32.
int64_t saved_bytes(const Shape& shape);

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
};

// Of dims of size 1 the stride does not count, but products want one.
template <class T>
Operand4<T> operand(const Value* value, T* address) {
  Operand4<T> found(value, address);
  if (value && found.strides[3] == 0 && !value->dims.empty() && value->dims.back() == 1) found.strides[3] = 1;
  return found;
}

struct Range {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
};

// A range that contains this one and begins and ends with blocks.
inline Range whole_blocks(Range range, int64_t count) {
  constexpr int64_t tile = 32, vector = 16;  // elements in a sum; the larger is that of matrices in bfloat16
  return {range.begin / tile * tile, std::min((range.end + vector - 1) / vector * vector, count)};
}

// Those of the rows from the first to the last that is not all zero.
template <class E>
Range rows_with_values(const Operand4<const E>& x, int64_t n, int64_t h, Range range, int64_t columns) {
  auto is_zero = [&](int64_t row) {
    const E* at = x.at(n, h, row);
    return std::all_of(at, at + columns, [](E value) { return widened(value) == 0; });
  };
  while (range.begin < range.end && is_zero(range.begin)) ++range.begin;
  while (range.end > range.begin && is_zero(range.end - 1)) --range.end;
  return range;
}

// What no row's Euclidean norm exceeds; infinite where there is no such number.
template <class E>
float largest_norm(const Operand4<const E>& x, int64_t n, int64_t h, int64_t rows, int64_t columns) {
  const AttentionLoops& loops = attention_loops();
  if constexpr (std::is_same_v<E, float>) return loops.norm(x.at(n, h), rows, columns, x.strides[2]);
  else return loops.low_norm(x.at(n, h), rows, columns, x.strides[2]);
}

// The columns from the first to the last that some of the rows sees, by the numbers of the mask: all others lie more
// than `least` below the best column of each row. `gaps`: a float for each column.
Range seen_columns(const Operand4<const float>& mask, int64_t n, int64_t h, Range rows, int64_t columns, float least,
                   float* gaps);

// What the threads share out: heads of samples. E: the type of q, k and v.
template <class E>
struct Work {
  Shape shape;
  int64_t threads = 1;
  Operand4<const E> q, k, v;
  Operand4<const float> mask;
  float* saved = nullptr;
  float* scratch = nullptr;
  int64_t per_thread = 0;  // floats
  bool skips = false;      // what padding makes zero is not computed

  Work(const Node& node, const Binding& binding, const Slots& slots, int64_t floats)
      : shape(shape_of(node, slots)),
        threads(std::any_cast<int64_t>(binding.settlement->descriptor)),
        mask(node.input(slots.mask), binding.in<float>(slots.mask)),
        scratch(static_cast<float*>(binding.scratch)),
        per_thread(floats),
        skips(node.integer("skips", 0) != 0) {
    auto in = [&](size_t slot) { return operand(node.input(slot), binding.in<E>(slot)); };
    q = in(slots.q);
    k = in(slots.k);
    v = in(slots.v);
  }

  float* largest(int64_t item, int64_t row) const { return saved + item * 2 * shape.rows + row; }
  float* inverse(int64_t item, int64_t row) const { return largest(item, row) + shape.rows; }

  // The keys that these rows see; what is left out has a probability of exactly zero. |score| <= bound = |scale| |q|
  // |k|: a key whose mask lies `gap` below another's has a probability of at most exp(gap + 2 bound), and exp gives
  // zero below -88. Where something is no number there is no bound, and all are seen. Vectors and tiles hold what they
  // hold otherwise.
  Range seen_keys(int64_t n, int64_t h, Range rows, float* gaps) const {
    constexpr float vanishing = 100, slack = 1.01F;  // slack: the bound is rounded
    const Range all{0, shape.columns};
    if (!skips || !mask.data || mask.strides[3] == 0) return all;
    Range seen = seen_columns(mask, n, h, rows, shape.columns, vanishing, gaps);
    if (seen.count() == shape.columns) return all;
    const float norms =
        largest_norm(q, n, h, shape.rows, shape.depth) * largest_norm(k, n, h, shape.columns, shape.depth);
    const float least = vanishing + 2 * slack * static_cast<float>(std::abs(shape.scale)) * norms;
    auto is_hidden = [&](int64_t column) { return gaps[column] < -least; };
    Range kept = all;
    while (kept.begin < seen.begin && is_hidden(kept.begin)) ++kept.begin;
    while (kept.end > seen.end && is_hidden(kept.end - 1)) --kept.end;
    return whole_blocks(kept, shape.columns);
  }
  // The rows that backward works on: those whose dy is zero give nothing.
  Range rows_with_gradient(const Operand4<const E>& dy, int64_t n, int64_t h) const {
    return skips ? whole_blocks(rows_with_values(dy, n, h, all_rows(), shape.depth_v), shape.rows) : all_rows();
  }
  Range all_rows() const { return {0, shape.rows}; }

  // f(item, n, h, scratch of the thread). Heads of a sample go to different threads: samples differ in length.
  template <class F>
  void for_items(F f) const {
    for_slices(threads, threads, [&](int64_t thread, int64_t, int64_t) {
      for (int64_t item = thread; item < shape.items(); item += threads)
        f(item, item / shape.heads, item % shape.heads, scratch + thread * per_thread);
    });
  }
};

// Each thread has `floats` of scratch. Where forward's bytes are not wanted they lie behind that.
Settlement settle_forward(const Node& node, const Shape& shape, int64_t floats);
Settlement settle_backward(int64_t floats);
template <class E>
float* saved_of_forward(const Work<E>& work, const Binding& binding) {
  float* saved = binding.out<float>(to_saved);
  return saved ? saved : work.scratch + work.threads * work.per_thread;
}

// Everything but `propose`.
KernelFunctions mixed_forward();
KernelFunctions mixed_backward();
KernelFunctions reference_forward();
KernelFunctions reference_backward();

}  // namespace graft::attention
