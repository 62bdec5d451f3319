// MaxPool, AveragePool, LpPool and their Global forms. Own kernels: any layout of channels, and the winners of a
// maximum are kept in y's order.
#include <cmath>
#include <limits>

#include "ops/bfloat16.h"
#include "ops/gradient.h"
#include "ops/pool_window.h"

namespace graft {
namespace {

using Range = PoolWindow::Range;

// --- Maximum ---

// The opaque result: for each element of y's storage the position in its plane of x, -1 where a window is empty.
Value* winners_of(const Node& node) {
  Value* last = node.outputs.empty() ? nullptr : node.outputs.back();
  return last && last->opaque ? last : nullptr;
}

template <class S>
struct MaxPool {
  using T = Widened<S>;
  PoolWindow w;
  const S* x;
  S* y;
  int32_t* winners;  // nullptr: not wanted
  int64_t* indices;  // nullptr: not wanted; row-major, in the whole of a plain x
  bool column_major;

  void operator()(Stream&) const {
    with_width(w.x.width, [&](auto width) {
      w.for_each_plane(w.outputs() * w.taps(), [&](int64_t plane, int64_t lane, int64_t lanes) {
        const S* from = x + plane * w.x.spatial * w.x.width + lane;
        int64_t to = plane * w.y.spatial * w.y.width + lane;
        w.for_each_output([&](int64_t o, const Range& d, const Range& h, const Range& r) {
          give<width()>(from, to + o * w.y.width, lanes, d, h, r);
        });
        clear_padding(plane);
        if (indices) give_indices(plane, lane, lanes);
      });
    });
  }

  // y[lane] = max over the window; ties go to the first, NaN wins.
  template <int W>
  void give(const S* from, int64_t to, int64_t lanes, const Range& depth, const Range& height, const Range& row) const {
    const int64_t count = W ? W : lanes, stride = W ? W : w.x.width;
    T best[W ? W : PoolWindow::most_lanes];
    std::fill(best, best + count, -std::numeric_limits<T>::infinity());
    if (winners) std::fill(winners + to, winners + to + count, -1);
    w.for_each_row(depth, height, row, [&](int64_t position, int64_t taps, int64_t step) {
      for (int64_t t = 0; t < taps; ++t, position += step) {
        const S* values = from + position * stride;
        if (!winners) {
#pragma omp simd
          for (int64_t v = 0; v < count; ++v) {
            T value = widened(values[v]);
            best[v] = value > best[v] || value != value ? value : best[v];
          }
          continue;
        }
        int32_t* winner = winners + to;
#pragma omp simd
        for (int64_t v = 0; v < count; ++v) {
          T value = widened(values[v]);
          bool wins = value > best[v] || value != value || winner[v] < 0;
          best[v] = wins ? value : best[v];
          winner[v] = wins ? static_cast<int32_t>(position) : winner[v];
        }
      }
    });
    for (int64_t v = 0; v < count; ++v) y[to + v] = narrowed<S>(best[v]);
  }

  // An empty window gives -infinity, in padding channels as well.
  void clear_padding(int64_t plane) const {
    int64_t used = std::min(w.x.channels - plane % w.x.blocks * w.x.width, w.x.width);
    for (int64_t o = 0; used < w.x.width && o < w.outputs(); ++o) {
      S* row = y + (plane * w.outputs() + o) * w.y.width;
      std::fill(row + used, row + w.y.width, S{});
    }
  }

  void give_indices(int64_t plane, int64_t lane, int64_t lanes) const {
    int64_t n = plane / w.x.blocks;
    for (int64_t v = lane; v < lane + lanes; ++v) {
      int64_t c = plane % w.x.blocks * w.x.width + v;
      if (c >= w.x.channels) continue;
      int64_t channel = n * w.x.channels + c;
      for (int64_t o = 0; o < w.outputs(); ++o) {
        int64_t position = winners[(plane * w.y.spatial + o) * w.y.width + v];
        if (column_major && position >= 0) position = in_column_major(position);
        indices[channel * w.outputs() + o] = position < 0 ? -1 : channel * w.inputs() + position;
      }
    }
  }

