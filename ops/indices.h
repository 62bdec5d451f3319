// Index operands as they are found when a node runs.
#pragma once

#include "ops/op.h"

namespace graft {

class Indices {
 public:
  // Of operand i. ModelError where it holds neither int64 nor int32.
  Indices(const Node& node, size_t i);

  int64_t count() const { return count_; }
  // rows[k] = index k counted from the front of `extent`. DataError for one outside -extent to extent-1; nothing is
  // read with it then.
  void resolve(const void* indices, int64_t extent, int64_t* rows) const;

 private:
  std::string where_;
  int64_t count_;
  bool narrow_;
};

}  // namespace graft
