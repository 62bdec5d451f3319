// Scaled dot-product attention: what its kernels for float32, bfloat16 and float64 have in common.
#pragma once

#include <algorithm>

#include "ops/axes.h"
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

  Work(const Node& node, const Binding& binding, const Slots& slots, int64_t floats)
      : shape(shape_of(node, slots)),
        threads(std::any_cast<int64_t>(binding.settlement->descriptor)),
        mask(node.input(slots.mask), binding.in<float>(slots.mask)),
        scratch(static_cast<float*>(binding.scratch)),
        per_thread(floats) {
    auto in = [&](size_t slot) { return operand(node.input(slot), binding.in<E>(slot)); };
    q = in(slots.q);
    k = in(slots.k);
    v = in(slots.v);
  }

  float* largest(int64_t item, int64_t row) const { return saved + item * 2 * shape.rows + row; }
  float* inverse(int64_t item, int64_t row) const { return largest(item, row) + shape.rows; }

  // f(item, n, h, scratch of the thread)
  template <class F>
  void for_items(F f) const {
    for_slices(shape.items(), threads, [&](int64_t thread, int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item)
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