  int64_t in_column_major(int64_t position) const {
    int64_t c = position % w.in[2], b = position / w.in[2] % w.in[1], a = position / w.in[2] / w.in[1];
    return (c * w.in[1] + b) * w.in[0] + a;
  }
};

int64_t winner_bytes(const Node& node) {
  const Value &x = *node.inputs[0], &y = *node.outputs[0];
  if (element_count(spatial_dims(x.dims)) > std::numeric_limits<int32_t>::max()) {
    throw UnsupportedError(node.where(), " pools planes of more than 2^31 elements: ", x.dims);
  }
  return checked_mul(y.layout.storage_count(), int64_t{sizeof(int32_t)});
}

Settlement settle_max(const Node& node, const Settlement*) {
  Settlement settlement;
  int64_t bytes = winner_bytes(node);
  settlement.opaque_bytes.assign(node.outputs.size(), bytes);
  bool indices = node.output(1) && !node.outputs[1]->opaque;
  if (indices && !winners_of(node)) settlement.scratch_bytes = bytes;
  return settlement;
}

template <class S>
Kernel prepare_max(const Node& node, const Binding& binding) {
  bool indices = node.output(1) && !node.outputs[1]->opaque;
  void* winners = winners_of(node) ? binding.outputs.back() : indices ? binding.scratch : nullptr;
  return MaxPool<S>{pool_window(node, *node.inputs[0], *node.outputs[0]),
                    binding.in<S>(0),
                    binding.out<S>(0),
                    static_cast<int32_t*>(winners),
                    indices ? binding.out<int64_t>(1) : nullptr,
                    node.integer("storage_order", 0) != 0};
}

std::vector<Candidate> propose_forward(const Node& node) {
  check_pool(node, node.inputs[0]->dims, node.outputs[0]->dims);
  return propose_pool(node, nullptr);
}

// (dy, winners) -> dx: dx[winner[o]] += dy[o]. Both lie as the forward node's operands do.
std::vector<Candidate> propose_max_grad(const Node& node) {
  const Node* forward = node.inputs[1]->producer;
  std::vector<Candidate> candidates = propose_plain(node);
  candidates[0].inputs[0] = forward->outputs[0]->layout;
  candidates[0].outputs[0] =
      layout_alike(forward->outputs[0]->layout, forward->outputs[0]->dims, node.outputs[0]->dims);
  return candidates;
}

template <class T>
Kernel prepare_max_grad(const Node& node, const Binding& binding) {
  PoolWindow w = pool_window(node, *node.outputs[0], *node.inputs[0]);
  const T* dy = binding.in<T>(0);
  const auto* winners = binding.in<int32_t>(1);
  T* dx = binding.out<T>(0);
  return [=](Stream&) {
    w.for_each_plane(w.inputs() + w.outputs(), [&](int64_t plane, int64_t lane, int64_t lanes) {
      T* to = dx + plane * w.inputs() * w.x.width + lane;
      int64_t from = plane * w.outputs() * w.y.width + lane;
      for (int64_t i = 0; i < w.inputs(); ++i) std::fill(to + i * w.x.width, to + i * w.x.width + lanes, T{0});
      for (int64_t o = 0; o < w.outputs(); ++o) {
        for (int64_t v = 0; v < lanes; ++v) {
          int64_t at = from + o * w.y.width + v;
          int32_t winner = winners[at];
          if (winner >= 0 && winner < w.inputs()) to[winner * w.x.width + v] += dy[at];
        }
      }
    });
  };
}

// In bfloat16 each position looks at the windows that hold it: sums that grow in memory would be rounded again and
// again.
struct MaxGatherGrad {
  PoolWindow w;
  const BFloat16* dy;
  const int32_t* winners;
  BFloat16* dx;

  void operator()(Stream&) const {
    with_width(w.x.width, [&](auto width) {
      w.for_each_plane(w.inputs() + w.outputs() * w.taps(), [&](int64_t plane, int64_t lane, int64_t lanes) {
        const int64_t from = plane * w.outputs() * w.y.width + lane;
        BFloat16* to = dx + plane * w.inputs() * w.x.width + lane;
        int64_t position = 0;
        for (int64_t a = 0; a < w.in[0]; ++a) {
          const Range depth = w.windows_at(0, a);
          for (int64_t b = 0; b < w.in[1]; ++b) {
            const Range height = w.windows_at(1, b);
            for (int64_t c = 0; c < w.in[2]; ++c, ++position, to += w.x.width)
              give<width()>(position, from, to, lanes, depth, height, w.windows_at(2, c));
          }
        }
      });
    });
  }

