#include <algorithm>
#include <array>

#include "ops/conv.h"

namespace graft {
namespace {

// Three spatial axes; leading ones of size 1 where the problem has fewer.
struct Geometry {
  int64_t batch, group, channels, features;  // channels and features of one group
  std::array<int64_t, 3> in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1}, pad{0, 0, 0};

  explicit Geometry(const ConvProblem& p)
      : batch(p.x[0]), group(p.group), channels(p.w[1]), features(p.w[0] / p.group) {
    size_t rank = p.window.rank();
    for (size_t d = 0; d < rank; ++d) {
      size_t to = 3 - rank + d;
      in[to] = p.x[2 + d];
      out[to] = p.y[2 + d];
      kernel[to] = p.w[2 + d];
      stride[to] = p.window.strides[d];
      dilation[to] = p.window.dilations[d];
      pad[to] = p.window.begin[d];
    }
  }

  int64_t in_size() const { return in[0] * in[1] * in[2]; }
  int64_t out_size() const { return out[0] * out[1] * out[2]; }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }

  // Outputs [first, last) of an axis whose tap k reads inside the input.
  std::pair<int64_t, int64_t> range(size_t axis, int64_t k) const {
    int64_t shift = pad[axis] - k * dilation[axis];
    int64_t first = shift > 0 ? (shift + stride[axis] - 1) / stride[axis] : 0;
    int64_t room = in[axis] - 1 + shift;
    int64_t last = room < 0 ? 0 : std::min(out[axis], room / stride[axis] + 1);
    return {first, last};
  }
  int64_t source(size_t axis, int64_t o, int64_t k) const { return o * stride[axis] - pad[axis] + k * dilation[axis]; }

  // f(tap, x offset, y offset, count) for every row of outputs that a tap of the kernel reaches.
  template <class F>
  void for_each_row(F&& f) const {
    int64_t tap = 0;
    for (int64_t a = 0; a < kernel[0]; ++a) {
      auto [a0, a1] = range(0, a);
      for (int64_t b = 0; b < kernel[1]; ++b) {
        auto [b0, b1] = range(1, b);
        for (int64_t c = 0; c < kernel[2]; ++c, ++tap) {
          auto [c0, c1] = range(2, c);
          if (c0 >= c1) continue;
          for (int64_t i = a0; i < a1; ++i) {
            for (int64_t j = b0; j < b1; ++j) {
              int64_t from = (source(0, i, a) * in[1] + source(1, j, b)) * in[2] + source(2, c0, c);
              f(tap, from, (i * out[1] + j) * out[2] + c0, c1 - c0);
            }
          }
        }
      }
    }
  }
};

// y[n,m,o] = b[m] + sum_{c,k} w[m,c,k] x[n,c,o*stride - pad + k*dilation]
template <class T>
void forward(const Geometry& g, const T* x, const T* w, const T* bias, T* y) {
  int64_t features = g.group * g.features;
  parallel_for(g.batch * features, g.channels * g.taps() * g.out_size(), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t m = item % features;
      const T* planes = x + (item / features * g.group + m / g.features) * g.channels * g.in_size();
      T* plane = y + item * g.out_size();
      std::fill(plane, plane + g.out_size(), bias ? bias[m] : T{0});
      for (int64_t c = 0; c < g.channels; ++c) {
        const T* taps = w + (m * g.channels + c) * g.taps();
        const T* source = planes + c * g.in_size();
        g.for_each_row([&](int64_t tap, int64_t from, int64_t to, int64_t count) {
          for (int64_t i = 0; i < count; ++i) plane[to + i] += taps[tap] * source[from + i * g.stride[2]];
        });
      }
    }
  });
}

// x[n,c,o*stride - pad + k*dilation] += sum_m w[m,c,k] y[n,m,o], from b[c]
template <class T>
void data(const Geometry& g, const T* y, const T* w, const T* bias, T* x) {
  int64_t channels = g.group * g.channels;
  parallel_for(g.batch * channels, g.features * g.taps() * g.out_size(), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t group = item % channels / g.channels;
      int64_t c = item % g.channels;
      T* plane = x + item * g.in_size();
      std::fill(plane, plane + g.in_size(), bias ? bias[item % channels] : T{0});
      for (int64_t m = group * g.features; m < (group + 1) * g.features; ++m) {
        const T* taps = w + (m * g.channels + c) * g.taps();
        const T* source = y + (item / channels * g.group * g.features + m) * g.out_size();
        g.for_each_row([&](int64_t tap, int64_t to, int64_t from, int64_t count) {
          for (int64_t i = 0; i < count; ++i) plane[to + i * g.stride[2]] += taps[tap] * source[from + i];
        });
      }
    }
  });
}

// w[m,c,k] = sum_{n,o} y[n,m,o] x[n,c,o*stride - pad + k*dilation];  b[m] = sum_{n,o} y[n,m,o]
template <class T>
void weights(const Geometry& g, const T* x, const T* y, T* w, T* bias) {
  int64_t features = g.group * g.features;
  parallel_for(w ? features * g.channels : 0, g.batch * g.taps() * g.out_size(), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t m = item / g.channels;
      T* taps = w + item * g.taps();
      std::fill(taps, taps + g.taps(), T{0});
      for (int64_t n = 0; n < g.batch; ++n) {
        const T* source = x + ((n * g.group + m / g.features) * g.channels + item % g.channels) * g.in_size();
        const T* plane = y + (n * features + m) * g.out_size();
        g.for_each_row([&](int64_t tap, int64_t from, int64_t to, int64_t count) {
          T sum = 0;
          for (int64_t i = 0; i < count; ++i) sum += plane[to + i] * source[from + i * g.stride[2]];
          taps[tap] += sum;
        });
      }
    }
  });
  for (int64_t m = 0; bias && m < features; ++m) {
    bias[m] = 0;
    for (int64_t n = 0; n < g.batch; ++n) {
      const T* plane = y + (n * features + m) * g.out_size();
      for (int64_t i = 0; i < g.out_size(); ++i) bias[m] += plane[i];
    }
  }
}

template <class T>
Kernel prepare(const Node& node, const ConvProblem& problem, const Binding& binding) {
  Geometry g(problem);
  const ConvSlots& slots = problem.slots;
  T* x = static_cast<T*>(conv_address(binding, slots.x));
  T* w = static_cast<T*>(conv_address(binding, slots.w));
  T* y = static_cast<T*>(conv_address(binding, slots.y));
  T* bias = problem.bias ? static_cast<T*>(conv_address(binding, slots.bias)) : nullptr;
  switch (slots.way) {
    case ConvWay::forward: return then_finish(node, problem, binding, [=](Stream&) { forward<T>(g, x, w, bias, y); });
    case ConvWay::data: return [=](Stream&) { data<T>(g, y, w, bias, x); };
    case ConvWay::weights: return [=](Stream&) { weights<T>(g, x, y, w, bias); };
  }
  return {};
}

}  // namespace

Kernel prepare_conv_reference(const Node& node, const Binding& binding) {
  ConvProblem problem = conv_problem(node);
  return problem.dtype == DType::f32 ? prepare<float>(node, problem, binding) : prepare<double>(node, problem, binding);
}

}  // namespace graft
