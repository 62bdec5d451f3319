// The oracle: the onnx reference implementation in a Python process that lives as long as the test.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace graft::test {

enum class Oracle : uint8_t {
  reference,
  onnxruntime
};  // `reference` falls back to onnxruntime where it lacks something

// Outputs of a serialised model. UsageError with both reasons where neither can run it.
std::vector<Tensor> reference_outputs(const std::string& model, const std::map<std::string, Tensor>& inputs,
                                      Oracle oracle = Oracle::reference);

}  // namespace graft::test
