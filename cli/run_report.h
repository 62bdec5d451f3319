// report.html of a training run.
#pragma once

#include "cli/run_folder.h"
#include "runtime/model_session.h"
#include "runtime/training/report.h"

namespace graft {

// What only the running process knows.
struct RunFacts {
  const ModelSession* model = nullptr;
  const TrainConfig* config = nullptr;
  TrainingResult result;
  std::string end;  // how it ended
  std::vector<std::string> class_names;
  std::optional<Evaluation> best;  // validation of the model that was kept
  int64_t train_samples = 0, validation_samples = 0;
  int64_t skipped = 0;
  std::vector<std::string> skip_reasons;
  MemoryPlan plan;
};

// Epochs come from metrics.csv: those of earlier processes too.
Report make_report(const RunFolder& folder, const RunFacts& facts);

}  // namespace graft
