// What a training step would take, and what other ways to train would take, found from plans alone: nothing is
// allocated and nothing runs.
#pragma once

#include "runtime/roofline.h"
#include "runtime/session.h"

namespace graft {

struct StepEstimate {
  StepCost cost;
  double limit_seconds = 0;  // a lower bound, see runtime/roofline.h
};

// DeviceError where the plan does not fit the machine's memory.
StepEstimate estimate_step(Session& session, const std::map<std::string, Dims>& dims, const TrainingOptions& options,
                           const MachineLimits& machine);

// One way to train, named by the flag that chooses it.
struct Choice {
  std::string name;
  StepEstimate step;
  int64_t feature_bytes = 0;  // of a sample: what is kept of the frozen part
  std::string note;           // what the figures do not say
  std::string error;          // why it cannot be had; then there are no figures
};

// `asked` first, then whatever else there is that saves work or memory, each of them one change of `asked`. `on_choice`
// is called before each. Splits the session where features can be kept (see Session::split).
std::vector<Choice> estimate_choices(Session& session, const std::map<std::string, Dims>& dims,
                                     const TrainingOptions& asked, const MachineLimits& machine,
                                     const std::function<void()>& on_choice = {});

}  // namespace graft
