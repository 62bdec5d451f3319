// Labels as a data set gives them, in the form that a loss wants.
#pragma once

#include "runtime/training/loss.h"

namespace graft {

// Labels of a batch brought to the dtype and dims of a loss's labels: shapes of equal count are reshaped, classes
// become floats, or one-hot rows where there is a float for each of several classes. `what` begins messages. DataError
// where they do not fit.
Tensor fit_targets(const Tensor& labels, DType dtype, const Dims& dims, const std::string& what);

// DataError where a data set of so many classes does not fit a prediction of these dims under this loss.
void check_classes(const Dims& prediction, const LossOptions& loss, int64_t classes);

}  // namespace graft
