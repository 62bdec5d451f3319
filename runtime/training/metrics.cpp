#include "runtime/training/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace graft {
namespace {

constexpr double nothing = std::numeric_limits<double>::quiet_NaN();

double ratio(double a, double b) { return b == 0 ? nothing : a / b; }
double ratio(int64_t a, int64_t b) { return ratio(static_cast<double>(a), static_cast<double>(b)); }

// Place of `label` when the scores are sorted, equal ones in their order; the number of classes where a score is NaN.
int64_t rank_of(const double* scores, int64_t classes, int64_t stride, int64_t label) {
  double own = scores[label * stride];
  int64_t rank = 0;
  for (int64_t c = 0; c < classes; ++c) {
    double score = scores[c * stride];
    if (std::isnan(score)) return classes;
    rank += score > own || (score == own && c < label);
  }
  return rank;
}

void check_equal_counts(const Tensor& a, const Tensor& b) {
  if (a.count() != b.count())
    throw UsageError("predictions of shape ", a.dims(), " against labels of shape ", b.dims());
}

}  // namespace

int64_t predicted_class(const double* scores, int64_t classes, int64_t stride) {
  int64_t best = 0;
  for (int64_t c = 0; c < classes; ++c) {
    if (std::isnan(scores[c * stride])) return classes;
    if (scores[c * stride] > scores[best * stride]) best = c;
  }
  return best;
}

RightCount count_right(const Tensor& scores, const Tensor& labels, int64_t ignored) {
  int64_t classes = scores.dims().at(1);
  int64_t inner = 1;
  for (size_t d = 2; d < scores.dims().size(); ++d) inner *= scores.dims()[d];
  if (labels.count() * classes != scores.count()) {
    throw UsageError("labels of shape ", labels.dims(), " for scores of shape ", scores.dims());
  }
  Tensor wide = scores.cast(DType::f64);
  auto wanted = labels.to_int64();
  RightCount count;
  for (int64_t i = 0; i < labels.count(); ++i) {
    int64_t label = wanted[static_cast<size_t>(i)];
    if (label == ignored || label < 0 || label >= classes) continue;
    const double* row = wide.data<double>() + (i / inner) * classes * inner + i % inner;
    ++count.counted;
    count.right += rank_of(row, classes, inner, label) == 0;
  }
  return count;
}

ClassMetrics::ClassMetrics(int64_t classes, int64_t top_k, int64_t ignored)
    : classes_(classes), k_(top_k), ignored_(ignored) {
  if (classes < 1 || top_k < 1) throw UsageError("metrics over ", classes, " classes, best ", top_k);
  reset();
}

void ClassMetrics::reset() {
  constexpr int64_t largest_table = 2048;
  count_ = right_ = in_top_k_ = 0;
  auto n = static_cast<size_t>(classes_);
  hits_.assign(n, 0);
  labelled_.assign(n, 0);
  predicted_.assign(n, 0);
  if (classes_ <= largest_table) confusion_.assign(n * n, 0);
}

void ClassMetrics::add(const Tensor& scores, const Tensor& labels) {
  Dims expected = scores.dims();
  if (expected.size() < 2 || expected[1] != classes_) {
    throw UsageError("scores of shape ", scores.dims(), " for ", classes_, " classes: (batch, classes, ...) is wanted");
  }
  expected.erase(expected.begin() + 1);
  if (labels.count() != element_count(expected)) {
    throw UsageError("labels of shape ", labels.dims(), " for scores of shape ", scores.dims());
  }
  Tensor wide = scores.cast(DType::f64);
  auto wanted = labels.to_int64();
  int64_t inner = 1;
  for (size_t d = 2; d < scores.dims().size(); ++d) inner *= scores.dims()[d];
  for (int64_t i = 0; i < labels.count(); ++i) {
    int64_t label = wanted[static_cast<size_t>(i)];
    if (label == ignored_) continue;
    if (label < 0 || label >= classes_)
      throw DataError("label ", label, " out of range: allowed are 0 to ", classes_ - 1);
    const double* row = wide.data<double>() + (i / inner) * classes_ * inner + i % inner;
    int64_t rank = rank_of(row, classes_, inner, label);
    auto l = static_cast<size_t>(label);
    ++count_;
    ++labelled_[l];
    in_top_k_ += rank < k_ && rank < classes_;
    right_ += rank == 0;
    hits_[l] += rank == 0;
    if (rank == classes_) continue;  // NaN: nothing is predicted
    auto p = static_cast<size_t>(rank == 0 ? label : predicted_class(row, classes_, inner));
    ++predicted_[p];
    if (!confusion_.empty()) ++confusion_[l * static_cast<size_t>(classes_) + p];
  }
}

