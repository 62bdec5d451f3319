#include <gtest/gtest.h>

#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

TEST(LayerNormalization, LastAxis) {
  check_op("(float[3,5,7] x, float[7] s, float[7] b) => (y) { y = LayerNormalization(x, s, b) }");
  check_op("(float[3,37] x, float[37] s) => (y) { y = LayerNormalization<epsilon = 0.1>(x, s) }");
}

TEST(LayerNormalization, SeveralAxes) {
  check_op("(float[3,5,7] x, float[5,7] s, float[5,7] b) => (y) { y = LayerNormalization<axis = 1>(x, s, b) }");
  check_op("(float[2,3,2] x, float[2,3,2] s, float[2,3,2] b) => (y) { y = LayerNormalization<axis = -3>(x, s, b) }");
}

TEST(LayerNormalization, Statistics) {
  const char* text = "(float[2,2] x, float[2] s) => (m, i) { y, m, i = LayerNormalization<epsilon = 0.75>(x, s) }";
  // In float32 beside doubles, too: that is ONNX's stash type.
  for (DType dtype : {DType::f32, DType::f64}) {
    auto graph = graph_from_text(text, dtype);
    auto results = evaluate(*graph, {{"x", Tensor::of<float>({2, 2}, {1, 2, 4, 7}).cast(dtype)},
                                     {"s", Tensor::of<float>({2}, {1, 1}).cast(dtype)}});
    expect_close(results.at(0), Tensor::of<float>({2, 1}, {1.5F, 5.5F}), 1e-6, "mean");
    expect_close(results.at(1), Tensor::of<float>({2, 1}, {1, 0.57735027F}), 1e-6, "1/sigma");
  }
}

TEST(LayerNormalization, LargeMean) {
  check_op("(float[3,64] x, float[64] s, float[64] b) => (y) { y = LayerNormalization(x, s, b) }", {},
           {.ranges = {{"x", {1000, 1001}}}, .gradient = false, .tolerance = 2e-3});
}

TEST(RMSNormalization, Axes) {
  check_op("(float[3,5,7] x, float[7] s) => (y) { y = RMSNormalization(x, s) }");
  check_op("(float[3,5,7] x, float[5,7] s) => (y) { y = RMSNormalization<axis = 1, epsilon = 0.1>(x, s) }");
}

}  // namespace
}  // namespace graft::test
