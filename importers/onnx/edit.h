// Edits of a model file in its own opset, before its graph is built.
#pragma once

#include "importers/onnx/model.h"

namespace graft {

struct HeadEdit {
  std::string node;                     // the classifier: its name, or its result where it has none
  std::vector<std::string> parameters;  // freshly initialised: weight, then bias where there is one
  std::string output;                   // the graph output to train on
  int64_t old_classes = 0;              // 0: there was no head
  int64_t classes = 0;
};

// Finds the classifier that a graph output ends in (the first output unless `output` names one): the last Gemm,
// MatMul (+ Add) or 1x1 Conv, looking back through activations, pooling and reshapes. Gives it fresh weights for
// `classes` outputs, uniform in ±1/sqrt(fan in) from `seed` as torch.nn.Linear has them, and corrects the shapes behind
// it. All names stay. ModelError with the file's candidates where the model does not end in one, UsageError for a
// class count below one or an output that does not exist.
HeadEdit replace_head(OnnxModel& model, int64_t classes, uint64_t seed, const std::string& output = "");

enum class Pooling : uint8_t { mean, cls };

// On a model whose output is token embeddings (batch, tokens, features): adds pooling over the tokens, by `mask` (an
// input of shape (batch, tokens); "": the one whose name contains "mask", none if there is none) where it is a mean,
// and a fresh linear head unless `classes` is 0. The new graph output "logits" ("pooled" without a head) takes the
// place of the embeddings. ModelError where the output is no token embedding of known width.
HeadEdit add_pooling_head(OnnxModel& model, Pooling pooling, int64_t classes, uint64_t seed,
                          const std::string& mask = "", const std::string& output = "");

}  // namespace graft
