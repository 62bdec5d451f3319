// Loss and metrics of a model over samples, in inference mode.
#pragma once

#include <functional>
#include <variant>

#include "runtime/session.h"
#include "runtime/training/loader.h"
#include "runtime/training/metrics.h"

namespace graft {

// The metrics that belong to a loss: classes for cross_entropy, yes-or-no for bce, numbers against numbers for others.
class Metrics {
 public:
  Metrics(LossType loss, const Dims& prediction, int64_t ignored);
  // `prediction` as the loss sees it (logits), `targets` as the loss takes them.
  void add(const Tensor& prediction, const Tensor& targets);
  MetricValues values() const;
  // Of cross_entropy; nullptr for other losses.
  const ClassMetrics* classes() const { return std::get_if<ClassMetrics>(&metrics_); }

 private:
  std::variant<ClassMetrics, BinaryMetrics, RegressionMetrics> metrics_;
};

// Names that metrics of a loss have, "loss" first, and whether more is better.
std::vector<std::string> metric_names(LossType loss);
bool more_is_better(const std::string& metric);

struct Evaluation {
  double loss = 0;  // weighted mean
  MetricValues metrics;
  int64_t samples = 0;
  int64_t skipped = 0;
  std::vector<std::string> skip_reasons;
  std::vector<int64_t> confusion;  // see ClassMetrics
  // "loss" or one of `metrics`; NaN where there is no such metric.
  double value(const std::string& name) const;
};

struct EvaluationOptions {
  LossOptions loss;
  std::string output;  // "": the first graph output
  // Called behind each batch with its targets and prediction as the loss sees them.
  std::function<void(const Batch& batch, const Tensor& prediction, const Tensor& targets, double loss)> on_batch;
};

// Goes once through the loader, in its epoch 0. DataError for labels that do not fit the loss.
Evaluation evaluate(Session& session, const Dataset& dataset, Loader& loader, const EvaluationOptions& options);

// Copies a batch into the slots of a program whose inputs are the model's. UsageError where the data lacks an input.
void set_inputs(Program& program, const Batch& batch);
std::map<std::string, Dims> dims_of(const Batch& batch);

}  // namespace graft
