#include "runtime/training/early_stopping.h"

#include <algorithm>
#include <cmath>

#include "graph/error.h"

namespace graft {

EarlyStopping::EarlyStopping(Goal goal, int64_t patience, double least_gain)
    : goal_(goal), patience_(patience), least_gain_(least_gain) {
  if (patience < 0) throw UsageError("a patience of ", patience, ", allowed are numbers from 0 on");
  if (!(least_gain >= 0)) throw UsageError("a least gain of ", least_gain, ", allowed are numbers from 0 on");
}

bool EarlyStopping::update(double value) {
  double gain = goal_ == Goal::lower ? best_ - value : value - best_;
  bool first = std::isnan(best_) && !std::isnan(value);
  bool better = first || gain > least_gain_;
  if (better) {
    best_ = value;
    best_update_ = updates_;
  }
  waited_ = better ? 0 : waited_ + 1;
  ++updates_;
  return better;
}

void EarlyStopping::restore(double best, int64_t best_update, int64_t updates) {
  best_ = best;
  best_update_ = best_update;
  updates_ = updates;
  waited_ = std::max<int64_t>(0, updates - 1 - best_update);
}

}  // namespace graft
