#include "tests/support/run_op.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/op.h"
#include "runtime/evaluate.h"

namespace graft::test {

Tensor random_tensor(DType dtype, const Dims& dims, unsigned seed, double low, double high) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(low, high);
  Tensor t(DType::f64, dims);
  for (int64_t i = 0; i < t.count(); ++i) t.data<double>()[i] = uniform(engine);
  return t.cast(dtype);
}

std::vector<Tensor> run_op(const std::string& domain, const std::string& type, const std::vector<Tensor>& inputs,
                           size_t output_count, const Attributes& attributes) {
  Graph graph;
  std::vector<Value*> operands;
  for (const Tensor& input : inputs) operands.push_back(input.defined() ? graph.add_constant(input) : nullptr);
  Node* node = graph.add_node(domain, type, operands, output_count, attributes);
  infer(*node);
  return evaluate(*node, inputs);
}

void expect_close(const Tensor& got, const Tensor& want, double tolerance) {
  ASSERT_EQ(got.dtype(), want.dtype());
  ASSERT_EQ(got.dims(), want.dims());
  Tensor g = got.cast(DType::f64);
  Tensor w = want.cast(DType::f64);
  for (int64_t i = 0; i < g.count(); ++i) {
    double a = g.data<double>()[i];
    double b = w.data<double>()[i];
    ASSERT_TRUE(std::abs(a - b) <= tolerance * std::max(1.0, std::abs(b)))
        << "element " << i << ": " << a << ", want " << b;
  }
}

Tensor numeric_gradient(const std::function<double(const Tensor&)>& f, const Tensor& x, double step) {
  Tensor gradient(DType::f64, x.dims());
  Tensor moved = x.clone();
  for (int64_t i = 0; i < x.count(); ++i) {
    double at = x.data<double>()[i];
    moved.data<double>()[i] = at + step;
    double above = f(moved);
    moved.data<double>()[i] = at - step;
    gradient.data<double>()[i] = (above - f(moved)) / (2 * step);
    moved.data<double>()[i] = at;
  }
  return gradient;
}

}  // namespace graft::test
