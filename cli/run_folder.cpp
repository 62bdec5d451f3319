#include "cli/run_folder.h"

#include "runtime/clock.h"

namespace graft {
namespace {

constexpr double seconds_between_events = 1;

}  // namespace

void RunFolder::begin(LossType loss, std::optional<int64_t> epochs_behind) {
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  if (error) throw DeviceError("cannot make the folder \"", path_.string(), "\": ", error.message());
  if (!epochs_behind) remove_old();
  std::vector<std::string> columns{"epoch", "step", "lr", "train_loss", "train_accuracy"};
  metrics_ = metric_names(loss);
  for (const auto& metric : metrics_) columns.push_back("val_" + metric);
  columns.insert(columns.end(), {"seconds", "samples_per_second", "skipped"});
  csv_ = std::make_unique<MetricsCsv>(metrics().string(), columns, epochs_behind);
  events_ = std::make_unique<EventFile>(path_.string());
}

// What an earlier run left would be taken for the new one's.
void RunFolder::remove_old() const {
  std::error_code error;
  for (const auto& file : {model(), checkpoint(), report()}) std::filesystem::remove(file, error);
  std::vector<std::filesystem::path> events;
  for (const auto& entry : std::filesystem::directory_iterator(path_, error)) {
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) events.push_back(entry.path());
  }
  for (const auto& file : events) std::filesystem::remove(file, error);
}

void RunFolder::add(const TrainingStep& step) {
  // Loss curves need no point for each of a thousand steps a second.
  if (double time = seconds_now(); step.batch == 1 || time - event_time_ > seconds_between_events) {
    event_time_ = time;
    events_->scalar("train/batch_loss", step.loss, step.step);
    events_->scalar("train/lr", step.rate, step.step);
    if (step.gradient_norm) events_->scalar("train/gradient_norm", *step.gradient_norm, step.step);
  }
}

void RunFolder::add(const TrainingEpoch& epoch) {
  auto known = [](double value) { return std::isnan(value) ? std::optional<double>() : value; };
  double rate = static_cast<double>(epoch.samples) / std::max(epoch.train_seconds, 1e-9);
  std::vector<std::optional<double>> row{static_cast<double>(epoch.epoch), static_cast<double>(epoch.step), epoch.rate,
                                         epoch.loss, known(epoch.accuracy)};
  events_->scalar("train/loss", epoch.loss, epoch.step);
  if (known(epoch.accuracy)) events_->scalar("train/accuracy", epoch.accuracy, epoch.step);
  for (const auto& metric : metrics_) {
    auto value = epoch.validation ? known(epoch.validation->value(metric)) : std::nullopt;
    row.push_back(value);
    if (value) events_->scalar("val/" + metric, *value, epoch.step);
  }
  events_->scalar("train/samples_per_second", rate, epoch.step);
  row.insert(row.end(), {epoch.seconds, rate, static_cast<double>(epoch.skipped)});
  csv_->add(row);
  events_->flush();
}

}  // namespace graft
