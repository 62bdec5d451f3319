// Measures of quality, added up over batches.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "graph/tensor.h"

namespace graft {

// Names and values in the order in which they are shown.
using MetricValues = std::vector<std::pair<std::string, double>>;

// Rows of scores (N, C) or (N, C, ...) whose highest score is that of the label, and rows that count: those whose label
// is not `ignored`.
struct RightCount {
  int64_t right = 0, counted = 0;
};
RightCount count_right(const Tensor& scores, const Tensor& labels, int64_t ignored);

// The class of the highest score, the first of equal ones; `classes` where a score is NaN. Scores of one row lie
// `stride` apart.
int64_t predicted_class(const double* scores, int64_t classes, int64_t stride);

// One right class of several. Scores are (N, C) or (N, C, ...), labels integers (N) or (N, ...).
class ClassMetrics {
 public:
  // Labels equal to `ignored` do not count.
  explicit ClassMetrics(int64_t classes, int64_t top_k = 5, int64_t ignored = -100);
  // The class of the highest score is predicted, the first of equal ones; a row with NaN predicts nothing and is wrong.
  // DataError for a label out of range, UsageError for shapes that do not fit.
  void add(const Tensor& scores, const Tensor& labels);
  void reset();

  int64_t count() const { return count_; }
  int64_t classes() const { return classes_; }
  double accuracy() const;
  double top_k() const;
  // Mean over the classes that occur among labels or predictions, as scikit-learn has it.
  double macro_f1() const;
  double precision(int64_t label) const;
  double recall(int64_t label) const;
  // Counts by (label, prediction), row-major; empty for more than 2,048 classes.
  const std::vector<int64_t>& confusion() const { return confusion_; }
  MetricValues values() const;  // accuracy, macro_f1 and, for more classes than k, top<k>

 private:
  int64_t classes_;
  int64_t k_;
  int64_t ignored_;
  int64_t count_ = 0;
  int64_t right_ = 0;
  int64_t in_top_k_ = 0;
  std::vector<int64_t> hits_;       // by class: label and prediction
  std::vector<int64_t> labelled_;   // by class
  std::vector<int64_t> predicted_;  // by class
  std::vector<int64_t> confusion_;
};

// Independent yes-or-no decisions: a score above `threshold` (0 for logits, 0.5 for probabilities) says yes, a label
// above 0.5 means yes. Scores and labels have as many elements.
class BinaryMetrics {
 public:
  explicit BinaryMetrics(double threshold = 0) : threshold_(threshold) {}
  void add(const Tensor& scores, const Tensor& labels);
  void reset() { *this = BinaryMetrics(threshold_); }
  int64_t count() const { return true_positive_ + false_positive_ + true_negative_ + false_negative_; }
  double accuracy() const;
  double precision() const;
  double recall() const;
  double f1() const;
  MetricValues values() const;

 private:
  double threshold_;
  int64_t true_positive_ = 0, false_positive_ = 0, true_negative_ = 0, false_negative_ = 0;
};

// Numbers against numbers, over all elements.
class RegressionMetrics {
 public:
  void add(const Tensor& predictions, const Tensor& targets);
  void reset() { *this = RegressionMetrics(); }
  int64_t count() const { return count_; }
  double mae() const;
  double rmse() const;
  // 1 - squared error / squared deviation of the targets from their mean; NaN where all targets are equal.
  double r2() const;
  MetricValues values() const;

 private:
  int64_t count_ = 0;
  double absolute_ = 0;
  double squared_ = 0;
  double mean_ = 0;       // of the targets
  double deviation_ = 0;  // sum of squares around the mean
};

}  // namespace graft
