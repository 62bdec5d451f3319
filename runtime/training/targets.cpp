#include "runtime/training/targets.h"

namespace graft {
namespace {

// (N) classes -> (N, C) of zeros and ones
Tensor one_hot(const Tensor& labels, DType dtype, const Dims& dims, const std::string& what) {
  Tensor rows(DType::f32, dims);
  int64_t classes = dims[1];
  std::vector<int64_t> wanted = labels.to_int64();
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] < 0 || wanted[i] >= classes)
      throw DataError(what, ": label ", wanted[i], " out of range: allowed are 0 to ", classes - 1);
    rows.data<float>()[static_cast<int64_t>(i) * classes + wanted[i]] = 1;
  }
  return rows.cast(dtype);
}

}  // namespace

Tensor fit_targets(const Tensor& labels, DType dtype, const Dims& dims, const std::string& what) {
  if (!labels.defined()) throw DataError(what, " have no labels");
  if (is_float(labels.dtype()) && !is_float(dtype)) {
    throw DataError(what, ": labels are ", labels.dtype(), ", this loss wants classes (integers)");
  }
  if (labels.count() == element_count(dims)) return labels.cast(dtype).reshaped(dims);
  bool rows = dims.size() == 2 && labels.count() == dims[0] && !is_float(labels.dtype()) && is_float(dtype);
  if (rows) return one_hot(labels, dtype, dims, what);
  throw DataError(what, ": labels of shape ", labels.dims(), " do not fit the loss, which wants ", dims);
}

void check_classes(const Dims& prediction, const LossOptions& loss, const Dataset& dataset) {
  auto classes = static_cast<int64_t>(dataset.class_names().size());
  if (classes == 0 || prediction.size() < 2) return;
  int64_t outputs = prediction[1];
  bool one_of_two = loss.type == LossType::bce && outputs == 1 && classes == 2;
  bool counts = loss.type == LossType::cross_entropy || loss.type == LossType::bce;
  if (!counts || one_of_two || classes <= outputs) return;
  std::string shown;
  for (int64_t i = 0; i < dataset.size() && shown.empty(); ++i) {
    if (dataset.label_of(i) >= outputs) shown = cat(" (", dataset.describe(i), " has class ", dataset.label_of(i), ')');
  }
  throw DataError("the data has ", classes, " classes", shown, ", the model's output ", prediction, " has room for ",
                  outputs, ": give the model a new head with --new-head ", classes);
}

}  // namespace graft
