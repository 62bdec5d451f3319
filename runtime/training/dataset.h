// Where samples come from, as training sees it. Files, images and tables are the business of importers/data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace graft {

// One sample, without a batch dimension. Inputs are in the order of Dataset::input_names().
// The label is a scalar i64 class, or floats to regress; undefined where the data set has no labels.
struct Sample {
  std::vector<Tensor> inputs;
  Tensor label;
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  virtual const std::vector<std::string>& input_names() const = 0;
  virtual bool has_labels() const { return true; }
  // Names of classes by label; empty for regression.
  virtual std::vector<std::string> class_names() const { return {}; }
  // Class of a sample without reading it; -1 where it has none.
  virtual int64_t label_of(int64_t index) const = 0;
  // What a person calls the sample: a file name, a row.
  virtual std::string describe(int64_t index) const = 0;
  // Whether a sample is the same whenever it is read: not where it is augmented at random.
  virtual bool repeats() const { return true; }
  // Called from several threads at once. DataError names the sample.
  virtual Sample read(int64_t index) const = 0;
};

struct Split {
  std::vector<int64_t> train;
  std::vector<int64_t> validation;
};

// Puts round(fraction * n) samples of each class aside, at least one and at most n - 1 where a class has n >= 2; a lone
// sample stays in training. The choice depends on the seed and the labels alone. UsageError unless 0 < fraction < 1,
// DataError where no sample can be put aside.
Split stratified_split(const Dataset& dataset, double fraction, uint64_t seed);

std::vector<int64_t> all_indices(const Dataset& dataset);

// `indices` in an order that depends on seed and epoch alone, on every machine and compiler.
std::vector<int64_t> shuffled(std::vector<int64_t> indices, uint64_t seed, uint64_t epoch);
// Fills `chosen` with numbers below its size, any of them possibly twice; depends on seed and round alone.
void draw_with_replacement(std::vector<size_t>& chosen, uint64_t seed, uint64_t round);

}  // namespace graft
