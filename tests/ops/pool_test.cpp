#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

class Pool : public testing::TestWithParam<const char*> {};

// Attributes that all kinds of pooling share.
TEST_P(Pool, Windows) {
  std::string type = GetParam();
  // The reference implementation's LpPool is wrong where ceil_mode adds a window.
  Oracle oracle = type == "LpPool" ? Oracle::onnxruntime : Oracle::reference;
  auto pool = [&](const char* x, const std::string& attributes) {
    std::string extra = type == "AveragePool!" ? ", count_include_pad = 1" : type == "LpPool" ? ", p = 3" : "";
    std::string op = type == "AveragePool!" ? "AveragePool" : type;
    check_op(cat("(float[", x, "] x) => (y) { y = ", op, "<", attributes, extra, ">(x) }"), {}, {.oracle = oracle});
  };
  pool("2,3,11", "kernel_shape = [3]");
  pool("2,3,9,7", "kernel_shape = [3, 2], strides = [2, 1]");
  pool("1,2,5,6,4", "kernel_shape = [2, 3, 2], strides = [2, 1, 2]");
  pool("2,3,9,7", "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 0, 1, 1]");
  pool("1,3,10,8", "kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1");
  pool("1,3,10,9", "kernel_shape = [3, 2], dilations = [2, 3]");
}

INSTANTIATE_TEST_SUITE_P(Everywhere, Pool, testing::Values("MaxPool", "AveragePool", "AveragePool!", "LpPool"));

TEST(PoolAutoPad, SameAndValid) {
  for (const char* type : {"MaxPool", "AveragePool"}) {
    for (const char* pad : {"SAME_UPPER", "SAME_LOWER", "VALID"}) {
      check_op(cat("(float[1,2,10,9] x) => (y) { y = ", type, "<auto_pad = \"", pad,
                   "\", kernel_shape = [3, 4], strides = [2, 2]>(x) }"),
               {}, {.oracle = Oracle::onnxruntime});
    }
  }
}

TEST(PoolGlobal, AllKinds) {
  for (const char* x : {"2,3,5,7", "2,70,4", "2,3,1,1"}) {
    for (const char* type : {"GlobalAveragePool", "GlobalMaxPool"}) {
      check_op(cat("(float[", x, "] x) => (y) { y = ", type, "(x) }"), {}, {.oracle = Oracle::onnxruntime});
    }
    // No oracle has these: the norm of a whole plane is LpPool's.
    for (const char* p : {"1", "3"})
      check_op(cat("(float[", x, "] x) => (y) { y = GlobalLpPool<p = ", p, ">(x) }"), {}, {.forward = false});
  }
}

TEST(MaxPool, Indices) {
  check_op("(float[2,3,8,7] x) => (y, i) { y, i = MaxPool<kernel_shape = [3, 2], strides = [2, 2]>(x) }");
  check_op(
      "(float[2,3,8,7] x) => (y, i) { y, i = MaxPool<kernel_shape = [3, 2], strides = [2, 2], storage_order = 1>(x) }",
      {}, {.oracle = Oracle::onnxruntime});
}

TEST(MaxPool, NegativeInfinityHasAWinner) {
  float inf = std::numeric_limits<float>::infinity();
  check_op("(float[1,1,4] x) => (y, i) { y, i = MaxPool<kernel_shape = [2]>(x) }",
           {{"x", Tensor::of<float>({1, 1, 4}, {-inf, -inf, 1, inf})}}, {.gradient = false});
}

TEST(PoolLayouts, AsXLies) {
  for (const char* tag : {"nChw16c", "nChw8c", "nhwc"}) {
    for (const char* type : {"MaxPool", "AveragePool", "LpPool"}) {
      check_layout(cat("(float[2,19,9,7] x) => (y) { y = ", type,
                       "<kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1]>(x) }"),
                   tag);
      check_layout(cat("(float[1,75,5,5] x) => (y) { y = Global", type, "(x) }"), tag);
    }
    check_layout(
        "(float[2,19,5,4] dy) => (dx) { dx = graft.AveragePoolGrad<kernel_shape = [3, 2], strides = [2, 2], pads = [1, "
        "0, 1, 1], x_shape = [2,19,9,7]>(dy) }",
        tag);
    check_layout("(float[2,19,9,7] x) => (y, i) { y, i = MaxPool<kernel_shape = [3, 2], strides = [2, 2]>(x) }", tag);
  }
}

