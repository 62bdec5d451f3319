#include <gtest/gtest.h>

#include "tests/support/check_op.h"

namespace graft::test {
namespace {

// The reference implementation forgets most channels; onnxruntime has odd sizes only.
TEST(LRN, OddAndEvenSizes) {
  for (int size : {1, 3, 4, 9}) {
    check_op(cat("(float[2,7,3,5] x) => (y) { y = LRN<size = ", size, ", alpha = 0.5, beta = 0.6, bias = 1.5>(x) }"),
             {}, {.forward = size % 2 == 1, .oracle = Oracle::onnxruntime});
  }
}

}  // namespace
}  // namespace graft::test
