// LayerNormalization and RMSNormalization over the last axes: rows of `width` elements.
#include <algorithm>

#include "ops/gradient.h"
#include "ops/layer_normalization_loops.h"

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

// Of scale, bias and statistics, and of the arithmetic.
DType vector_dtype(const Node& node) {
  const DType rows = node.inputs[0]->dtype;
  return rows == DType::bf16 ? DType::f32 : rows;
}

// Scale and bias have an entry for each element of a row.
void check_vector(const Node& node, size_t i, const Rows& rows) {
  const Value* value = node.input(i);
  if (!value) return;
  if (value->dtype != vector_dtype(node))
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
                                 checked_mul(rows.count, 2 * static_cast<int64_t>(size_of(vector_dtype(node)))));
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

// T: type of the arithmetic and of the vectors; E: of the rows.
template <class T, class E>
Kernel prepare_forward(const Node& node, const Binding& binding) {
  Rows rows = rows_of(node);
  const LayerRow<T, E> first{rows.width,       rows.epsilon,     rows.centered,    binding.in<T>(1),
                             binding.in<T>(2), binding.in<E>(0), binding.out<E>(0)};
  auto saved_at = saved_index(node);
  T* saved = saved_at ? binding.out<T>(*saved_at) : nullptr;
  StatisticOutput mean_output(node, binding, rows.centered ? 1 : SIZE_MAX),
      inverse_output(node, binding, rows.centered ? 2 : SIZE_MAX);
  return [=, loops = layer_loops<T, E>()](Stream&) {
    parallel_for(rows.count, 4 * rows.width, [&](int64_t begin, int64_t end) {
      LayerRow<T, E> row = first;
      for (int64_t r = begin; r < end; ++r) {
        row.x = first.x + r * rows.width;
        row.y = first.y + r * rows.width;
        auto [mean, inverse] = loops.normalize(row);
        if (saved) saved[2 * r] = mean, saved[2 * r + 1] = inverse;
        mean_output.write(r, mean);
        inverse_output.write(r, inverse);
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

// (x, scale, dy, saved) -> dx, dscale, dbias
template <class T, class E>
struct NormalizationGrad {
  Rows rows;
  LayerRowGrad<T, E> first;
  const T* saved;
  T *dscale, *dbias;
  T* partial;  // [slices][2][width]
  int64_t slices;
  LayerLoops<T, E> loops = layer_loops<T, E>();

  void operator()(Stream&) const {
    parallel_for(slices, 4 * rows.width * (rows.count / slices), [&](int64_t begin, int64_t end) {
      for (int64_t slice = begin; slice < end; ++slice) give_slice(slice);
    });
    if (dscale) add_slices(partial, dscale);
    if (dbias) add_slices(partial + rows.width, dbias);
  }

  void give_slice(int64_t slice) const {
    LayerRowGrad<T, E> row = first;
    if (dscale || dbias) {
      row.scale_sums = partial + slice * 2 * rows.width;
      row.bias_sums = row.scale_sums + rows.width;
      std::fill_n(row.scale_sums, 2 * rows.width, T{0});
    }
    for (int64_t r = rows.count * slice / slices; r < rows.count * (slice + 1) / slices; ++r) {
      row.statistics = {saved[2 * r], saved[2 * r + 1]};
      row.x = first.x + r * rows.width;
      row.dy = first.dy + r * rows.width;
      if (first.dx) row.dx = first.dx + r * rows.width;
      loops.grad(row);
    }
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
      checked_mul(checked_mul(2 * slices_of(rows), rows.width), static_cast<int64_t>(size_of(vector_dtype(node))));
  settlement.in_place = {{0, 2}};
  return settlement;
}

template <class T, class E>
Kernel prepare_grad(const Node& node, const Binding& binding) {
  Rows rows = rows_of(node);
  LayerRowGrad<T, E> first{.width = rows.width, .centred = rows.centered};
  first.scale = binding.in<T>(1);
  first.x = binding.in<E>(0);
  first.dy = binding.in<E>(2);
  first.dx = binding.out<E>(0);
  return NormalizationGrad<T, E>{
      rows,           first, binding.in<T>(3), binding.out<T>(1), binding.out<T>(2), static_cast<T*>(binding.scratch),
      slices_of(rows)};
}

// Rows in bfloat16; statistics, scale, bias and their gradients in float32.
std::optional<MixedPrecision> mix(const Node& node) {
  const DType dtype = node.inputs[0]->dtype;
  if (dtype != DType::f32 && dtype != DType::bf16) return std::nullopt;
  constexpr uint32_t x = 1, dy = 1 << 2;
  return MixedPrecision{.inputs = node.domain.empty() ? x : x | dy, .outputs = 1};
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

template <class T, class E>
KernelFunctions forward_kernel() {
  return {propose_plain, settle_forward, prepare_forward<T, E>};
}
template <class T, class E>
KernelFunctions grad_kernel() {
  return {propose_plain, settle_grad, prepare_grad<T, E>};
}

std::vector<KernelEntry> forward_kernels() {
  return {{DTypes::f32, forward_kernel<float, float>()},
          {DTypes::bf16, forward_kernel<float, BFloat16>()},
          {DTypes::f64, forward_kernel<double, double>()}};
}
std::vector<KernelEntry> grad_kernels() {
  return {{DTypes::f32, grad_kernel<float, float>()},
          {DTypes::bf16, grad_kernel<float, BFloat16>()},
          {DTypes::f64, grad_kernel<double, double>()}};
}

}  // namespace

std::vector<Op> layer_normalization_ops() {
  return {{.type = "LayerNormalization",
           .cpu = forward_kernels(),
           .differentiate = differentiate_normalization,
           .mixed_precision = mix,
           .parameter_slots = {1, 2}},
          {.type = "RMSNormalization",
           .cpu = forward_kernels(),
           .differentiate = differentiate_normalization,
           .mixed_precision = mix,
           .parameter_slots = {1}},
          {.type = "LayerNormalizationGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = grad_kernels(),
           .mixed_precision = mix},
          {.type = "RMSNormalizationGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = grad_kernels(),
           .mixed_precision = mix}};
}

}  // namespace graft
