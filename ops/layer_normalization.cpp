// LayerNormalization and RMSNormalization over the last axes: rows of `width` elements.
#include <algorithm>
#include <cmath>

#include "ops/gradient.h"

namespace graft {
namespace {

struct Rows {
  int64_t count = 1, width = 1;
  double epsilon = 1e-5;
  bool centered = true;  // false: root mean square, no mean
};

Rows rows_of(const Node& node) {
  const Dims& dims = node.inputs[0]->dims;
  auto rank = static_cast<int64_t>(dims.size());
  int64_t axis = node.integer("axis", -1);
  if (axis < -rank || axis >= rank)
    throw ModelError(node.where(), " axis ", axis, " out of range for shape ", dims, ": allowed ", -rank, " to ",
                     rank - 1);
  auto at = static_cast<std::ptrdiff_t>(axis < 0 ? axis + rank : axis);
  Rows rows;
  rows.count = element_count({dims.begin(), dims.begin() + at});
  rows.width = element_count({dims.begin() + at, dims.end()});
  rows.epsilon = node.real("epsilon", 1e-5);
  rows.centered = node.type.starts_with("Layer");
  return rows;
}

// Scale and bias have an entry for each element of a row.
void check_vector(const Node& node, size_t i, const Rows& rows) {
  const Value* value = node.input(i);
  if (!value) return;
  if (value->dtype != node.inputs[0]->dtype)
    throw UnsupportedError(node.where(), " mixes element types ", node.inputs[0]->dtype, " and ", value->dtype);
  if (element_count(value->dims) != rows.width) {
    throw UnsupportedError(node.where(), " input ", i, " of shape ", value->dims, " must have ", rows.width,
                           " elements, as the normalised axes of ", node.inputs[0]->dims);
  }
}

std::optional<size_t> saved_index(const Node& node) {
  if (node.outputs.size() > 1 && node.outputs.back() && node.outputs.back()->opaque) return node.outputs.size() - 1;
  return std::nullopt;
}

Settlement settle_forward(const Node& node, const Settlement*) {
  Rows rows = rows_of(node);
  check_vector(node, 1, rows);
  check_vector(node, 2, rows);
  Settlement settlement;
  settlement.opaque_bytes.assign(node.outputs.size(),
                                 checked_mul(rows.count, 2 * static_cast<int64_t>(size_of(node.inputs[0]->dtype))));
  settlement.in_place = {{0, 0}};
  return settlement;
}

// Writes a statistic in the dtype of its output: ONNX's stash type, float32 even beside doubles.
struct StatisticOutput {
  float* f32 = nullptr;
  double* f64 = nullptr;

  StatisticOutput(const Node& node, const Binding& binding, size_t i) {
    const Value* value = node.output(i);
    if (!value || value->opaque) return;
    if (value->dtype == DType::f32) f32 = binding.out<float>(i);
    else if (value->dtype == DType::f64) f64 = binding.out<double>(i);
    else
      throw UnsupportedError(node.where(), " gives statistics as ", value->dtype, ": float and double are supported");
  }
  template <class T>
  void write(int64_t row, T value) const {
    if (f32) f32[row] = static_cast<float>(value);
    if (f64) f64[row] = static_cast<double>(value);
  }
};

// y = (x - mean) / sigma * scale + bias
template <class T>
Kernel prepare_forward(const Node& node, const Binding& binding) {
  Rows rows = rows_of(node);
  const T *x = binding.in<T>(0), *scale = binding.in<T>(1), *bias = binding.in<T>(2);
  T* y = binding.out<T>(0);
  auto saved_at = saved_index(node);
  T* saved = saved_at ? binding.out<T>(*saved_at) : nullptr;
  StatisticOutput mean_output(node, binding, rows.centered ? 1 : SIZE_MAX),
      inverse_output(node, binding, rows.centered ? 2 : SIZE_MAX);
  return [=](Stream&) {
    parallel_for(rows.count, 8 * rows.width, [&](int64_t begin, int64_t end) {
      auto width = static_cast<T>(rows.width);
      for (int64_t row = begin; row < end; ++row) {
        const T* from = x + row * rows.width;
        T* to = y + row * rows.width;
        T mean = 0, squares = 0;
        if (rows.centered) {
#pragma omp simd reduction(+ : mean)
          for (int64_t i = 0; i < rows.width; ++i) mean += from[i];
          mean /= width;
        }
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < rows.width; ++i) squares += (from[i] - mean) * (from[i] - mean);
        T inverse = 1 / std::sqrt(squares / width + static_cast<T>(rows.epsilon));
        if (bias) {  // NOLINT(bugprone-branch-clone): it does not look behind the pragmas
#pragma omp simd
          for (int64_t i = 0; i < rows.width; ++i) to[i] = (from[i] - mean) * inverse * scale[i] + bias[i];
        } else {
#pragma omp simd
          for (int64_t i = 0; i < rows.width; ++i) to[i] = (from[i] - mean) * inverse * scale[i];
        }
        if (saved) saved[2 * row] = mean, saved[2 * row + 1] = inverse;
        mean_output.write(row, mean);
        inverse_output.write(row, inverse);
      }
    });
  };
}

// Parts of the rows whose sums are added up in order. The shape alone decides: the bits are those of any number of
// threads.
int64_t slices_of(const Rows& rows) {
  constexpr int64_t elements = 32768, most = 64;
  return std::clamp<int64_t>(checked_mul(rows.count, rows.width) / elements, 1,
                             std::clamp<int64_t>(rows.count, 1, most));
}

// (x, scale, dy, saved) -> dx, dscale, dbias; h = (x - mean)/sigma, g = dy scale
//   dx = (g - mean(g) - h mean(g h)) / sigma,  dscale = sum over rows of dy h,  dbias = sum over rows of dy
template <class T>
struct NormalizationGrad {
  Rows rows;
  const T *x, *scale, *dy, *saved;
  T *dx, *dscale, *dbias;
  T* partial;  // [slices][2][width]
  int64_t slices;

