#include "runtime/training/dataset.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace graft {
namespace {

// SplitMix64: a counter put through a strong mixing function. The standard library's shuffle differs between compilers.
class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : state_(mix(seed ^ mix(stream + 0x9e3779b97f4a7c15))) {}
  uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15); }
  // Uniform in [0, bound): draws that would favour small numbers are thrown away.
  uint64_t below(uint64_t bound) {
    uint64_t unfair = (0 - bound) % bound;
    uint64_t drawn = next();
    while (drawn < unfair) drawn = next();
    return drawn % bound;
  }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }
  uint64_t state_;
};

}  // namespace

std::vector<int64_t> shuffled(std::vector<int64_t> indices, uint64_t seed, uint64_t epoch) {
  Random random(seed, epoch);
  for (size_t i = indices.size(); i > 1; --i) std::swap(indices[i - 1], indices[random.below(i)]);
  return indices;
}

void draw_with_replacement(std::vector<size_t>& chosen, uint64_t seed, uint64_t round) {
  Random random(seed, round);
  for (size_t& index : chosen) index = random.below(chosen.size());
}

std::vector<int64_t> all_indices(const Dataset& dataset) {
  std::vector<int64_t> indices(static_cast<size_t>(dataset.size()));
  std::iota(indices.begin(), indices.end(), int64_t{0});
  return indices;
}

Split stratified_split(const Dataset& dataset, double fraction, uint64_t seed) {
  if (!(fraction > 0 && fraction < 1)) {
    throw UsageError("the share of samples for validation is ", fraction, ", allowed is more than 0 and less than 1");
  }
  std::map<int64_t, std::vector<int64_t>> by_class;
  for (int64_t i = 0; i < dataset.size(); ++i) by_class[dataset.label_of(i)].push_back(i);
  Split split;
  for (auto& [label, members] : by_class) {
    // A stream of its own for each class: more samples of one class do not change what is drawn from another.
    auto order = shuffled(std::move(members), ~seed, static_cast<uint64_t>(label));
    auto n = static_cast<int64_t>(order.size());
    int64_t aside = n < 2 ? 0 : std::clamp<int64_t>(std::llround(fraction * static_cast<double>(n)), 1, n - 1);
    split.validation.insert(split.validation.end(), order.begin(), order.begin() + aside);
    split.train.insert(split.train.end(), order.begin() + aside, order.end());
  }
  if (split.validation.empty()) {
    throw DataError("no sample can be put aside for validation: the data set has ", dataset.size(),
                    " and no class has two of them");
  }
  std::sort(split.train.begin(), split.train.end());
  std::sort(split.validation.begin(), split.validation.end());
  return split;
}

}  // namespace graft
