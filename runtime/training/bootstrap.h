// How sure metrics are: percentile intervals over resampled data (Efron & Tibshirani, An Introduction to the
// Bootstrap, 1993, chapter 13).
#pragma once

#include <map>

#include "graph/tensor.h"
#include "runtime/training/loss.h"

namespace graft {

struct Interval {
  double low = 0, high = 0;
};

// Keeps two numbers a label, not the scores: class and predicted class, decision and truth, or target and prediction.
class Bootstrap {
 public:
  explicit Bootstrap(const LossOptions& loss) : loss_(loss) {}
  // As the loss sees them.
  void add(const Tensor& prediction, const Tensor& targets);
  // 95 % intervals by metric name from `count` resamplings; metrics that no resampling could measure are left out.
  // "loss" and top-k have none.
  std::map<std::string, Interval> intervals(int64_t count, uint64_t seed) const;

 private:
  struct Pair {
    double predicted = 0, truth = 0;
  };
  void add_classes(const Tensor& prediction, const Tensor& targets);

  LossOptions loss_;
  int64_t classes_ = 0;
  std::vector<Pair> pairs_;
};

}  // namespace graft
