#include "runtime/training/optimiser.h"

#include "ops/build.h"

namespace graft {
namespace {

constexpr const char* step_name = "optimiser/step";
constexpr const char* loss_name = "loss/sum";
constexpr const char* weight_name = "loss/weight";

std::string accumulator_name(const Value& parameter) { return parameter.name + "/gradient"; }

void require(bool holds, const char* what, double got, const char* allowed) {
  if (!holds) throw UsageError("optimiser: ", what, " is ", got, ", allowed is ", allowed);
}

void check(const OptimiserOptions& o) {
  require(o.weight_decay >= 0, "weight decay", o.weight_decay, "at least 0");
  if (o.type == OptimiserType::sgd) {
    require(o.momentum >= 0, "momentum", o.momentum, "at least 0");
    require(!o.nesterov || o.momentum > 0, "momentum", o.momentum, "more than 0 with Nesterov");
    require(!o.nesterov || o.dampening == 0, "dampening", o.dampening, "0 with Nesterov");
    return;
  }
  require(o.beta1 >= 0 && o.beta1 < 1, "beta1", o.beta1, "0 to below 1");
  require(o.beta2 >= 0 && o.beta2 < 1, "beta2", o.beta2, "0 to below 1");
  require(static_cast<float>(o.eps) > 0, "eps", o.eps, "more than 0");
}

// The step of one type: its node, its moments by name, its attributes.
struct Step {
  const char* type;
  std::vector<const char*> moments;
  Attributes attributes;
};

Step step_of(const OptimiserOptions& o) {
  if (o.type == OptimiserType::sgd) {
    std::vector<const char*> moments;
    if (o.momentum > 0) moments.push_back("/sgd.momentum");
    return {"Sgd",
            moments,
            {{"momentum", o.momentum},
             {"dampening", o.dampening},
             {"weight_decay", o.weight_decay},
             {"nesterov", int64_t{o.nesterov}}}};
  }
  return {"Adam",
          {"/adam.m", "/adam.v"},
          {{"beta1", o.beta1},
           {"beta2", o.beta2},
           {"eps", o.eps},
           {"weight_decay", o.weight_decay},
           {"decoupled", int64_t{o.type == OptimiserType::adamw}}}};
}

// Nodes added while this lives belong to the optimiser.
class OptimiserNodes {
 public:
  explicit OptimiserNodes(Graph& graph) : graph_(graph), before_(graph.provenance()) {
    graph_.set_provenance({"", Direction::optimiser});
  }
  OptimiserNodes(const OptimiserNodes&) = delete;
  OptimiserNodes& operator=(const OptimiserNodes&) = delete;
  ~OptimiserNodes() { graph_.set_provenance(before_); }
  void about(const std::string& name) { graph_.set_provenance({name, Direction::optimiser}); }

 private:
  Graph& graph_;
  Provenance before_;
};

void add_step(Graph& graph, const Step& step, Value* parameter, Value* gradient, const std::vector<Val>& scalars) {
  if (!gradient->shaped() || gradient->dims != parameter->dims || gradient->dtype != parameter->dtype) {
    throw UsageError("parameter \"", parameter->name, "\" is ", parameter->dtype, parameter->dims, ", its gradient ",
                     gradient->dtype, gradient->dims);
  }
  std::vector<Val> operands{{graph, parameter}, {graph, gradient}};
  for (const Val& scalar : scalars) operands.push_back(scalar);
  std::vector<Value*> states{parameter};
  for (const char* suffix : step.moments) {
    states.push_back(graph.add_state(parameter->name + suffix, StateKind::moment, parameter->dtype, parameter->dims));
    operands.emplace_back(graph, states.back());
  }
  auto results = call("graft", step.type, operands, states.size(), step.attributes);
  for (size_t i = 0; i < states.size(); ++i) graph.bind_state(states[i], results[i].value());
}

Value* accumulate_into(Graph& graph, const std::string& name, Value* value) {
  Val state(graph, graph.add_state(name, StateKind::accumulator, value->dtype, value->dims));
  Val total = state + Val(graph, value);
  graph.bind_state(state.value(), total.value());
  return total.value();
}

Value* take_and_zero(Graph& graph, const std::string& name, DType dtype, const Dims& dims) {
  Val state(graph, graph.add_state(name, StateKind::accumulator, dtype, dims));
  graph.bind_state(state.value(), call("graft", "Zero", {state}, 1)[0].value());
  return state.value();
}

}  // namespace

OptimiserType optimiser_type(const std::string& name) {
  const std::vector<std::string> names{"sgd", "adam", "adamw"};
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<OptimiserType>(i);
  }
  throw UsageError("optimiser \"", name, "\" is unknown: did you mean \"", nearest_names(name, names, 1)[0],
                   "\"? Allowed are sgd, adam, adamw");
}

