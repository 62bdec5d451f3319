// LRN: y[c] = x[c] / s[c]^beta,  s[c] = bias + alpha/size * sum of x^2 over `size` channels around c
#include <cmath>

#include "ops/gradient.h"

namespace graft {
namespace {

struct Lrn {
  int64_t batch = 0, channels = 0, spatial = 0;
  int64_t before = 0, after = 0;  // neighbours on both sides
  double slope = 0, bias = 1, beta = 0.75;

  explicit Lrn(const Node& node) {
    const Dims& dims = node.inputs[0]->dims;
    if (dims.size() < 2) throw ModelError(node.where(), " wants an input of rank 2 or more, got ", dims);
    batch = dims[0];
    channels = dims[1];
    spatial = element_count({dims.begin() + 2, dims.end()});
    int64_t size = node.integer("size", 0);
    if (size < 1) throw ModelError(node.where(), " attribute 'size' is ", size, ": 1 or more allowed");
    before = (size - 1) / 2;
    after = size - 1 - before;
    slope = node.real("alpha", 1e-4) / static_cast<double>(size);
    bias = node.real("bias", 1);
    beta = node.real("beta", 0.75);
  }

  // f(offset of channel 0, positions) for pieces of space.
  template <class F>
  void for_each_piece(F&& f) const {
    constexpr int64_t piece = 256;
    int64_t pieces = (spatial + piece - 1) / piece;
    parallel_for(batch * pieces, channels * std::min(spatial, piece) * (before + after + 20),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t item = begin; item < end; ++item) {
                     int64_t first = item % pieces * piece;
                     f(item / pieces * channels * spatial + first, std::min(piece, spatial - first));
                   }
                 });
  }

  template <class T>
  T scale(const T* x, int64_t c) const {
    T squares = 0;
    for (int64_t k = std::max<int64_t>(c - before, 0); k <= std::min(c + after, channels - 1); ++k)
      squares += x[k * spatial] * x[k * spatial];
    return static_cast<T>(bias) + static_cast<T>(slope) * squares;
  }
};

template <class T>
Kernel prepare_forward(const Node& node, const Binding& binding) {
  Lrn l(node);
  const T* x = binding.in<T>(0);
  T* y = binding.out<T>(0);
  return [=](Stream&) {
    l.for_each_piece([&](int64_t at, int64_t count) {
      for (int64_t c = 0; c < l.channels; ++c) {
        for (int64_t i = at; i < at + count; ++i)
          y[i + c * l.spatial] = x[i + c * l.spatial] * std::pow(l.scale(x + i, c), static_cast<T>(-l.beta));
      }
    });
  };
}

// (dy, x) -> dx:  dx[c] = dy[c] s[c]^-beta - 2 alpha/size beta x[c] * sum of dy[k] x[k] s[k]^(-beta-1) over the k that
// see c
template <class T>
Kernel prepare_grad(const Node& node, const Binding& binding) {
  Lrn l(node);
  const T *dy = binding.in<T>(0), *x = binding.in<T>(1);
  T* dx = binding.out<T>(0);
  return [=](Stream&) {
    l.for_each_piece([&](int64_t at, int64_t count) {
      for (int64_t i = at; i < at + count; ++i) {
        for (int64_t c = 0; c < l.channels; ++c) dx[i + c * l.spatial] = 0;
        for (int64_t k = 0; k < l.channels; ++k) {
          int64_t from = i + k * l.spatial;
          T scale = l.scale(x + i, k);
          T power = std::pow(scale, static_cast<T>(-l.beta));
          T shared = static_cast<T>(-2 * l.slope * l.beta) * dy[from] * x[from] * power / scale;
          dx[from] += dy[from] * power;
          for (int64_t c = std::max<int64_t>(k - l.before, 0); c <= std::min(k + l.after, l.channels - 1); ++c) {
            dx[i + c * l.spatial] += shared * x[i + c * l.spatial];
          }
        }
      }
    });
  };
}

void infer_grad(Node& node) {
  Value* dx = node.outputs[0];
  dx->dtype = node.inputs[0]->dtype;
  dx->ranked = true;
  dx->dims = node.inputs[0]->dims;
}

Vals differentiate_lrn(Gradient& g) { return {g.grad_node("LRNGrad", {g.dy(0), g.x(0)}, 1, g.node().attributes)[0]}; }

}  // namespace

std::vector<Op> lrn_ops() {
  return {
      {.type = "LRN",
       .cpu = {{DTypes::f32, plain_kernel(prepare_forward<float>)},
               {DTypes::f64, plain_kernel(prepare_forward<double>)}},
       .differentiate = differentiate_lrn},
      {.type = "LRNGrad",
       .domain = "graft",
       .infer = infer_grad,
       .cpu = {{DTypes::f32, plain_kernel(prepare_grad<float>)}, {DTypes::f64, plain_kernel(prepare_grad<double>)}}}};
}

}  // namespace graft