  template <int W>
  void give(int64_t position, int64_t from, BFloat16* to, int64_t lanes, const Range& depth, const Range& height,
            const Range& row) const {
    const int64_t count = W ? W : lanes, stride = W ? W : w.y.width;
    const auto wanted = static_cast<int32_t>(position);
    float sums[W ? W : PoolWindow::most_lanes] = {};
    for (int64_t a = depth.first; a < depth.first + depth.count; ++a) {
      for (int64_t b = height.first; b < height.first + height.count; ++b) {
        for (int64_t c = row.first; c < row.first + row.count; ++c) {
          const int64_t at = from + ((a * w.out[1] + b) * w.out[2] + c) * stride;
#pragma omp simd
          for (int64_t v = 0; v < count; ++v) {
            float gradient = widened(dy[at + v]);  // read in any case, which lets the compiler make vectors
            sums[v] += winners[at + v] == wanted ? gradient : 0;
          }
        }
      }
    }
#pragma omp simd
    for (int64_t v = 0; v < count; ++v) to[v] = narrowed<BFloat16>(sums[v]);
  }
};

Kernel prepare_max_gather_grad(const Node& node, const Binding& binding) {
  return MaxGatherGrad{pool_window(node, *node.outputs[0], *node.inputs[0]), binding.in<BFloat16>(0),
                       binding.in<int32_t>(1), binding.out<BFloat16>(0)};
}

// --- Sums: average, Lp ---

// term: what an element adds to the sum; result: what the sum becomes.
struct Average {
  template <class T>
  T term(T x) const {
    return x;
  }
  template <class T>
  T result(T sum, int64_t divisor) const {
    return divisor > 0 ? sum / static_cast<T>(divisor) : T{0};
  }
};

struct Norm {
  int64_t p = 2;
  template <class T>
  T term(T x) const {
    return p == 1 ? std::abs(x) : p == 2 ? x * x : std::pow(std::abs(x), static_cast<T>(p));
  }
  template <class T>
  T result(T sum, int64_t) const {
    return p == 1 ? sum : p == 2 ? std::sqrt(sum) : std::pow(sum, 1 / static_cast<T>(p));
  }
};

template <class S, class Rule>
struct SumPool {
  using T = Widened<S>;
  PoolWindow w;
  Rule rule;
  const S* x;
  S* y;

  void operator()(Stream&) const {
    with_width(w.x.width, [&](auto width) {
      w.for_each_plane(w.outputs() * w.taps(), [&](int64_t plane, int64_t lane, int64_t lanes) {
        const S* from = x + plane * w.x.spatial * w.x.width + lane;
        S* to = y + plane * w.y.spatial * w.y.width + lane;
        w.for_each_output([&](int64_t o, const Range& d, const Range& h, const Range& r) {
          give<width()>(from, to + o * w.y.width, lanes, d, h, r);
        });
      });
    });
  }

  template <int W>
  void give(const S* from, S* to, int64_t lanes, const Range& depth, const Range& height, const Range& row) const {
    const int64_t count = W ? W : lanes, stride = W ? W : w.x.width;
    T sums[W ? W : PoolWindow::most_lanes] = {};
    w.for_each_row(depth, height, row, [&](int64_t position, int64_t taps, int64_t step) {
      const S* values = from + position * stride;
      if (W == 1) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t t = 0; t < taps; ++t) sum += rule.term(widened(values[t * step]));
        sums[0] += sum;
        return;
      }
      for (int64_t t = 0; t < taps; ++t, values += step * stride) {
#pragma omp simd
        for (int64_t v = 0; v < count; ++v) sums[v] += rule.term(widened(values[v]));
      }
    });
    int64_t divisor = w.divisor(depth, height, row);
    for (int64_t v = 0; v < count; ++v) to[v] = narrowed<S>(rule.result(sums[v], divisor));
  }
};

