#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/check_op.h"

namespace graft::test {
namespace {

TEST(Softmax, AnyAxis) {
  for (const char* type : {"Softmax", "LogSoftmax"}) {
    for (int axis : {-1, 0, 1, 2}) check_op(cat("(float[3,5,7] x) => (y) { y = ", type, "<axis = ", axis, ">(x) }"));
    check_op(cat("(float[2,3,130] x) => (y) { y = ", type, "<axis = 1>(x) }"));
    check_op(cat("(float[7] x) => (y) { y = ", type, "(x) }"));
    check_op(cat("(float[3,1] x) => (y) { y = ", type, "(x) }"));
    check_op(cat("(float[0,4] x) => (y) { y = ", type, "(x) }"), {}, {.gradient = false});
  }
}

TEST(Softmax, LongLines) {
  for (const char* type : {"Softmax", "LogSoftmax"}) check_op(cat("(float[2,1000] x) => (y) { y = ", type, "(x) }"));
}

TEST(Softmax, LargeValuesDoNotOverflow) {
  for (const char* type : {"Softmax", "LogSoftmax"}) {
    for (int axis : {0, 1}) {
      check_op(cat("(float[4,5] x) => (y) { y = ", type, "<axis = ", axis, ">(x) }"), {},
               {.ranges = {{"x", {-300, 300}}}, .gradient = false});
    }
  }
}

TEST(Softmax, MaskedElements) {
  float inf = INFINITY;
  check_op("(float[2,3] x) => (y) { y = Softmax(x) }", {{"x", Tensor::of<float>({2, 3}, {1, -inf, 2, -inf, 0, -inf})}},
           {.gradient = false});
}

TEST(Softmax, SecondOrder) {
  for (const char* type : {"Softmax", "LogSoftmax"}) {
    for (int axis : {1, -1}) {
      check_op(cat("(float[2,5,3] dy, float[2,5,3] y) => (dx) { dx = graft.", type, "Grad<axis = ", axis, ">(dy, y) }"),
               {}, {.forward = false});
    }
  }
}

}  // namespace
}  // namespace graft::test