double ClassMetrics::accuracy() const { return ratio(right_, count_); }
double ClassMetrics::top_k() const { return ratio(in_top_k_, count_); }
double ClassMetrics::precision(int64_t label) const {
  return ratio(hits_.at(static_cast<size_t>(label)), predicted_.at(static_cast<size_t>(label)));
}
double ClassMetrics::recall(int64_t label) const {
  return ratio(hits_.at(static_cast<size_t>(label)), labelled_.at(static_cast<size_t>(label)));
}

double ClassMetrics::macro_f1() const {
  double sum = 0;
  int64_t present = 0;
  for (size_t c = 0; c < hits_.size(); ++c) {
    int64_t total = labelled_[c] + predicted_[c];
    if (total == 0) continue;
    sum += 2 * static_cast<double>(hits_[c]) / static_cast<double>(total);
    ++present;
  }
  return ratio(sum, static_cast<double>(present));
}

MetricValues ClassMetrics::values() const {
  MetricValues values{{"accuracy", accuracy()}, {"macro_f1", macro_f1()}};
  if (classes_ > k_ && k_ > 1) values.emplace_back(cat("top", k_), top_k());
  return values;
}

void BinaryMetrics::add(const Tensor& scores, const Tensor& labels) {
  check_equal_counts(scores, labels);
  Tensor given = scores.cast(DType::f64);
  Tensor wanted = labels.cast(DType::f64);
  for (int64_t i = 0; i < scores.count(); ++i) {
    bool yes = given.data<double>()[i] > threshold_;
    bool truth = wanted.data<double>()[i] > 0.5;
    ++(yes ? (truth ? true_positive_ : false_positive_) : (truth ? false_negative_ : true_negative_));
  }
}

double BinaryMetrics::accuracy() const { return ratio(true_positive_ + true_negative_, count()); }
double BinaryMetrics::precision() const { return ratio(true_positive_, true_positive_ + false_positive_); }
double BinaryMetrics::recall() const { return ratio(true_positive_, true_positive_ + false_negative_); }
double BinaryMetrics::f1() const {
  return ratio(2 * true_positive_, 2 * true_positive_ + false_positive_ + false_negative_);
}
MetricValues BinaryMetrics::values() const { return {{"accuracy", accuracy()}, {"f1", f1()}}; }

void RegressionMetrics::add(const Tensor& predictions, const Tensor& targets) {
  check_equal_counts(predictions, targets);
  Tensor given = predictions.cast(DType::f64);
  Tensor wanted = targets.cast(DType::f64);
  for (int64_t i = 0; i < targets.count(); ++i) {
    double y = wanted.data<double>()[i];
    double error = given.data<double>()[i] - y;
    absolute_ += std::abs(error);
    squared_ += error * error;
    ++count_;
    double before = y - mean_;
    mean_ += before / static_cast<double>(count_);
    deviation_ += before * (y - mean_);
  }
}

double RegressionMetrics::mae() const { return ratio(absolute_, static_cast<double>(count_)); }
double RegressionMetrics::rmse() const { return std::sqrt(ratio(squared_, static_cast<double>(count_))); }
double RegressionMetrics::r2() const { return deviation_ == 0 ? nothing : 1 - squared_ / deviation_; }
MetricValues RegressionMetrics::values() const { return {{"mae", mae()}, {"rmse", rmse()}, {"r2", r2()}}; }

}  // namespace graft
