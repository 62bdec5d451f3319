// Single operators on host tensors, without a model around them.
#pragma once

#include <functional>
#include <random>

#include "graph/graph.h"

namespace graft::test {

// Uniform in [low, high), the same for the same seed.
Tensor random_tensor(DType dtype, const Dims& dims, unsigned seed, double low = -1, double high = 1);

// Runs one node on `inputs` (undefined tensors are absent ones); its results are inferred.
std::vector<Tensor> run_op(const std::string& domain, const std::string& type, const std::vector<Tensor>& inputs,
                           size_t output_count, const Attributes& attributes = {});

// Fails where |got - want| > tolerance * max(1, |want|) anywhere, or types differ.
void expect_close(const Tensor& got, const Tensor& want, double tolerance);

// `run` gives the same bits with 1 and with 4 threads.
void expect_same_for_any_threads(const std::function<Tensor()>& run);

// Central differences of f at x (float64).
Tensor numeric_gradient(const std::function<double(const Tensor&)>& f, const Tensor& x, double step = 1e-5);

// The rule's gradients of sum(seed * output 0) for the inputs `wanted`, by the differentiate pass.
std::vector<Tensor> op_gradients(const std::string& domain, const std::string& type, const std::vector<Tensor>& inputs,
                                 size_t output_count, const Attributes& attributes, const Tensor& seed,
                                 const std::vector<size_t>& wanted);

// In float64: the rule against central differences, for a random seed; in float32: against float64.
void check_gradients(const std::string& domain, const std::string& type, const std::vector<Tensor>& inputs,
                     size_t output_count, const Attributes& attributes, const std::vector<size_t>& wanted,
                     double f32_tolerance = 1e-4);

}  // namespace graft::test
