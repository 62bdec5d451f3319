// Learning rate by step.
#pragma once

#include <cstdint>
#include <string>

namespace graft {

enum class Decay : uint8_t { constant, linear, cosine };

// UsageError with the nearest names for an unknown one.
Decay parse_decay(const std::string& name);

struct ScheduleOptions {
  Decay decay = Decay::cosine;
  double rate = 1e-3;   // at the peak
  double warmup = 0;    // below 1: share of all steps; from 1 on: steps
  double end_rate = 0;  // what linear and cosine go down to
  int64_t steps = 0;    // of the whole run; 0: unknown, only constant can do without
};

// With w steps of warm-up, counted from 0:
//   step < w:  rate * (step + 1) / w
//   after:     constant  rate
//              linear    end + (rate - end) * (1 - t)            t = (step - w) / (steps - w), at most 1
//              cosine    end + (rate - end) * (1 + cos(pi t)) / 2
class Schedule {
 public:
  explicit Schedule(const ScheduleOptions& options);
  double rate(int64_t step) const;
  int64_t warmup_steps() const { return warmup_; }

 private:
  ScheduleOptions options_;
  int64_t warmup_ = 0;
};

}  // namespace graft
