#include "runtime/training/schedule.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "graph/error.h"

namespace graft {

Decay parse_decay(const std::string& name) {
  static const std::map<std::string, Decay> decays{
      {"constant", Decay::constant}, {"linear", Decay::linear}, {"cosine", Decay::cosine}};
  auto found = decays.find(name);
  if (found == decays.end()) throw UsageError("unknown schedule \"", name, "\", there are constant, linear and cosine");
  return found->second;
}

Schedule::Schedule(const ScheduleOptions& options) : options_(options) {
  auto check = [](const char* what, double value) {
    if (!std::isfinite(value) || value < 0) throw UsageError(what, " is ", value, ", allowed are numbers from 0 on");
  };
  check("the learning rate", options.rate);
  check("the warm-up", options.warmup);
  check("the last learning rate", options.end_rate);
  if (options.steps < 0) throw UsageError("a schedule over ", options.steps, " steps");
  bool share = options.warmup > 0 && options.warmup < 1;
  if (options.steps == 0 && (share || options.decay != Decay::constant)) {
    throw UsageError("this schedule must know the number of steps: only a constant rate does without");
  }
  constexpr double largest = 1e15;
  double warmup = share ? options.warmup * static_cast<double>(options.steps) : std::min(options.warmup, largest);
  warmup_ = std::llround(warmup);
}

double Schedule::rate(int64_t step) const {
  if (step < warmup_) return options_.rate * static_cast<double>(step + 1) / static_cast<double>(warmup_);
  if (options_.decay == Decay::constant) return options_.rate;
  double t = 1;
  if (step < options_.steps) t = static_cast<double>(step - warmup_) / static_cast<double>(options_.steps - warmup_);
  double left = options_.decay == Decay::linear ? 1 - t : (1 + std::cos(std::numbers::pi * t)) / 2;
  return options_.end_rate + (options_.rate - options_.end_rate) * left;
}

}  // namespace graft
