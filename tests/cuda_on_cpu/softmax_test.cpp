// ops/softmax.cu against plain loops in float64 and against the CPU kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/cuda_on_cpu/run_kernel.h"
#include "tests/support/run_op.h"

namespace graft {

std::vector<KernelEntry> softmax_cuda();
std::vector<KernelEntry> log_softmax_cuda();
std::vector<KernelEntry> softmax_grad_cuda();
std::vector<KernelEntry> log_softmax_grad_cuda();

namespace test {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// A tensor (outer, length, inner) seen along its middle axis.
struct Case {
  Dims dims;
  int64_t axis;
  int64_t outer = 1, length = 1, inner = 1;

  Case(Dims shape, int64_t along) : dims(std::move(shape)), axis(along) {
    auto rank = static_cast<int64_t>(dims.size());
    int64_t at = axis < 0 ? axis + rank : axis;
    for (int64_t d = 0; d < rank; ++d) (d < at ? outer : d == at ? length : inner) *= dims[static_cast<size_t>(d)];
  }
};

// f(n, at) for every row: its n elements lie at at(0), at(1)...
template <class F>
void for_each_row(const Case& c, F&& f) {
  for (int64_t o = 0; o < c.outer; ++o) {
    for (int64_t i = 0; i < c.inner; ++i) {
      f([&, o, i](int64_t j) { return static_cast<size_t>((o * c.length + j) * c.inner + i); });
    }
  }
}

Tensor forward_reference(const Case& c, const Tensor& x, bool logarithm) {
  Tensor y(DType::f64, c.dims);
  const double* in = x.data<double>();
  double* out = y.data<double>();
  for_each_row(c, [&](auto at) {
    double largest = -infinity, sum = 0;
    for (int64_t j = 0; j < c.length; ++j) largest = std::max(largest, in[at(j)]);
    for (int64_t j = 0; j < c.length; ++j) sum += std::exp(in[at(j)] - largest);
    for (int64_t j = 0; j < c.length; ++j) {
      double centred = in[at(j)] - largest;
      out[at(j)] = logarithm ? centred - std::log(sum) : std::exp(centred) / sum;
    }
  });
  return y;
}

Tensor backward_reference(const Case& c, const Tensor& y, const Tensor& dy, bool logarithm) {
  Tensor dx(DType::f64, c.dims);
  const double *value = y.data<double>(), *given = dy.data<double>();
  double* out = dx.data<double>();
  for_each_row(c, [&](auto at) {
    double sum = 0;
    for (int64_t j = 0; j < c.length; ++j) sum += logarithm ? given[at(j)] : value[at(j)] * given[at(j)];
    for (int64_t j = 0; j < c.length; ++j) {
      size_t k = at(j);
      out[k] = logarithm ? given[k] - std::exp(value[k]) * sum : value[k] * (given[k] - sum);
    }
  });
  return dx;
}

// Equal within tolerance * max(1, |want|); infinities and NaN must be the same.
void expect_same(const Tensor& got, const Tensor& want, double tolerance) {
  ASSERT_EQ(got.dims(), want.dims());
  Tensor g = got.cast(DType::f64), w = want.cast(DType::f64);
  for (int64_t i = 0; i < g.count(); ++i) {
    double a = g.data<double>()[i], b = w.data<double>()[i];
    bool same = std::isfinite(b) ? std::abs(a - b) <= tolerance * std::max(1.0, std::abs(b))
                                 : a == b || (std::isnan(a) && std::isnan(b));
    ASSERT_TRUE(same) << cat("element ", i, " of ", got.dims(), ": ", a, ", want ", b);
  }
}

Tensor run(const std::vector<KernelEntry>& kernels, const std::string& type, const Case& c,
           const std::vector<Tensor>& inputs, bool in_place) {
  Graph graph;
  std::vector<Value*> operands;
  for (const Tensor& input : inputs) operands.push_back(graph.add_constant(input));
  Node* node = graph.add_node("", type, operands, 1, {{"axis", c.axis}});
  node->outputs[0]->dtype = inputs[0].dtype();
  node->outputs[0]->dims = c.dims;
  node->outputs[0]->ranked = true;
  return run_kernel(kernels, *node, inputs, in_place)[0];
}

// Both directions of both operators, in both types, in place and not.
void check(const Case& c, const Tensor& x, const Tensor& dy) {
  for (bool logarithm : {false, true}) {
    Tensor y = forward_reference(c, x, logarithm);
    Tensor dx = backward_reference(c, y, dy, logarithm);
    for (DType dtype : {DType::f32, DType::f64}) {
      double tolerance = dtype == DType::f32 ? 3e-6 : 1e-13;
      for (bool in_place : {false, true}) {
        SCOPED_TRACE(
            cat(logarithm ? "LogSoftmax " : "Softmax ", dtype, c.dims, " axis ", c.axis, in_place ? " in place" : ""));
        auto forward = logarithm ? log_softmax_cuda() : softmax_cuda();
        auto backward = logarithm ? log_softmax_grad_cuda() : softmax_grad_cuda();
        std::string type = logarithm ? "LogSoftmax" : "Softmax";
        Attributes axis = {{"axis", c.axis}};
        std::vector<Tensor> given = {x.cast(dtype)}, gradients = {dy.cast(dtype), y.cast(dtype)};
        Tensor y_cuda = run(forward, type, c, given, in_place);
        Tensor dx_cuda = run(backward, type + "Grad", c, gradients, in_place);
        expect_same(y_cuda, y, tolerance);
        expect_same(dx_cuda, dx, tolerance * 4);
        expect_same(y_cuda, run_op("", type, given, 1, axis)[0], tolerance * 10);  // oneDNN's exp
        expect_same(dx_cuda, run_op("graft", type + "Grad", gradients, 1, axis)[0], tolerance * 10);
      }
    }
  }
}

void check(const Case& c, double range = 4) {
  check(c, random_tensor(DType::f64, c.dims, 1, -range, range), random_tensor(DType::f64, c.dims, 2));
}

TEST(SoftmaxCuda, OddSizes) {
  for (int64_t length : {1, 2, 7, 31, 32, 33, 63, 65, 127, 257}) check(Case({3, length}, -1));
  check(Case({1}, 0));
}

TEST(SoftmaxCuda, AnyAxis) {
  for (int64_t axis = -4; axis < 4; ++axis) check(Case({2, 3, 5, 4}, axis));
  check(Case({2, 70, 3}, 1));
}

TEST(SoftmaxCuda, RowsLongerThanABlock) {
  check(Case({2, 1024}, 1));
  check(Case({2, 1025}, 1));
  check(Case({1, 5001}, 1));
  check(Case({2049, 2}, 0));
}

TEST(SoftmaxCuda, LargeValuesStayFinite) {
  check(Case({4, 100}, 1), 50);
  Case c({2, 3}, 1);
  check(c, Tensor::of<double>({2, 3}, {1e4, 1e4, -1e4, -3e4, -3e4 - 1, -3e4}), random_tensor(DType::f64, c.dims, 3));
}

TEST(SoftmaxCuda, Masks) {
  for (int64_t length : {5, 40, 1500}) {
    Case c({4, length}, 1);
    Tensor x = random_tensor(DType::f64, c.dims, 4);
    double* values = x.data<double>();
    for (int64_t j = 0; j < length; ++j) {
      if (j % 3 == 0) values[j] = -infinity;                   // some
      if (j > 0) values[length + j] = -infinity;               // all but the first
      if (j + 1 < length) values[2 * length + j] = -infinity;  // all but the last
    }
    check(c, x, random_tensor(DType::f64, c.dims, 5));
  }
}

// exp(-inf + inf) is what the formula asks for: the whole row is not a number, other rows are untouched.
TEST(SoftmaxCuda, RowsWithoutAResult) {
  Case c({4, 40}, 1);
  Tensor x = random_tensor(DType::f64, c.dims, 6);
  for (int64_t j = 0; j < 40; ++j) x.data<double>()[j] = -infinity;
  x.data<double>()[40 + 33] = infinity;
  x.data<double>()[80 + 7] = std::nan("");
  Tensor y = run(softmax_cuda(), "Softmax", c, {x}, false);
  for (int64_t j = 0; j < 160; ++j) EXPECT_EQ(std::isnan(y.data<double>()[j]), j < 120) << j;
}

TEST(SoftmaxCuda, EmptyTensors) {
  check(Case({0, 4}, 1));
  check(Case({4, 0}, 1));
  check(Case({2, 0, 3}, 0));
}

TEST(SoftmaxCuda, AxisOutOfRange) {
  Case c({2, 3}, 1);
  Tensor x = random_tensor(DType::f32, c.dims, 7);
  c.axis = 2;
  EXPECT_THROW(run(softmax_cuda(), "Softmax", c, {x}, false), ModelError);
}

}  // namespace
}  // namespace test
}  // namespace graft
