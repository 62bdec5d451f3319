#include <gtest/gtest.h>

#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
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

// Results are rounded once; sums over rows are of the same rounded operands.
TEST(LayerNormalization, MixedPrecision) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  for (const char* dims : {"[3,1]", "[5,7]", "[2,9,37]", "[300,384]", "[2,1030]"}) {
    const std::string width = std::string(dims).substr(std::string(dims).rfind(',') + 1);
    const std::string x = cat("(float", dims, " x, float[", width, " s");
    for (const char* type : {"LayerNormalization", "RMSNormalization"})
      check_mixed(cat(x, ") => (y) { y = ", type, "(x, s) }"));
    check_mixed(cat(x, ", float[", width, " b) => (y, m, i) { y, m, i = LayerNormalization<epsilon = 0.1>(x, s, b) }"));
    const std::string rows = cat(std::string(dims).substr(0, std::string(dims).rfind(',')), ",2]");
    for (const char* type : {"LayerNormalizationGrad", "RMSNormalizationGrad"})
      check_mixed(cat(x, ", float", dims, " dy, float", rows, " saved) => (dx, ds, db) { dx, ds, db = graft.", type,
                      "(x, s, dy, saved) }"));
  }
}

// Enough rows for several slices, widths with a rest behind whole vectors.
TEST(LayerNormalization, SumsOverManyRows) {
  for (auto [rows, width] : {std::pair{300, 384}, {70, 1030}, {40000, 3}}) {
    auto graph = graph_from_text(
        cat("(float[", rows, ",", width, "] x, float[", width, "] s, float[", rows, ",", width, "] dy, float[", rows,
            ",2] saved) => (ds, db, es, eb) <int64[1] a = {0}> { dx, ds, db = graft.LayerNormalizationGrad(x, s, dy, "
            "saved) m, i = Split<axis = 1, num_outputs = 2>(saved) c = Sub(x, m) h = Mul(c, i) p = Mul(dy, h) "
            "es = ReduceSum<keepdims = 0>(p, a) eb = ReduceSum<keepdims = 0>(dy, a) }"));
    Feeds feeds;
    for (const Value* input : graph->inputs) feeds[input->name] = random_feed(DType::f32, input->dims, -1, 1, 7);
    auto run = [&] { return evaluate(*graph, feeds); };
    auto results = run();
    for (size_t i = 0; i < 2; ++i) {
      // Sums of so many float32 numbers in another order.
      expect_close(results.at(i), results.at(i + 2), 1e-4, cat("result ", i, " of ", rows, " rows"));
      expect_same_for_any_threads([&] { return run().at(i); });
    }
  }
}

TEST(RMSNormalization, Axes) {
  check_op("(float[3,5,7] x, float[7] s) => (y) { y = RMSNormalization(x, s) }");
  check_op("(float[3,5,7] x, float[5,7] s) => (y) { y = RMSNormalization<axis = 1, epsilon = 0.1>(x, s) }");
}

}  // namespace
}  // namespace graft::test
