// What `graft train` leaves in --out, written while the run goes on.
#pragma once

#include <filesystem>
#include <memory>

#include "cli/train_config.h"
#include "runtime/training/event_file.h"
#include "runtime/training/metrics_csv.h"

namespace graft {

class RunFolder {
 public:
  explicit RunFolder(const std::filesystem::path& path) : path_(path) {}

  std::filesystem::path model() const { return path_ / "model.onnx"; }
  std::filesystem::path checkpoint() const { return path_ / "last.ckpt"; }
  std::filesystem::path config() const { return path_ / "config.yaml"; }
  std::filesystem::path metrics() const { return path_ / "metrics.csv"; }
  std::filesystem::path report() const { return path_ / "report.html"; }

  // Makes the folder where need be and begins metrics.csv and the event file; a run that goes on keeps the rows of the
  // epochs that it has behind it. DeviceError where the system refuses.
  void begin(LossType loss, std::optional<int64_t> epochs_behind);
  void add(const TrainingStep& step);
  void add(const TrainingEpoch& epoch);

 private:
  void remove_old() const;

  std::filesystem::path path_;
  std::vector<std::string> metrics_;  // of validation
  std::unique_ptr<MetricsCsv> csv_;
  std::unique_ptr<EventFile> events_;
  double event_time_ = 0;
};

}  // namespace graft
