// From what a data set calls its classes to numbers.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "graph/tensor.h"
#include "importers/data/options.h"

namespace graft {

struct Labels {
  std::vector<std::string> names;  // of classes; empty for regression
  std::vector<int64_t> classes;    // by sample, -1 where it has none; empty for regression
  Tensor targets;                  // (N, ...) floats to regress; undefined for classes
};

// Text per sample to classes: sorted names, or options.class_names. DataError, with what `describe` calls the sample,
// for a class that is not among these, and where there is only one. `missing` samples get class -1.
Labels classes_from_text(const std::vector<std::string>& text, const std::vector<bool>& missing,
                         const DatasetOptions& options, const std::string& where,
                         const std::function<std::string(int64_t)>& describe);
// The same for numbers: classes are the distinct ones, sorted as numbers.
Labels classes_from_numbers(const std::vector<int64_t>& numbers, const std::vector<bool>& missing,
                            const DatasetOptions& options, const std::string& where,
                            const std::function<std::string(int64_t)>& describe);

}  // namespace graft