Normalisation add_normalisation(Graph& graph, Value* weight, const std::vector<Value*>& gradients, double clip_norm,
                                DType dtype) {
  OptimiserNodes nodes(graph);
  constexpr double tiny = 1e-30;
  Val total = cast({graph, weight}, dtype);
  Val scale = 1.0 / call("Max", {total, constant_like(total, tiny)});
  std::vector<Val> present;
  for (Value* gradient : gradients) {
    if (gradient) present.emplace_back(graph, gradient);
  }
  if (clip_norm <= 0 || present.empty()) return {scale.value(), nullptr};
  Val norm = call("graft", "GlobalNorm", present, 1)[0] * scale;
  Val coefficient = call("Min", {clip_norm / (norm + 1e-6), constant_like(norm, 1)});
  return {(scale * coefficient).value(), norm.value()};
}

void add_optimiser(Graph& graph, const std::vector<Value*>& parameters, const std::vector<Value*>& gradients,
                   Value* scale, Value* lr, const OptimiserOptions& options) {
  check(options);
  if (parameters.size() != gradients.size()) {
    throw UsageError("optimiser: ", parameters.size(), " parameters, but ", gradients.size(), " gradients");
  }
  OptimiserNodes nodes(graph);
  Val counter(graph, graph.add_state(step_name, StateKind::counter, DType::i64, {}));
  Val step = call("graft", "Increment", {counter}, 1)[0];
  graph.bind_state(counter.value(), step.value());
  const Step kind = step_of(options);
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!gradients[i]) continue;
    nodes.about(parameters[i]->name);
    add_step(graph, kind, parameters[i], gradients[i], {{graph, scale}, {graph, lr}, step});
  }
}

Accumulators add_accumulation(Graph& accumulate, const std::vector<Value*>& parameters,
                              const std::vector<Value*>& gradients, Value* loss_sum, Value* loss_weight) {
  OptimiserNodes nodes(accumulate);
  Accumulators totals;
  for (size_t i = 0; i < parameters.size(); ++i) {
    Value* gradient = gradients.at(i);
    totals.gradients.push_back(gradient ? accumulate_into(accumulate, accumulator_name(*parameters[i]), gradient)
                                        : nullptr);
  }
  totals.loss = accumulate_into(accumulate, loss_name, loss_sum);
  totals.weight = accumulate_into(accumulate, weight_name, loss_weight);
  return totals;
}

Accumulators add_accumulated(Graph& apply, const std::vector<Value*>& parameters, const std::vector<bool>& has_gradient,
                             DType loss_dtype, std::vector<Value*>& applied) {
  OptimiserNodes nodes(apply);
  Accumulators totals;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Value& parameter = *parameters[i];
    if (!has_gradient.at(i)) continue;
    applied.push_back(apply.add_state(parameter.name, parameter.kind, parameter.dtype, parameter.dims));
    totals.gradients.push_back(take_and_zero(apply, accumulator_name(parameter), parameter.dtype, parameter.dims));
  }
  totals.loss = take_and_zero(apply, loss_name, loss_dtype, {});
  totals.weight = take_and_zero(apply, weight_name, loss_dtype, {});
  return totals;
}

}  // namespace graft
