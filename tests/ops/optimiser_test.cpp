// Optimiser steps against a plain double spelling of PyTorch's formulas.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/op.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::expect_close;
using test::random_tensor;
using test::run_op;

struct Scalars {
  double scale, lr;
  int64_t step;
};

Tensor number(DType dtype, double value) { return Tensor::scalar<double>(value).cast(dtype); }

using Columns = std::vector<std::vector<double>>;  // w, g, then moments

Columns columns(const std::vector<Tensor>& tensors) {
  Columns result;
  for (const Tensor& t : tensors) {
    Tensor wide = t.cast(DType::f64);
    auto span = wide.values<double>();
    result.emplace_back(span.begin(), span.end());
  }
  return result;
}

// Runs `type` on w, g, moments for several steps and compares every result with `reference`.
void check_steps(const std::string& type, DType dtype, size_t moments, const Attributes& attributes,
                 const std::function<void(double& w, double g, std::vector<double>& m, const Scalars&)>& reference) {
  const Dims dims{37};  // no multiple of a vector
  double tolerance = dtype == DType::f32 ? 2e-6 : 1e-14;
  Tensor w = random_tensor(dtype, dims, 1);
  std::vector<Tensor> states(moments, Tensor(dtype, dims));
  Columns want = columns({w});
  want.resize(1 + moments, std::vector<double>(37, 0.0));
  for (int64_t step = 1; step <= 4; ++step) {
    Scalars now{0.25, 0.1 / static_cast<double>(step), step};
    Tensor g = random_tensor(dtype, dims, 100U + static_cast<unsigned>(step));
    std::vector<Tensor> inputs{w, g, number(dtype, now.scale), number(dtype, now.lr), Tensor::scalar<int64_t>(step)};
    inputs.insert(inputs.end(), states.begin(), states.end());
    auto results = run_op("graft", type, inputs, 1 + moments, attributes);
    auto gradient = columns({g})[0];
    for (size_t i = 0; i < 37; ++i) {
      std::vector<double> m;
      for (size_t k = 0; k < moments; ++k) m.push_back(want[1 + k][i]);
      reference(want[0][i], gradient[i] * now.scale, m, now);
      for (size_t k = 0; k < moments; ++k) want[1 + k][i] = m[k];
    }
    for (size_t k = 0; k <= moments; ++k)
      expect_close(results[k], Tensor::of<double>(dims, want[k]).cast(dtype), tolerance);
    w = results[0];
    states.assign(results.begin() + 1, results.end());
  }
}

void check_adam(DType dtype, bool decoupled) {
  constexpr double beta1 = 0.8, beta2 = 0.95, eps = 1e-3, decay = 0.3;
  Attributes attributes{
      {"beta1", beta1}, {"beta2", beta2}, {"eps", eps}, {"weight_decay", decay}, {"decoupled", int64_t{decoupled}}};
  check_steps("Adam", dtype, 2, attributes, [&](double& w, double g, std::vector<double>& m, const Scalars& now) {
    if (decoupled) w -= now.lr * decay * w;
    else g += decay * w;
    m[0] = beta1 * m[0] + (1 - beta1) * g;
    m[1] = beta2 * m[1] + (1 - beta2) * g * g;
    double corrected1 = m[0] / (1 - std::pow(beta1, static_cast<double>(now.step)));
    double corrected2 = m[1] / (1 - std::pow(beta2, static_cast<double>(now.step)));
    w -= now.lr * corrected1 / (std::sqrt(corrected2) + eps);
  });
}

TEST(Adam, CoupledDecay) {
  check_adam(DType::f32, false);
  check_adam(DType::f64, false);
}

TEST(Adam, DecoupledDecay) {
  check_adam(DType::f32, true);
  check_adam(DType::f64, true);
}

void check_sgd(DType dtype, double momentum, double dampening, bool nesterov) {
  constexpr double decay = 0.2;
  Attributes attributes{
      {"momentum", momentum}, {"dampening", dampening}, {"weight_decay", decay}, {"nesterov", int64_t{nesterov}}};
  check_steps("Sgd", dtype, momentum > 0 ? 1 : 0, attributes,
              [&](double& w, double g, std::vector<double>& m, const Scalars& now) {
                g += decay * w;
                double update = g;
                if (momentum > 0) {
                  m[0] = now.step == 1 ? g : momentum * m[0] + (1 - dampening) * g;
                  update = nesterov ? g + momentum * m[0] : m[0];
                }
                w -= now.lr * update;
              });
}

