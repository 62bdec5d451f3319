// A serialised model whose large tensors are still where they live: the message is never whole in memory.
#pragma once

#include <unordered_map>

#include "importers/onnx/contents.h"

namespace graft {

struct Rope {
  struct Piece {
    std::string bytes;
    const Place* tensor = nullptr;  // then its raw bytes follow here
  };
  std::vector<Piece> pieces;
  int64_t size = 0;

  void append(std::string_view bytes);
  void append(const Place& tensor);
  void append(Rope&& rope);
};

// Tensors whose raw bytes are missing in a message, by the TensorProto that they belong to.
using MissingBytes = std::unordered_map<const onnx::TensorProto*, const Place*>;

// Takes `model` apart.
Rope serialise(onnx::ModelProto& model, const MissingBytes& missing);

}  // namespace graft
