// CUDA kernels of Softmax, LogSoftmax and their gradients. A row is the set of elements along the axis; one thread
// block works on one row at a time, in two passes over it.
#include <algorithm>
#include <cmath>

#include "ops/cuda_kernel.h"
#include "runtime/device/cuda/block_reduce.cuh"
#include "runtime/device/cuda/cuda.h"

namespace graft {
namespace {

// A tensor (outer, length, inner): element j of row (o, i) lies at (o * length + j) * inner + i.
struct Rows {
  int64_t outer;
  int64_t length;
  int64_t inner;

  __host__ __device__ int64_t count() const { return outer * inner; }
  __device__ int64_t begin(int64_t row) const { return row / inner * length * inner + row % inner; }
};

// The largest element so far and sum(exp(x - largest)): one pass gives both, as sums are rescaled when `largest` grows.
template <class T>
struct Exponentials {
  T largest;
  T sum;
};

template <class T>
__device__ void add(Exponentials<T>& row, T x) {
  if (x > row.largest) {
    // x - x is 0, or NaN for infinity, which then marks the whole row.
    row = {x, row.sum * std::exp(row.largest - x) + (T{1} + (x - x))};
  } else if (x != -T(INFINITY)) {
    row.sum += std::exp(x - row.largest);
  }
}

template <class T>
__device__ Exponentials<T> merge(const Exponentials<T>& a, const Exponentials<T>& b) {
  if (a.largest == b.largest) return {a.largest, a.sum + b.sum};
  if (a.largest > b.largest) return {a.largest, a.sum + b.sum * std::exp(b.largest - a.largest)};
  return {b.largest, b.sum + a.sum * std::exp(a.largest - b.largest)};
}

template <class T>
__device__ Exponentials<T> shuffle_xor(const Exponentials<T>& value, int lanes) {
  return {graft::shuffle_xor(value.largest, lanes), graft::shuffle_xor(value.sum, lanes)};
}

// y = exp(x - max(x)) / sum(exp(x - max(x))), or its logarithm; x, y: (outer, length, inner). y may be x.
template <class T, bool logarithm>
__global__ void softmax_forward(Rows rows, const T* x, T* y) {
  for (int64_t row = blockIdx.x; row < rows.count(); row += gridDim.x) {
    int64_t begin = rows.begin(row);
    Exponentials<T> none{-T(INFINITY), T{0}};
    Exponentials<T> all = none;
    for (int64_t j = threadIdx.x; j < rows.length; j += blockDim.x) add(all, x[begin + j * rows.inner]);
    all = block_reduce(all, none, [](const auto& a, const auto& b) { return merge(a, b); });
    T scale = logarithm ? std::log(all.sum) : T{1} / all.sum;
    for (int64_t j = threadIdx.x; j < rows.length; j += blockDim.x) {
      int64_t at = begin + j * rows.inner;
      T centred = x[at] - all.largest;
      y[at] = logarithm ? centred - scale : std::exp(centred) * scale;
    }
  }
}

// Softmax:    dx = y * (dy - sum(y * dy))
// LogSoftmax: dx = dy - exp(y) * sum(dy)
// dy, y, dx: (outer, length, inner). dx may be dy or y.
template <class T, bool logarithm>
__global__ void softmax_backward(Rows rows, const T* dy, const T* y, T* dx) {
  for (int64_t row = blockIdx.x; row < rows.count(); row += gridDim.x) {
    int64_t begin = rows.begin(row);
    T sum = 0;
    for (int64_t j = threadIdx.x; j < rows.length; j += blockDim.x) {
      int64_t at = begin + j * rows.inner;
      sum += logarithm ? dy[at] : y[at] * dy[at];
    }
    sum = block_reduce(sum, T{0}, [](T a, T b) { return a + b; });
    for (int64_t j = threadIdx.x; j < rows.length; j += blockDim.x) {
      int64_t at = begin + j * rows.inner;
      dx[at] = logarithm ? dy[at] - std::exp(y[at]) * sum : y[at] * (dy[at] - sum);
    }
  }
}

Rows rows_of(const Node& node) {
  const Dims& dims = node.inputs[0]->dims;
  auto rank = static_cast<int64_t>(dims.size());
  int64_t axis = node.integer("axis", -1);
  if (axis < -rank || axis >= rank) {
    throw ModelError(node.where(), " axis ", axis, " out of range for shape ", dims, ": allowed ", -rank, " to ",
                     rank - 1);
  }
  auto at = dims.begin() + (axis < 0 ? axis + rank : axis);
  return {element_count({dims.begin(), at}), *at, element_count({at + 1, dims.end()})};
}

dim3 grid_of(const Rows& rows) {
  constexpr int64_t largest_grid = 0x7fffffff;
  return dim3(static_cast<unsigned>(std::min(rows.count(), largest_grid)));
}

// As many threads as the row has elements, in whole warps.
dim3 block_of(const Rows& rows) {
  constexpr int64_t largest_block = 1024;
  int64_t warps = (std::min(rows.length, largest_block) + warp_size - 1) / warp_size;
  return dim3(static_cast<unsigned>(warps * warp_size));
}

template <class T, bool logarithm>
Kernel prepare_forward(const Node& node, const Binding& binding) {
  Rows rows = rows_of(node);
  if (rows.count() == 0 || rows.length == 0) return {};
  const T* x = binding.in<T>(0);
  T* y = binding.out<T>(0);
  return
      [=](Stream& stream) { launch(stream, softmax_forward<T, logarithm>, grid_of(rows), block_of(rows), rows, x, y); };
}

template <class T, bool logarithm>
Kernel prepare_backward(const Node& node, const Binding& binding) {
  Rows rows = rows_of(node);
  if (rows.count() == 0 || rows.length == 0) return {};
  const T* dy = binding.in<T>(0);
  const T* y = binding.in<T>(1);
  T* dx = binding.out<T>(0);
  return [=](Stream& stream) {
    launch(stream, softmax_backward<T, logarithm>, grid_of(rows), block_of(rows), rows, dy, y, dx);
  };
}

template <bool logarithm>
std::vector<KernelEntry> forward_kernels() {
  return {{DTypes::f32, plain_in_place_kernel(prepare_forward<float, logarithm>)},
          {DTypes::f64, plain_in_place_kernel(prepare_forward<double, logarithm>)}};
}

template <bool logarithm>
std::vector<KernelEntry> backward_kernels() {
  return {{DTypes::f32, plain_in_place_kernel(prepare_backward<float, logarithm>)},
          {DTypes::f64, plain_in_place_kernel(prepare_backward<double, logarithm>)}};
}

}  // namespace

std::vector<KernelEntry> softmax_cuda() { return forward_kernels<false>(); }
std::vector<KernelEntry> log_softmax_cuda() { return forward_kernels<true>(); }
std::vector<KernelEntry> softmax_grad_cuda() { return backward_kernels<false>(); }
std::vector<KernelEntry> log_softmax_grad_cuda() { return backward_kernels<true>(); }

}  // namespace graft