  void operator()(Stream&) const {
    parallel_for(slices, 8 * rows.width * (rows.count / slices), [&](int64_t begin, int64_t end) {
      for (int64_t slice = begin; slice < end; ++slice) {
        T* sums = partial + slice * 2 * rows.width;
        if (dscale || dbias) std::fill(sums, sums + 2 * rows.width, T{0});
        for (int64_t row = rows.count * slice / slices; row < rows.count * (slice + 1) / slices; ++row)
          give_row(row, sums, sums + rows.width);
      }
    });
    if (dscale) add_slices(partial, dscale);
    if (dbias) add_slices(partial + rows.width, dbias);
  }

  void give_row(int64_t row, T* scale_sums, T* bias_sums) const {
    const T *from = x + row * rows.width, *up = dy + row * rows.width;
    const T mean = saved[2 * row], inverse = saved[2 * row + 1];
    if (dscale) {
#pragma omp simd
      for (int64_t i = 0; i < rows.width; ++i) scale_sums[i] += up[i] * (from[i] - mean) * inverse;
    }
    if (dbias) {
#pragma omp simd
      for (int64_t i = 0; i < rows.width; ++i) bias_sums[i] += up[i];
    }
    if (!dx) return;
    T sum = 0, slope = 0;
#pragma omp simd reduction(+ : sum, slope)
    for (int64_t i = 0; i < rows.width; ++i) {
      T g = up[i] * scale[i];
      sum += g;
      slope += g * (from[i] - mean);
    }
    auto width = static_cast<T>(rows.width);
    const T offset = rows.centered ? sum / width : 0;
    slope *= inverse * inverse / width;
    T* to = dx + row * rows.width;
#pragma omp simd
    for (int64_t i = 0; i < rows.width; ++i) to[i] = (up[i] * scale[i] - offset - (from[i] - mean) * slope) * inverse;
  }

  void add_slices(const T* sums, T* result) const {
    std::copy(sums, sums + rows.width, result);
    for (int64_t slice = 1; slice < slices; ++slice) {
      for (int64_t i = 0; i < rows.width; ++i) result[i] += sums[slice * 2 * rows.width + i];
    }
  }
};

Settlement settle_grad(const Node& node, const Settlement*) {
  Rows rows = rows_of(node);
  check_vector(node, 1, rows);
  Settlement settlement;
  settlement.scratch_bytes =
      checked_mul(checked_mul(2 * slices_of(rows), rows.width), static_cast<int64_t>(size_of(node.inputs[0]->dtype)));
  settlement.in_place = {{0, 2}};
  return settlement;
}

template <class T>
Kernel prepare_grad(const Node& node, const Binding& binding) {
  Rows rows = rows_of(node);
  return NormalizationGrad<T>{rows,
                              binding.in<T>(0),
                              binding.in<T>(1),
                              binding.in<T>(2),
                              binding.in<T>(3),
                              binding.out<T>(0),
                              binding.out<T>(1),
                              binding.out<T>(2),
                              static_cast<T*>(binding.scratch),
                              slices_of(rows)};
}

void infer_grad(Node& node) {
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    Value* result = node.outputs[i];
    if (!result) continue;
    const Value* like = node.inputs[i == 0 ? 0 : 1];
    result->dtype = like->dtype;
    result->ranked = true;
    result->dims = like->dims;
  }
}

Vals differentiate_normalization(Gradient& g) {
  Node& node = g.node();
  if (g.dy(1) || g.dy(2)) throw UnsupportedError(node.where(), " has no gradient through its statistics");
  bool has_bias = g.input_count() > 2;
  auto grads = g.grad_node(node.type + "Grad", {g.x(0), g.x(1), g.dy(0), g.workspace()},
                           std::vector<bool>{g.needs(0), g.needs(1), has_bias && g.needs(2)},
                           {{"axis", node.integer("axis", -1)}, {"epsilon", node.real("epsilon", 1e-5)}});
  Vals result = {grads[0], grads[1]};
  if (has_bias && g.needs(2)) result.push_back(reshape(grads[2], g.x(2).dims()));
  return result;
}

template <class T>
KernelFunctions forward_kernel() {
  return {propose_plain, settle_forward, prepare_forward<T>};
}
template <class T>
KernelFunctions grad_kernel() {
  return {propose_plain, settle_grad, prepare_grad<T>};
}

std::vector<KernelEntry> forward_kernels() {
  return {{DTypes::f32, forward_kernel<float>()}, {DTypes::f64, forward_kernel<double>()}};
}
std::vector<KernelEntry> grad_kernels() {
  return {{DTypes::f32, grad_kernel<float>()}, {DTypes::f64, grad_kernel<double>()}};
}

}  // namespace

std::vector<Op> layer_normalization_ops() {
  return {{.type = "LayerNormalization",
           .cpu = forward_kernels(),
           .differentiate = differentiate_normalization,
           .parameter_slots = {1, 2}},
          {.type = "RMSNormalization",
           .cpu = forward_kernels(),
           .differentiate = differentiate_normalization,
           .parameter_slots = {1}},
          {.type = "LayerNormalizationGrad", .domain = "graft", .infer = infer_grad, .cpu = grad_kernels()},
          {.type = "RMSNormalizationGrad", .domain = "graft", .infer = infer_grad, .cpu = grad_kernels()}};
}

}  // namespace graft