template <class S>
Kernel prepare_average(const Node& node, const Binding& binding) {
  return SumPool<S, Average>{
      pool_window(node, *node.inputs[0], *node.outputs[0]), {}, binding.in<S>(0), binding.out<S>(0)};
}

int64_t order_of(const Node& node) {
  int64_t p = node.integer("p", 2);
  if (p < 1) throw ModelError(node.where(), " attribute 'p' is ", p, ": 1 or more allowed");
  return p;
}

template <class T>
Kernel prepare_norm(const Node& node, const Binding& binding) {
  return SumPool<T, Norm>{
      pool_window(node, *node.inputs[0], *node.outputs[0]), {order_of(node)}, binding.in<T>(0), binding.out<T>(0)};
}

// dx[i] = sum over the windows that hold i of dy[o] slope(o, i)
//   average: 1/divisor      norm: sign(x) |x/y|^(p-1), operands (dy, x, y)
template <class S>
struct SumPoolGrad {
  using T = Widened<S>;
  PoolWindow w;
  int64_t p;  // 0: average
  const S *dy, *x, *y;
  S* dx;

  void operator()(Stream&) const {
    with_width(w.x.width, [&](auto width) {
      w.for_each_plane(w.inputs() + w.outputs() * w.taps(), [&](int64_t plane, int64_t lane, int64_t lanes) {
        const int64_t count = width() ? width() : lanes, stride = width() ? width() : w.x.width;
        int64_t input = plane * w.inputs() * stride + lane, output = plane * w.outputs() * stride + lane;
        for (int64_t i = 0; i < w.inputs(); ++i)
          std::fill(dx + input + i * stride, dx + input + i * stride + count, S{});
        w.for_each_output([&](int64_t o, const Range& d, const Range& h, const Range& r) {
          int64_t divisor = w.divisor(d, h, r), from = output + o * stride;
          w.for_each_row(d, h, r, [&](int64_t position, int64_t taps, int64_t step) {
            for (int64_t t = 0; t < taps; ++t, position += step) {
              int64_t to = input + position * stride;
              if (p) spread_norm(from, to, count);
              else spread(dy + from, static_cast<T>(1) / static_cast<T>(std::max<int64_t>(divisor, 1)), dx + to, count);
            }
          });
        });
      });
    });
  }

  static void spread(const S* from, T factor, S* to, int64_t count) {
#pragma omp simd
    for (int64_t v = 0; v < count; ++v) to[v] = narrowed<S>(widened(to[v]) + factor * widened(from[v]));
  }
  void spread_norm(int64_t from, int64_t to, int64_t count) const {
    for (int64_t v = 0; v < count; ++v) {
      T value = widened(x[to + v]), norm = widened(y[from + v]);
      if (norm == T{0}) continue;
      T sign = value > 0 ? T{1} : value < 0 ? T{-1} : T{0};
      T slope = sign * (p == 1 ? T{1} : std::pow(std::abs(value) / norm, static_cast<T>(p - 1)));
      dx[to + v] = narrowed<S>(widened(dx[to + v]) + widened(dy[from + v]) * slope);
    }
  }
};

template <class S>
Kernel prepare_sum_grad(const Node& node, const Binding& binding) {
  bool norm = node.type == "LpPoolGrad";
  return SumPoolGrad<S>{pool_window(node, *node.outputs[0], *node.inputs[0]),
                        norm ? order_of(node) : 0,
                        binding.in<S>(0),
                        binding.in<S>(1),
                        binding.in<S>(2),
                        binding.out<S>(0)};
}

// dx as x lies: dy is often so small that it has lost its layout on the way.
std::vector<Candidate> propose_sum_grad(const Node& node) {
  return propose_pool(node, node.forward ? node.forward->inputs[0] : nullptr);
}

// --- Rules ---

void infer_grad(Node& node) {
  Value* dx = node.outputs[0];
  dx->dtype = node.inputs[0]->dtype;
  dx->ranked = true;
  dx->dims = node.integers("x_shape");
}

