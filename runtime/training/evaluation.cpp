#include "runtime/training/evaluation.h"

#include <algorithm>

#include "runtime/training/targets.h"

namespace graft {
namespace {

using AnyMetrics = std::variant<ClassMetrics, BinaryMetrics, RegressionMetrics>;
constexpr int64_t top_k = 5;

AnyMetrics metrics_of(LossType loss, const Dims& prediction, int64_t ignored) {
  if (loss == LossType::cross_entropy && prediction.size() > 1) return ClassMetrics(prediction[1], top_k, ignored);
  if (loss == LossType::bce) return BinaryMetrics();
  return RegressionMetrics();
}

}  // namespace

Metrics::Metrics(LossType loss, const Dims& prediction, int64_t ignored)
    : metrics_(metrics_of(loss, prediction, ignored)) {}

void Metrics::add(const Tensor& prediction, const Tensor& targets) {
  std::visit([&](auto& metrics) { metrics.add(prediction, targets); }, metrics_);
}

MetricValues Metrics::values() const {
  return std::visit([](const auto& metrics) { return metrics.values(); }, metrics_);
}

std::vector<std::string> metric_names(LossType loss) {
  switch (loss) {
    case LossType::cross_entropy: return {"loss", "accuracy", "macro_f1", cat("top", top_k)};
    case LossType::bce: return {"loss", "accuracy", "f1"};
    default: return {"loss", "mae", "rmse", "r2"};
  }
}

bool more_is_better(const std::string& metric) { return metric != "loss" && metric != "mae" && metric != "rmse"; }

double Evaluation::value(const std::string& name) const {
  if (name == "loss") return loss;
  auto found = std::find_if(metrics.begin(), metrics.end(), [&](const auto& metric) { return metric.first == name; });
  return found == metrics.end() ? std::numeric_limits<double>::quiet_NaN() : found->second;
}

std::map<std::string, Dims> dims_of(const Batch& batch) {
  std::map<std::string, Dims> dims;
  for (const auto& [name, tensor] : batch.inputs) dims[name] = tensor.dims();
  return dims;
}

void set_inputs(Program& program, const Batch& batch) {
  for (const auto& [name, tensor] : batch.inputs) {
    if (program.has_input(name)) program.set_input(name, tensor);
  }
}

Evaluation evaluate(Session& session, const Dataset& dataset, Loader& loader, const EvaluationOptions& options) {
  Evaluation result;
  std::optional<Metrics> metrics;
  double sum = 0, weight = 0;
  Batch batch;
  loader.start_epoch(0);
  while (loader.next(batch)) {
    std::shared_ptr<Program> shared = session.evaluation(dims_of(batch), options.loss, options.output);
    Program& program = *shared;
    const Value& slot = *program.graph().find("graft.labels");
    std::string what = "the samples from " + dataset.describe(batch.indices.at(0)) + " on";
    Tensor targets = fit_targets(batch.labels, slot.dtype, slot.dims, what);
    set_inputs(program, batch);
    program.set_input("graft.labels", targets);
    program.run();
    Tensor prediction = program.output("graft.prediction");
    if (!metrics) metrics.emplace(options.loss.type, prediction.dims(), options.loss.ignore_index);
    metrics->add(prediction, targets);
    double batch_sum = program.scalar("graft.loss_sum");
    double batch_weight = program.scalar("graft.weight_sum");
    sum += batch_sum;
    weight += batch_weight;
    result.samples += batch.count;
    if (options.on_batch) options.on_batch(batch, prediction, targets, batch_weight > 0 ? batch_sum / batch_weight : 0);
  }
  result.loss = weight > 0 ? sum / weight : 0;
  if (metrics) result.metrics = metrics->values();
  if (metrics && metrics->classes()) result.confusion = metrics->classes()->confusion();
  result.skipped = loader.skipped();
  result.skip_reasons = loader.skip_reasons();
  return result;
}

}  // namespace graft
