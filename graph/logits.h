// What a model's last activation is applied to.
#pragma once

#include "graph/graph.h"

namespace graft {

enum class LastActivation : uint8_t { none, softmax, log_softmax, sigmoid };

struct Logits {
  Value* value = nullptr;  // the operand of the activation; the output itself where there is none
  LastActivation activation = LastActivation::none;
  int64_t axis = -1;  // of softmax and log_softmax
};

// Looks from a graph output back through Identity to Softmax, LogSoftmax or Sigmoid, also where an exporter spelled
// softmax out as exp(x - max(x)) / sum(exp(x - max(x))). Works before and after shapes are bound.
Logits logits_of(Value* output);

}  // namespace graft
