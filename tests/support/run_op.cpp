#include "tests/support/run_op.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graph/passes/passes.h"
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

void expect_same_for_any_threads(const std::function<Tensor()>& run) {
  int threads = thread_count();
  set_thread_count(1);
  Tensor one = run();
  set_thread_count(4);
  Tensor four = run();
  set_thread_count(threads);
  expect_close(four, one, 0);
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

std::vector<Tensor> op_gradients(const std::string& domain, const std::string& type, const std::vector<Tensor>& inputs,
                                 size_t output_count, const Attributes& attributes, const Tensor& seed,
                                 const std::vector<size_t>& wanted) {
  Graph graph;
  std::map<std::string, Tensor> given;
  std::vector<Value*> operands;
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::string name = cat("x", i);
    operands.push_back(inputs[i].defined() ? graph.add_input(name, inputs[i].dtype(), inputs[i].dims()) : nullptr);
    if (operands.back()) given[name] = inputs[i];
  }
  Node* node = graph.add_node(domain, type, operands, output_count, attributes);
  infer(*node);
  std::vector<Value*> targets;
  for (size_t slot : wanted) targets.push_back(operands[slot]);
  graph.outputs = differentiate(graph, {node->outputs[0]}, {graph.add_constant(seed)}, targets);
  for (const Value* output : graph.outputs) {
    if (!output) throw UsageError(type, " gives no gradient for a wanted input");
  }
  verify(graph);
  return evaluate(graph, given);
}

void check_gradients(const std::string& domain, const std::string& type, const std::vector<Tensor>& inputs,
                     size_t output_count, const Attributes& attributes, const std::vector<size_t>& wanted,
                     double f32_tolerance) {
  Tensor seed = random_tensor(DType::f64, run_op(domain, type, inputs, output_count, attributes)[0].dims(), 99);
  auto got = op_gradients(domain, type, inputs, output_count, attributes, seed, wanted);
  std::vector<Tensor> narrow = inputs;
  for (Tensor& t : narrow) t = t.dtype() == DType::f64 ? t.cast(DType::f32) : t;
  auto got_narrow = op_gradients(domain, type, narrow, output_count, attributes, seed.cast(DType::f32), wanted);
  for (size_t k = 0; k < wanted.size(); ++k) {
    auto f = [&](const Tensor& moved) {
      std::vector<Tensor> at = inputs;
      at[wanted[k]] = moved;
      Tensor y = run_op(domain, type, at, output_count, attributes)[0];
      double sum = 0;
      for (int64_t i = 0; i < y.count(); ++i) sum += y.data<double>()[i] * seed.data<double>()[i];
      return sum;
    };
    expect_close(got[k], numeric_gradient(f, inputs[wanted[k]]), 1e-6);
    expect_close(got_narrow[k].cast(DType::f64), got[k], f32_tolerance);
  }
}

}  // namespace graft::test
