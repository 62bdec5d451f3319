// report.html: a training run on one page, for reading, sending and printing. No script, no network.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/training/metrics.h"

namespace graft {

struct Report {
  using Facts = std::vector<std::pair<std::string, std::string>>;

  // Series of one metric share a chart; the part tells them apart: {"loss", "training"}, {"loss", "validation"},
  // {"learning rate", ""}.
  struct Series {
    std::string metric;
    std::string part;
    std::vector<std::pair<int64_t, double>> points;  // (epoch, value), epochs ascending
  };

  std::string title;     // which model on which data
  std::string subtitle;  // when, and how it ended
  std::vector<std::string> warnings;

  MetricValues final_metrics;         // of the model that was kept
  std::optional<int64_t> best_epoch;  // the one that was kept
  std::vector<Series> series;

  // Classification: counts by (label, prediction), row-major, in the order of class_names. Empty: not shown.
  std::vector<std::string> class_names;
  std::vector<int64_t> confusion;

  std::vector<std::pair<std::string, int64_t>> samples;  // "training", 1442; "validation", 355
  int64_t skipped = 0;
  std::vector<std::string> skip_reasons;  // of the first ones

  double seconds = 0;
  double samples_per_second = 0;
  std::vector<std::pair<std::string, double>> stages;   // what the seconds went into
  std::vector<std::pair<std::string, int64_t>> memory;  // bytes of the plan by purpose

  Facts model, configuration, environment;
};

// Every text may come from a file and is escaped; numbers may be NaN or infinite; parts that are empty are left out.
// UsageError where the confusion matrix is not square or has another size than class_names.
std::string render_report(const Report& report);

}  // namespace graft