TEST(Sgd, Variants) {
  for (DType dtype : {DType::f32, DType::f64}) {
    check_sgd(dtype, 0, 0, false);
    check_sgd(dtype, 0.9, 0, false);
    check_sgd(dtype, 0.9, 0.4, false);
    check_sgd(dtype, 0.9, 0, true);
  }
}

TEST(Adam, RefusesWhatItCannotStep) {
  Tensor w(DType::f32, {2});
  Tensor one = number(DType::f32, 1);
  Tensor step = Tensor::scalar<int64_t>(1);
  EXPECT_THROW(run_op("graft", "Adam", {w, w, one, one, step, w}, 2), ModelError);
  EXPECT_THROW(run_op("graft", "Adam", {w, w, one, one, step, w, Tensor(DType::f32, {3})}, 3), ModelError);
  EXPECT_THROW(run_op("graft", "Adam", {w, w, one, one, step, w, w}, 3, {{"eps", 0.0}}), ModelError);
}

TEST(Adam, TakesTheGradientsLayoutAndKeepsPaddingZero) {
  Graph graph;
  const Dims dims{3};
  Layout blocked{{8}, {1}, {{0, 8}}};
  std::vector<Value*> operands;
  for (int i = 0; i < 7; ++i)
    operands.push_back(graph.add_constant(Tensor(i == 4 ? DType::i64 : DType::f32, i > 1 && i < 5 ? Dims{} : dims)));
  Node* node = graph.add_node("graft", "Adam", operands, 3, {{"weight_decay", 0.1}, {"decoupled", int64_t{1}}});
  infer(*node);
  for (Value* operand : operands) operand->layout = Layout::plain(operand->dims);
  operands[1]->layout = blocked;
  const KernelFunctions* kernel = find_kernel(*node);
  Candidate chosen = kernel->propose(*node)[0];
  for (size_t i : {0U, 1U, 5U, 6U}) EXPECT_EQ(chosen.inputs[i], blocked);
  for (const Layout& output : chosen.outputs) EXPECT_EQ(output, blocked);
  std::vector<float> w{1, 2, 3, 0, 0, 0, 0, 0}, g{1, 1, 1, 0, 0, 0, 0, 0}, m(8), v(8);
  float scale = 1, lr = 0.1F;
  int64_t step = 1;
  Binding binding{{w.data(), g.data(), &scale, &lr, &step, m.data(), v.data()}, {w.data(), m.data(), v.data()}};
  auto stream = make_stream(Device::cpu);
  kernel->prepare(*node, binding)(*stream);
  EXPECT_NEAR(w[0], 0.99 - 0.1, 1e-6);
  for (size_t i = 3; i < 8; ++i) EXPECT_EQ(w[i], 0.0F);
}

TEST(GlobalNorm, AllOperandsInDouble) {
  for (DType dtype : {DType::f32, DType::f64}) {
    std::vector<Tensor> operands{random_tensor(dtype, {200, 301}, 1), random_tensor(dtype, {}, 2), Tensor(dtype, {0}),
                                 random_tensor(dtype, {7}, 3)};
    double sum = 0;
    for (const auto& column : columns(operands)) {
      for (double x : column) sum += x * x;
    }
    auto got = run_op("graft", "GlobalNorm", operands, 1);
    expect_close(got[0], number(dtype, std::sqrt(sum)), dtype == DType::f32 ? 1e-7 : 1e-13);
  }
  auto large = run_op("graft", "GlobalNorm", {Tensor::of<float>({2}, {3e30F, 4e30F})}, 1);
  EXPECT_FLOAT_EQ(large[0].data<float>()[0], 5e30F);
}

TEST(Increment, CountsUp) {
  EXPECT_EQ(run_op("graft", "Increment", {Tensor::scalar<int64_t>(41)}, 1)[0].data<int64_t>()[0], 42);
}

TEST(Zero, EmptiesAnAccumulator) {
  expect_close(run_op("graft", "Zero", {random_tensor(DType::f32, {5}, 1)}, 1)[0], Tensor(DType::f32, {5}), 0);
}

}  // namespace
}  // namespace graft
