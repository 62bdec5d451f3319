#include <gtest/gtest.h>

#include "tests/support/check_op.h"

namespace graft::test {
namespace {

TEST(ArgMax, TiesAndAxes) {
  auto ties = Tensor::of<float>({2, 4}, {1, 3, 3, 0, 2, 2, 1, 2});
  for (const char* type : {"ArgMax", "ArgMin"}) {
    for (const char* axis : {"0", "1", "-1"}) {
      for (int last : {0, 1}) {
        check_op(cat("(float[2,4] x) => (y) { y = ", type, "<axis = ", axis, ", keepdims = ", last,
                     ", select_last_index = ", last, ">(x) }"),
                 {{"x", ties}});
      }
    }
    check_op(cat("(float[3,5,7] x) => (y) { y = ", type, "<axis = 1>(x) }"));
  }
}

}  // namespace
}  // namespace graft::test
