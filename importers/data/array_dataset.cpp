#include "importers/data/array_dataset.h"

namespace graft {
namespace {

// Row `index` of an array (N, ...), without its first dim.
Tensor row_of(const Tensor& data, int64_t index) {
  Tensor row = Tensor::uninitialized(data.dtype(), {data.dims().begin() + 1, data.dims().end()});
  if (row.bytes()) {
    const auto* from = static_cast<const std::byte*>(data.raw()) + index * row.bytes();
    std::memcpy(row.raw(), from, static_cast<size_t>(row.bytes()));
  }
  return row;
}

}  // namespace

std::string describe_sample(const std::string& path, const std::string& unit, int64_t index) {
  return cat("\"", path, "\" ", unit, " ", index + 1);
}

ArrayDataset::ArrayDataset(std::string path, std::string unit, std::vector<ArrayInput> inputs, Labels labels,
                           std::vector<std::string> bad)
    : path_(std::move(path)),
      unit_(std::move(unit)),
      inputs_(std::move(inputs)),
      labels_(std::move(labels)),
      bad_(std::move(bad)) {
  for (const auto& input : inputs_) names_.push_back(input.name);
  size_ = inputs_.at(0).data.dims().at(0);
  if (size_ == 0) throw DataError("\"", path_, "\" has no samples");
}

int64_t ArrayDataset::label_of(int64_t index) const {
  if (index < 0 || index >= size_) throw UsageError("sample ", index, " of ", size_, " is wanted");
  return labels_.classes.empty() ? -1 : labels_.classes[static_cast<size_t>(index)];
}

std::string ArrayDataset::describe(int64_t index) const { return describe_sample(path_, unit_, index); }

Sample ArrayDataset::read(int64_t index) const {
  if (index < 0 || index >= size_) throw UsageError("sample ", index, " of ", size_, " is wanted");
  if (!bad_.empty() && !bad_[static_cast<size_t>(index)].empty()) {
    throw DataError(describe(index), ": ", bad_[static_cast<size_t>(index)]);
  }
  Sample sample;
  for (const auto& input : inputs_) sample.inputs.push_back(row_of(input.data, index));
  if (labels_.targets.defined()) sample.label = row_of(labels_.targets, index);
  else if (!labels_.classes.empty())
    sample.label = Tensor::scalar<int64_t>(labels_.classes[static_cast<size_t>(index)]);
  return sample;
}

Dims fit_sample(const ModelInput& input, int64_t count, const std::string& where) {
  if (input.dims.empty()) return {count};
  Dims dims(input.dims.begin() + 1, input.dims.end());
  int64_t fixed = 1;
  int64_t free = -1;
  bool fits = true;
  for (size_t d = 0; d < dims.size(); ++d) {
    if (dims[d] >= 0) {
      fixed = checked_mul(fixed, dims[d]);
    } else {
      fits = fits && free < 0;
      free = static_cast<int64_t>(d);
    }
  }
  if (fits && free >= 0 && fixed > 0 && count % fixed == 0) {
    dims[static_cast<size_t>(free)] = count / fixed;
    fixed = count;
  }
  if (!fits || fixed != count) {
    throw UsageError(where, ": ", count, " numbers a sample do not fit input \"", input.name, "\" ", input.dims);
  }
  return dims;
}

}  // namespace graft
