// Token sequences come padded to one length. A batch whose rows are all shorter is cut to the next of a few lengths: a
// step then costs what its tokens cost, and the Programs, one a shape, stay few.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/training/dataset.h"

namespace graft {

class Program;
class Session;

class LengthBuckets {
 public:
  // `axes` are the inputs that have an axis of tokens. `mask` is one of them, (batch, tokens): 0 for padding. `longest`
  // is the length of the data's rows.
  LengthBuckets(std::string mask, std::map<std::string, size_t> axes, int64_t longest);

  // 16 and twice and one and a half times what is there, so 16, 24, 32, 48, 64, ..., up to the longest, which is last.
  const std::vector<int64_t>& lengths() const { return lengths_; }

  // Cuts the stacked inputs of a batch behind its longest row, to a length above. Only columns go that are padding in
  // every row; a batch with a row that is nothing but padding stays as it is.
  void cut(std::map<std::string, Tensor>& inputs) const;
  // Dims of inputs as they are for the longest rows.
  void lengthen(std::map<std::string, Dims>& dims) const;

 private:
  std::string mask_;
  std::map<std::string, size_t> axes_;
  std::vector<int64_t> lengths_;
};

// What compiles the model for input dims: its outputs are what padding must not change.
using Compile = std::function<std::shared_ptr<Program>(const std::map<std::string, Dims>& dims)>;

// The buckets for a model and data, nothing where batches must stay as they are. They apply where inputs share a free
// dimension that the file names, one of them is called "...attention_mask" and is (batch, that dimension), the data's
// rows are longer than the first bucket, and the model computes the same without padding: that is tried on synthetic
// rows. Gives up the session's Programs.
std::optional<LengthBuckets> find_length_buckets(Session& session, const Dataset& dataset,
                                                 const std::vector<int64_t>& indices, const Compile& compile);

}  // namespace graft
