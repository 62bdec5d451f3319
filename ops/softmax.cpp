// Softmax and LogSoftmax along one axis: tensors are seen as [outer][axis][inner].
#include <cmath>

#include "ops/cuda_kernel.h"
#include "ops/gradient.h"
#include "ops/vector_loops.h"
#include "runtime/device/cpu/dnnl.h"

namespace graft {

CUDA_KERNEL(softmax);
CUDA_KERNEL(log_softmax);
CUDA_KERNEL(softmax_grad);
CUDA_KERNEL(log_softmax_grad);

namespace {

struct Lines {
  int64_t outer = 1, axis = 1, inner = 1;
  bool logarithm = false;
};

Lines lines_of(const Node& node) {
  const Dims& dims = node.inputs[0]->dims;
  auto rank = static_cast<int64_t>(dims.size());
  int64_t axis = node.integer("axis", -1);
  Lines lines{.logarithm = node.type.starts_with("Log")};
  if (rank == 0 && (axis == 0 || axis == -1)) return lines;
  if (axis < -rank || axis >= rank)
    throw ModelError(node.where(), " axis ", axis, " out of range for shape ", dims, ": allowed ", -rank, " to ",
                     rank - 1);
  auto at = static_cast<std::ptrdiff_t>(axis < 0 ? axis + rank : axis);
  lines.outer = element_count({dims.begin(), dims.begin() + at});
  lines.axis = dims[static_cast<size_t>(at)];
  lines.inner = element_count({dims.begin() + at + 1, dims.end()});
  return lines;
}

// Neighbouring lines are worked on together so that the loop over them is contiguous; at least one cache line of them.
constexpr int64_t group = 64;

// f(offset of the first element, number of neighbouring lines)
template <class F>
void for_each_group(const Lines& l, F&& f) {
  int64_t groups = (l.inner + group - 1) / group;
  parallel_for(l.outer * groups, 8 * l.axis * std::min(l.inner, group), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t first = item % groups * group;
      f(item / groups * l.axis * l.inner + first, std::min(group, l.inner - first));
    }
  });
}

void exp_all(const double* x, double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = std::exp(x[i]);
}
void exp_all(const float* x, float* y, int64_t n) {
  static const UnaryLoop loop = unary_loop("Exp");
  loop(x, y, n, 0, 0);
}

// y = exp(x - max) / sum exp(x - max), or its logarithm
template <class T>
void softmax_group(const Lines& l, const T* x, T* y, int64_t lines) {
  T largest[group], sum[group] = {}, shifted[group];
  std::copy(x, x + lines, largest);
  for (int64_t k = 1; k < l.axis; ++k) {
    for (int64_t i = 0; i < lines; ++i) largest[i] = std::max(largest[i], x[k * l.inner + i]);
  }
  for (int64_t k = 0; k < l.axis; ++k) {
    T* row = y + k * l.inner;
    for (int64_t i = 0; i < lines; ++i) shifted[i] = x[k * l.inner + i] - largest[i];
    if (l.logarithm) {
      std::copy(shifted, shifted + lines, row);
      exp_all(shifted, shifted, lines);
      for (int64_t i = 0; i < lines; ++i) sum[i] += shifted[i];
    } else {
      exp_all(shifted, row, lines);
      for (int64_t i = 0; i < lines; ++i) sum[i] += row[i];
    }
  }
  for (int64_t i = 0; i < lines; ++i) sum[i] = l.logarithm ? std::log(sum[i]) : 1 / sum[i];
  for (int64_t k = 0; k < l.axis; ++k) {
    T* row = y + k * l.inner;
    for (int64_t i = 0; i < lines; ++i) row[i] = l.logarithm ? row[i] - sum[i] : row[i] * sum[i];
  }
}

template <class T>
Kernel prepare_plain(const Node& node, const Binding& binding) {
  Lines l = lines_of(node);
  const T* x = binding.in<T>(0);
  T* y = binding.out<T>(0);
  return [=](Stream&) {
    if (l.axis == 0) return;
    for_each_group(l, [&](int64_t at, int64_t lines) { softmax_group(l, x + at, y + at, lines); });
  };
}

// oneDNN where a line is contiguous, and its 32 bits count lines and elements.
bool on_dnnl(const Lines& l) { return l.inner == 1 && l.axis > 1 && l.outer > 0 && dnnl_counts({l.outer, l.axis}); }

Settlement settle_softmax(const Node& node, const Settlement*) {
  Settlement settlement;
  settlement.in_place = {{0, 0}};
  Lines l = lines_of(node);
  if (!on_dnnl(l)) return settlement;
  dnnl::memory::desc desc({l.outer, l.axis}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab);
  auto algorithm = l.logarithm ? dnnl::algorithm::softmax_log : dnnl::algorithm::softmax_accurate;
  auto descriptor = with_dnnl_errors(node, [&] {
    return dnnl::softmax_forward::primitive_desc(cpu_engine(), dnnl::prop_kind::forward_training, algorithm, desc, desc,
                                                 1, scratch_attributes());
  });
  settlement.scratch_bytes = static_cast<int64_t>(descriptor.scratchpad_desc().get_size());
  settlement.descriptor = descriptor;
  return settlement;
}

