// The optimiser's part of a training graph: normalisation, clipping, one step node a parameter, accumulation.
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"

namespace graft {

enum class OptimiserType : uint8_t { sgd, adam, adamw };

// PyTorch's names, meanings and formulas.
struct OptimiserOptions {
  OptimiserType type = OptimiserType::adamw;
  double momentum = 0;  // sgd
  double dampening = 0;
  bool nesterov = false;
  double beta1 = 0.9;  // adam, adamw
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  // adamw: decoupled from the gradient
};

// "sgd", "adam", "adamw"; UsageError with the nearest name for another.
OptimiserType optimiser_type(const std::string& name);

// The factor that turns gradients of a loss sum into gradients of the weighted mean, clipped to a norm.
struct Normalisation {
  Value* scale = nullptr;
  Value* norm = nullptr;  // of the normalised gradient, before clipping; nullptr without clipping
};

// scale = 1 / weight, times min(1, clip_norm / (norm + 1e-6)) where clip_norm > 0. A weight of zero (every label was
// ignored) leaves gradients that are zero as they are. `gradients` may contain nullptr. `weight` gets `dtype`.
Normalisation add_normalisation(Graph& graph, Value* weight, const std::vector<Value*>& gradients, double clip_norm,
                                DType dtype);

// Adds a step for each of `parameters` (states of the graph) that has a gradient (nullptr: none), with states for
// moments ("NAME/adam.m", "NAME/adam.v", "NAME/sgd.momentum") and a counter ("optimiser/step"), all starting at zero.
// `scale` and `lr` are scalars. UsageError for options out of range.
void add_optimiser(Graph& graph, const std::vector<Value*>& parameters, const std::vector<Value*>& gradients,
                   Value* scale, Value* lr, const OptimiserOptions& options);

// What two Programs share between accumulate and apply.
struct Accumulators {
  std::vector<Value*> gradients;  // in the order of the parameters; nullptr where one has no gradient
  Value* loss = nullptr;
  Value* weight = nullptr;
};

// accumulate: adds gradients, loss sum and weight to accumulator states "NAME/gradient", "loss/sum", "loss/weight".
// Returns the sums including this batch.
Accumulators add_accumulation(Graph& accumulate, const std::vector<Value*>& parameters,
                              const std::vector<Value*>& gradients, Value* loss_sum, Value* loss_weight);

// apply: adds states for `parameters` of another graph and for their accumulators, which are left zero. Returns the
// accumulated values; `applied` receives the parameters of this graph, one for each gradient. Parameters without a
// gradient (`has_gradient[i]` is false) are left out.
Accumulators add_accumulated(Graph& apply, const std::vector<Value*>& parameters, const std::vector<bool>& has_gradient,
                             DType loss_dtype, std::vector<Value*>& applied);

}  // namespace graft
