// Keeps the best value of a run and says when to give up.
#pragma once

#include <cstdint>
#include <limits>

namespace graft {

enum class Goal : uint8_t { lower, higher };

class EarlyStopping {
 public:
  // Stops after `patience` updates in a row without a gain of more than `least_gain`; patience 0: never.
  explicit EarlyStopping(Goal goal, int64_t patience = 0, double least_gain = 0);
  // True where `value` is the best so far, by more than least_gain. NaN never is.
  bool update(double value);
  bool should_stop() const { return patience_ > 0 && waited_ >= patience_; }
  double best() const { return best_; }
  int64_t best_update() const { return best_update_; }  // counted from 0; -1 before the first
  // Continues a run: what best(), best_update() and waited() were and how many updates there were.
  void restore(double best, int64_t best_update, int64_t updates);
  int64_t updates() const { return updates_; }

 private:
  Goal goal_;
  int64_t patience_;
  double least_gain_;
  double best_ = std::numeric_limits<double>::quiet_NaN();
  int64_t best_update_ = -1;
  int64_t updates_ = 0;
  int64_t waited_ = 0;
};

}  // namespace graft
