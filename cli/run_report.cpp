#include "cli/run_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <ctime>

#include "graph/version.h"
#include "runtime/device/cpu/system.h"

namespace graft {
namespace {

std::string local_time() {
  std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M", &parts);
  return text.data();
}

void add_series(Report& report, const std::vector<std::map<std::string, double>>& rows, const std::string& column,
                const std::string& metric, const std::string& part) {
  Report::Series series{metric, part, {}};
  for (const auto& row : rows) {
    auto value = row.find(column);
    if (value != row.end()) series.points.emplace_back(static_cast<int64_t>(row.at("epoch")), value->second);
  }
  if (!series.points.empty()) report.series.push_back(std::move(series));
}

void add_epochs(Report& report, const std::vector<std::map<std::string, double>>& rows, LossType loss) {
  for (const auto& metric : metric_names(loss)) {
    add_series(report, rows, "train_" + metric, metric, "training");
    add_series(report, rows, "val_" + metric, metric, "validation");
  }
  add_series(report, rows, "lr", "learning rate", "");
  add_series(report, rows, "samples_per_second", "samples a second", "");
  double samples = 0, training = 0;
  for (const auto& row : rows) {
    report.seconds += row.at("seconds");
    double epoch = static_cast<double>(report.samples.at(0).second) / row.at("samples_per_second");
    training += epoch;
    samples += static_cast<double>(report.samples.at(0).second);
  }
  if (training > 0) report.samples_per_second = samples / training;
  report.stages = {{"training", training}, {"validation, files", std::max(report.seconds - training, 0.0)}};
}

Report::Facts model_facts(const ModelSession& model) {
  ModelSummary summary = model.file().summary();
  int64_t numbers = 0;
  for (const auto& name : model.session().parameters())
    numbers += element_count(model.session().store().entry(name).dims);
  Report::Facts facts{
      {"file", model.file().path().string()},
      {"opset", std::to_string(model.file().opset())},
      {"IR version", std::to_string(summary.ir_version)},
      {"parameters", fmt::format("{} tensors, {} numbers", model.session().parameters().size(), numbers)}};
  if (!summary.producer_name.empty())
    facts.emplace_back("producer", summary.producer_name + " " + summary.producer_version);
  return facts;
}

}  // namespace

Report make_report(const RunFolder& folder, const RunFacts& facts) {
  const TrainConfig& config = *facts.config;
  Report report;
  auto name = [](const std::string& path) { return std::filesystem::path(path).filename().string(); };
  report.title = name(config.model) + " on " +
                 name(config.data.ends_with('/') ? config.data.substr(0, config.data.size() - 1) : config.data);
  report.subtitle = local_time() + ", " + facts.end;
  report.samples = {{"training", facts.train_samples}, {"validation", facts.validation_samples}};
  report.skipped = facts.skipped;
  report.skip_reasons = facts.skip_reasons;
  add_epochs(report, read_metrics_csv(folder.metrics().string()), loss_type(config.loss));
  if (facts.result.best_epoch > 0) report.best_epoch = facts.result.best_epoch;
  if (facts.best) {
    report.final_metrics = facts.best->metrics;
    report.final_metrics.insert(report.final_metrics.begin(), {"loss", facts.best->loss});
    auto classes = facts.class_names.size();
    if (classes > 0 && facts.best->confusion.size() == classes * classes) {
      report.class_names = facts.class_names;
      report.confusion = facts.best->confusion;
    }
  }
  report.memory = {{"weights and optimiser", facts.plan.state_bytes},
                   {"working memory of a step", facts.plan.arena_bytes},
                   {"prepared constants", facts.plan.prologue_bytes + facts.plan.constant_bytes},
                   {"inputs", facts.plan.input_bytes}};
  report.model = model_facts(*facts.model);
  report.configuration = config.settings.values();
  report.environment = {
      {"Graft", version()}, {"processor", processor_name()}, {"threads", std::to_string(thread_count())}};
  return report;
}

}  // namespace graft
