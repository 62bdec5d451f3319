// A data set that lies in memory: what tables and .npz files become.
#pragma once

#include "importers/data/labels.h"
#include "runtime/training/dataset.h"

namespace graft {

struct ArrayInput {
  std::string name;
  Tensor data;  // (N, ...)
};

class ArrayDataset : public Dataset {
 public:
  // `bad` says by sample why it cannot be read, "" where it can; empty when all can. `unit` is what a sample is called:
  // row, sample.
  ArrayDataset(std::string path, std::string unit, std::vector<ArrayInput> inputs, Labels labels,
               std::vector<std::string> bad);
  int64_t size() const override { return size_; }
  const std::vector<std::string>& input_names() const override { return names_; }
  bool has_labels() const override { return !labels_.classes.empty() || labels_.targets.defined(); }
  std::vector<std::string> class_names() const override { return labels_.names; }
  int64_t label_of(int64_t index) const override;
  std::string describe(int64_t index) const override;
  Sample read(int64_t index) const override;

 private:
  std::string path_;
  std::string unit_;
  std::vector<ArrayInput> inputs_;
  std::vector<std::string> names_;
  Labels labels_;
  std::vector<std::string> bad_;
  int64_t size_ = 0;
};

// What a sample is called in messages: "data.csv" row 3; counted from 1.
std::string describe_sample(const std::string& path, const std::string& unit, int64_t index);

// Dims of one sample that has `count` numbers for this input, or a shape that fits the model: fixed dims of the model
// must agree, one free dim is computed. UsageError beginning with `where`.
Dims fit_sample(const ModelInput& input, int64_t count, const std::string& where);

}  // namespace graft