Kernel prepare_softmax(const Node& node, const Binding& binding) {
  if (!on_dnnl(lines_of(node))) return prepare_plain<float>(node, binding);
  const auto& descriptor = std::any_cast<const dnnl::softmax_forward::primitive_desc&>(binding.settlement->descriptor);
  return with_dnnl_errors(node, [&] {
    return BoundPrimitive(descriptor,
                          {{DNNL_ARG_SRC, dnnl_memory(descriptor.src_desc(), binding.in<float>(0))},
                           {DNNL_ARG_DST, dnnl_memory(descriptor.dst_desc(), binding.out<float>(0))},
                           {DNNL_ARG_SCRATCHPAD, dnnl_memory(descriptor.scratchpad_desc(), binding.scratch)}});
  });
}

// (dy, y) -> dx:  softmax: dx = y (dy - sum(y dy))      log: dx = dy - exp(y) sum(dy)
template <class T>
void grad_line(const Lines& l, const T* dy, const T* y, T* dx) {
  T sum = 0;
  if (l.logarithm) {
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < l.axis; ++k) sum += dy[k];
    constexpr int64_t piece = 256;
    T power[piece];
    for (int64_t first = 0; first < l.axis; first += piece) {
      int64_t count = std::min(piece, l.axis - first);
      exp_all(y + first, power, count);
      for (int64_t k = 0; k < count; ++k) dx[first + k] = dy[first + k] - power[k] * sum;
    }
  } else {
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < l.axis; ++k) sum += dy[k] * y[k];
#pragma omp simd
    for (int64_t k = 0; k < l.axis; ++k) dx[k] = y[k] * (dy[k] - sum);
  }
}

template <class T>
void grad_group(const Lines& l, const T* dy, const T* y, T* dx, int64_t lines) {
  T sum[group] = {}, power[group];
  for (int64_t k = 0; k < l.axis; ++k) {
    for (int64_t i = 0; i < lines; ++i)
      sum[i] += l.logarithm ? dy[k * l.inner + i] : dy[k * l.inner + i] * y[k * l.inner + i];
  }
  for (int64_t k = 0; k < l.axis; ++k) {
    int64_t row = k * l.inner;
    if (l.logarithm) {
      exp_all(y + row, power, lines);
      for (int64_t i = 0; i < lines; ++i) dx[row + i] = dy[row + i] - power[i] * sum[i];
    } else {
      for (int64_t i = 0; i < lines; ++i) dx[row + i] = y[row + i] * (dy[row + i] - sum[i]);
    }
  }
}

template <class T>
Kernel prepare_grad(const Node& node, const Binding& binding) {
  Lines l = lines_of(node);
  const T *dy = binding.in<T>(0), *y = binding.in<T>(1);
  T* dx = binding.out<T>(0);
  return [=](Stream&) {
    for_each_group(l, [&](int64_t at, int64_t lines) {
      if (l.inner == 1) grad_line(l, dy + at, y + at, dx + at);
      else grad_group(l, dy + at, y + at, dx + at, lines);
    });
  };
}

void infer_grad(Node& node) {
  Value* dx = node.outputs[0];
  dx->dtype = node.inputs[0]->dtype;
  dx->ranked = true;
  dx->dims = node.inputs[0]->dims;
}

Attributes axis_of(Gradient& g) { return {{"axis", g.node().integer("axis", -1)}}; }

Vals differentiate_softmax(Gradient& g) {
  return {g.grad_node(g.node().type + "Grad", {g.dy(0), g.y(0)}, 1, axis_of(g))[0]};
}

// Over the axis, with v the gradient of dx:
//   d dy = y (v - sum(y v))      dy' = v (dy - sum(y dy)) - dy sum(y v)
Vals differentiate_softmax_grad(Gradient& g) {
  Val dy = g.x(0), y = g.x(1), v = g.dy(0);
  int64_t axis = g.node().integer("axis", -1);
  Val weight = sum(y * v, {axis}, true);
  Vals result(2);
  if (g.needs(0)) result[0] = y * (v - weight);
  if (g.needs(1)) result[1] = v * (dy - sum(y * dy, {axis}, true)) - dy * weight;
  return result;
}

//   d dy = v - sum(exp(y) v)     dy' = -v exp(y) sum(dy)
Vals differentiate_log_softmax_grad(Gradient& g) {
  Val dy = g.x(0), power = exp(g.x(1)), v = g.dy(0);
  int64_t axis = g.node().integer("axis", -1);
  Vals result(2);
  if (g.needs(0)) result[0] = v - sum(power * v, {axis}, true);
  if (g.needs(1)) result[1] = -(v * power * sum(dy, {axis}, true));
  return result;
}

std::vector<KernelEntry> forward_kernels() {
  return {{DTypes::f32, {propose_plain, settle_softmax, prepare_softmax}},
          {DTypes::f64, plain_in_place_kernel(prepare_plain<double>)}};
}
std::vector<KernelEntry> grad_kernels() {
  return {{DTypes::f32, plain_in_place_kernel(prepare_grad<float>)},
          {DTypes::f64, plain_in_place_kernel(prepare_grad<double>)}};
}

}  // namespace

std::vector<Op> softmax_ops() {
  return {{.type = "Softmax", .cpu = forward_kernels(), .cuda = softmax_cuda(), .differentiate = differentiate_softmax},
          {.type = "LogSoftmax",
           .cpu = forward_kernels(),
           .cuda = log_softmax_cuda(),
           .differentiate = differentiate_softmax},
          {.type = "SoftmaxGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = grad_kernels(),
           .cuda = softmax_grad_cuda(),
           .differentiate = differentiate_softmax_grad},
          {.type = "LogSoftmaxGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = grad_kernels(),
           .cuda = log_softmax_grad_cuda(),
           .differentiate = differentiate_log_softmax_grad}};
}

}  // namespace graft
