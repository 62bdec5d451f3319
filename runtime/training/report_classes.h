// What report.html says about single classes.
#pragma once

#include <string>

#include "runtime/training/report.h"

namespace graft {

// The confusion matrix, drawn where it has at most 50 classes, and always the pairs that are confused most; a table
// with precision, recall and F1 of each class, or of the 50 worst.
// UsageError where the matrix is not square or has another size than class_names.
std::string render_classes(const Report& report);

}  // namespace graft
