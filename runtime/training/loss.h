// Losses on a prediction of the graph. Each gives a sum and a weight; the mean is sum / weight, taken once a step.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace graft {

enum class LossType : uint8_t { cross_entropy, bce, mse, l1, huber };

// PyTorch's names, meanings and formulas.
struct LossOptions {
  LossType type = LossType::cross_entropy;
  // cross_entropy: logits have their classes along `axis`
  int64_t axis = 1;
  double label_smoothing = 0;
  int64_t ignore_index = -100;
  std::vector<double> class_weights;  // none: all 1
  bool label_probabilities = false;   // labels are floats of the prediction's shape, not class indices
  double huber_delta = 1;
};

// "cross_entropy", "bce", "mse", "l1", "huber"; UsageError with the nearest name for another.
LossType loss_type(const std::string& name);

struct Loss {
  Value* sum = nullptr;     // scalar, of the prediction's dtype
  Value* weight = nullptr;  // scalar: (weighted) number of labels that count
  Value* labels =
      nullptr;  // graph input: int64 of the prediction's dims without the class axis, else as the prediction
};

// The labels that a loss on `prediction` wants.
DType label_dtype(const Value& prediction, const LossOptions& options);
Dims label_dims(const Value& prediction, const LossOptions& options);

// Adds the loss and a graph input `labels_name`. bce takes logits; mse, l1 and huber take values.
// UsageError where options do not fit the prediction's shape.
Loss add_loss(Graph& graph, Value* prediction, const LossOptions& options,
              const std::string& labels_name = "graft.labels");

}  // namespace graft
