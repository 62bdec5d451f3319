#include "runtime/training/bootstrap.h"

#include <algorithm>
#include <cmath>

#include "runtime/training/dataset.h"
#include "runtime/training/metrics.h"

namespace graft {
namespace {

// accuracy and macro_f1 of (predicted, truth) pairs; a class that occurs nowhere does not count
class ClassCounts {
 public:
  explicit ClassCounts(int64_t classes) : hits_(static_cast<size_t>(classes) + 1), total_(hits_.size()) {}
  void add(double predicted, double truth) {
    auto p = static_cast<size_t>(predicted);
    auto t = static_cast<size_t>(truth);
    ++count_;
    ++total_[p];
    ++total_[t];
    if (p == t) ++hits_[t];
  }
  MetricValues values() const {
    double right = 0, f1 = 0, present = 0;
    for (size_t c = 0; c + 1 < hits_.size(); ++c) {  // the last one stands for no prediction
      right += static_cast<double>(hits_[c]);
      if (total_[c] == 0) continue;
      f1 += 2 * static_cast<double>(hits_[c]) / static_cast<double>(total_[c]);
      ++present;
    }
    return {{"accuracy", right / static_cast<double>(count_)}, {"macro_f1", f1 / present}};
  }

 private:
  std::vector<int64_t> hits_, total_;
  int64_t count_ = 0;
};

}  // namespace

void Bootstrap::add_classes(const Tensor& prediction, const Tensor& targets) {
  classes_ = prediction.dims().at(1);
  int64_t inner = 1;
  for (size_t d = 2; d < prediction.dims().size(); ++d) inner *= prediction.dims()[d];
  Tensor scores = prediction.cast(DType::f64);
  auto labels = targets.to_int64();
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] == loss_.ignore_index) continue;
    auto row = static_cast<int64_t>(i) / inner * classes_ * inner + static_cast<int64_t>(i) % inner;
    int64_t best = predicted_class(scores.data<double>() + row, classes_, inner);
    pairs_.push_back({static_cast<double>(best), static_cast<double>(labels[i])});
  }
}

void Bootstrap::add(const Tensor& prediction, const Tensor& targets) {
  if (loss_.type == LossType::cross_entropy && targets.dtype() == DType::i64) return add_classes(prediction, targets);
  Tensor given = prediction.cast(DType::f64);
  Tensor wanted = targets.cast(DType::f64);
  for (int64_t i = 0; i < given.count(); ++i) pairs_.push_back({given.data<double>()[i], wanted.data<double>()[i]});
}

std::map<std::string, Interval> Bootstrap::intervals(int64_t count, uint64_t seed) const {
  std::map<std::string, std::vector<double>> drawn;
  auto n = static_cast<int64_t>(pairs_.size());
  std::vector<size_t> chosen(pairs_.size());
  for (int64_t round = 0; round < count && n > 0; ++round) {
    draw_with_replacement(chosen, seed, static_cast<uint64_t>(round));
    MetricValues values;
    if (classes_ > 0) {
      ClassCounts counts(classes_);
      for (size_t i : chosen) counts.add(pairs_[i].predicted, pairs_[i].truth);
      values = counts.values();
    } else {
      Tensor predicted(DType::f64, {n}), truth(DType::f64, {n});
      for (int64_t i = 0; i < n; ++i) {
        const Pair& pair = pairs_[chosen[static_cast<size_t>(i)]];
        predicted.data<double>()[i] = pair.predicted;
        truth.data<double>()[i] = pair.truth;
      }
      if (loss_.type == LossType::bce) {
        BinaryMetrics metrics;
        metrics.add(predicted, truth);
        values = metrics.values();
      } else {
        RegressionMetrics metrics;
        metrics.add(predicted, truth);
        values = metrics.values();
      }
    }
    for (const auto& [name, value] : values) {
      if (!std::isnan(value)) drawn[name].push_back(value);
    }
  }
  std::map<std::string, Interval> intervals;
  for (auto& [name, values] : drawn) {
    std::sort(values.begin(), values.end());
    auto quantile = [&](double q) {
      return values[static_cast<size_t>(std::llround(q * static_cast<double>(values.size() - 1)))];
    };
    constexpr double tail = 0.025;
    intervals[name] = {quantile(tail), quantile(1 - tail)};
  }
  return intervals;
}

}  // namespace graft