TEST(PoolSecondOrder, Average) {
  check_op(
      "(float[2,3,4,3] dy) => (dx) { dx = graft.AveragePoolGrad<kernel_shape = [3, 2], strides = [2, 2], pads = [0, 0, "
      "0, 0], x_shape = [2,3,9,7]>(dy) }",
      {}, {.forward = false});
}

TEST(PoolWindows, OutsideTheInputAreRefused) {
  Tensor x(DType::f32, {1, 2, 8, 8});
  auto run = [&](const char* type, const Dims& kernel, const Dims& pads) {
    run_op("", type, {x}, 1, {{"kernel_shape", kernel}, {"pads", pads}});
  };
  for (const char* type : {"MaxPool", "AveragePool", "LpPool"}) {
    EXPECT_NO_THROW(run(type, {8, 2}, {0, 1, 0, 1}));
    EXPECT_THROW(run(type, {9, 2}, {0, 0, 0, 0}), ModelError) << "no window fits";
    EXPECT_THROW(run(type, {2, 2}, {2, 0, 0, 0}), ModelError) << "the first window is all padding";
    EXPECT_THROW(run(type, {2, 2}, {0, 0, 0, 2}), ModelError);
  }
}

// Winners, and positions that several windows hold.
TEST(PoolMixedPrecision, Gradients) {
  constexpr double tolerance = 4e-3;
  auto results = [](const std::string& read) {
    auto graph = graph_from_text(cat("(float[2,5,9,7] x) => (y) { l = Cast<to = 16>(x) ", read, " p = MaxPool<",
                                     "kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1], dilations = [1, 2]",
                                     ">(h) y = Cast<to = 1>(p) }"));
    Value* seed = graph->add_constant(random_feed(DType::f32, graph->outputs[0]->dims, -1, 1, 3).cast(DType::bf16));
    Value* wide = graph->add_node("", "Cast", {seed}, 1, {{"to", onnx_dtype(DType::f32)}})->outputs[0];
    infer(*wide->producer);
    graph->outputs.push_back(differentiate(*graph, {graph->outputs[0]}, {wide}, {graph->inputs[0]})[0]);
    return evaluate(*graph, {{"x", random_feed(DType::f32, {2, 5, 9, 7}, -1, 1, 2)}});
  };
  auto wide = results("h = Cast<to = 1>(l)"), low = results("h = Identity(l)");
  for (size_t i = 0; i < wide.size(); ++i) expect_close(low[i], wide[i], tolerance, cat("result ", i));
}

// Rounded once: sums over overlapping windows, too.
TEST(PoolMixedPrecision, AsFloat32) {
  constexpr double tolerance = 4e-3;  // half of the last of 8 bits, of numbers up to 2
  const std::string window = "kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1]";
  for (const char* tag : {"any", "nChw16c", "nhwc"}) {
    auto check = [&](const std::string& text) { check_mixed(text, tag, 0, {}, tolerance); };
    for (const char* type : {"MaxPool", "AveragePool"}) {
      check(cat("(float[2,19,9,7] x) => (y) { y = ", type, "<", window, ">(x) }"));
      check(cat("(float[1,75,5,5] x) => (y) { y = Global", type, "(x) }"));
    }
    check("(float[2,19,9,7] x) => (y, i) { y, i = MaxPool<kernel_shape = [3, 2], strides = [2, 2]>(x) }");
    check(
        cat("(float[2,75,4,3] dy) => (dx) { dx = graft.AveragePoolGrad<kernel_shape = [2, 2], strides = [2, 3], "
            "x_shape = [2, 75, 9, 8]>(dy) }"));
  }
}

}  // namespace
}  // namespace graft::test
