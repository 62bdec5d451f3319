// Labels as a data set gives them, in the form that a loss wants.
#pragma once

#include "runtime/training/dataset.h"
#include "runtime/training/loss.h"

namespace graft {

// Labels of a batch brought to the dtype and dims of a loss's labels: shapes of equal count are reshaped, classes
// become floats, or one-hot rows where there is a float for each of several classes. `what` begins messages. DataError
// where they do not fit.
Tensor fit_targets(const Tensor& labels, DType dtype, const Dims& dims, const std::string& what);

// DataError, with a sample that shows it, where a data set has more classes than a prediction of these dims has room
// for under this loss.
void check_classes(const Dims& prediction, const LossOptions& loss, const Dataset& dataset);

}  // namespace graft
