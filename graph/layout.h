// How a tensor's elements lie in memory: outer strides, then inner blocks, some dims padded to a block.
//
// Element (i0,i1,...) lies at sum_d (i_d / block_d) * strides[d] + offset within the inner blocks, where block_d is the
// product of the blocks of dim d; inner blocks are listed outermost first and the last one is contiguous. This is the
// format of oneDNN's blocking descriptor, but a value of ours: every device uses it.
#pragma once

#include "graph/dtype.h"

namespace graft {

struct Layout {
  struct Block {
    int dim;
    int64_t size;
    bool operator==(const Block&) const = default;
  };

  Dims padded;                // dims rounded up to their blocks
  Dims strides;               // in elements, of the outer (block) index of each dim
  std::vector<Block> blocks;  // inner blocks, outermost first

  bool operator==(const Layout&) const = default;

  // Row-major without padding.
  static Layout plain(const Dims& dims);
  // Physical order given by `order`, outermost first: {0,2,3,1} is channels-last for (N,C,H,W).
  static Layout permuted(const Dims& dims, const std::vector<int>& order);

  // Where the elements lie when axis i of the tensor is called what axis perm[i] was; dims of size 1 are put in order.
  Layout transposed(const std::vector<int64_t>& perm) const;

  bool is_plain(const Dims& dims) const { return *this == plain(dims); }
  bool is_padded(const Dims& dims) const { return padded != dims; }
  // Elements of storage, padding included.
  int64_t storage_count() const;
  // Element offset of a logical index.
  int64_t offset(const Dims& index) const;
  // An offset is a sum of one term for each dim: the terms of every index of every dim.
  std::vector<std::vector<int64_t>> offset_terms(const Dims& dims) const;
  // Whether every element lies where `other` has it: blocks of channels without any space are plain channels.
  bool lies_as(const Layout& other, const Dims& dims) const;
};

std::ostream& operator<<(std::ostream& out, const Layout& layout);

// Copies elements of `size` bytes between two layouts of one shape; padding of the destination is zeroed.
// Plain and slow: for import, export and the reference path.
void relayout(const Dims& dims, size_t size, const Layout& from, const void* src, const Layout& to, void* dst);

}  // namespace graft