Attributes grad_attributes(Gradient& g) {
  Attributes attributes = pool_attributes(g.node(), g.x(0).dims());
  attributes["x_shape"] = g.x(0).dims();
  return attributes;
}

Vals differentiate_max(Gradient& g) {
  return {g.grad_node("MaxPoolGrad", {g.dy(0), g.workspace()}, 1, grad_attributes(g))[0]};
}
Vals differentiate_average(Gradient& g) {
  return {g.grad_node("AveragePoolGrad", {g.dy(0)}, 1, grad_attributes(g))[0]};
}
Vals differentiate_norm(Gradient& g) {
  return {g.grad_node("LpPoolGrad", {g.dy(0), g.x(0), g.y(0)}, 1, grad_attributes(g))[0]};
}

// dx is linear in dy.
Vals differentiate_average_grad(Gradient& g) {
  Attributes attributes = pool_attributes(g.node(), g.y(0).dims());
  return {call("AveragePool", {g.dy(0)}, attributes)};
}

// The kernel adds where dx lies. Its sums would be rounded again and again where windows overlap.
std::optional<MixedPrecision> mix_average_grad(const Node& node) {
  const Dims kernel = node.integers("kernel_shape"), strides = node.integers("strides", Dims(kernel.size(), 1));
  const Dims dilations = node.integers("dilations", Dims(kernel.size(), 1));
  for (size_t d = 0; d < kernel.size(); ++d) {
    if ((kernel[d] - 1) * dilations[d] >= strides[d]) return std::nullopt;
  }
  return moves_elements(node);
}

template <template <class> class Kernels>
std::vector<KernelEntry> by_dtype() {
  return {{DTypes::f32, Kernels<float>::functions()},
          {DTypes::f64, Kernels<double>::functions()},
          {DTypes::bf16, Kernels<BFloat16>::functions()}};
}
template <class T>
struct MaxKernels {
  static KernelFunctions functions() { return {propose_forward, settle_max, prepare_max<T>}; }
};
template <class T>
struct AverageKernels {
  static KernelFunctions functions() { return {propose_forward, settle_nothing, prepare_average<T>}; }
};
template <class T>
struct NormKernels {
  static KernelFunctions functions() { return {propose_forward, settle_nothing, prepare_norm<T>}; }
};
template <class T>
struct MaxGradKernels {
  static KernelFunctions functions() { return {propose_max_grad, settle_nothing, prepare_max_grad<T>}; }
};
template <>
struct MaxGradKernels<BFloat16> {
  static KernelFunctions functions() { return {propose_max_grad, settle_nothing, prepare_max_gather_grad}; }
};
template <class T>
struct SumGradKernels {
  static KernelFunctions functions() { return {propose_sum_grad, settle_nothing, prepare_sum_grad<T>}; }
};

}  // namespace

std::vector<Op> pool_ops() {
  auto max = by_dtype<MaxKernels>(), average = by_dtype<AverageKernels>(), norm = by_dtype<NormKernels>(),
       sum_grad = by_dtype<SumGradKernels>();
  return {{.type = "MaxPool", .cpu = max, .differentiate = differentiate_max, .mixed_precision = moves_elements},
          {.type = "GlobalMaxPool", .cpu = max, .differentiate = differentiate_max, .mixed_precision = moves_elements},
          {.type = "AveragePool",
           .cpu = average,
           .differentiate = differentiate_average,
           .mixed_precision = moves_elements},
          {.type = "GlobalAveragePool",
           .cpu = average,
           .differentiate = differentiate_average,
           .mixed_precision = moves_elements},
          {.type = "LpPool", .cpu = norm, .differentiate = differentiate_norm},
          {.type = "GlobalLpPool", .cpu = norm, .differentiate = differentiate_norm},
          {.type = "MaxPoolGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = by_dtype<MaxGradKernels>(),
           .mixed_precision = moves_elements},
          {.type = "AveragePoolGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = sum_grad,
           .differentiate = differentiate_average_grad,
           .mixed_precision = mix_average_grad},
          {.type = "LpPoolGrad", .domain = "graft", .infer = infer_grad, .cpu = sum_grad}};
}

}  // namespace graft
