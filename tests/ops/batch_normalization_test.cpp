#include <gtest/gtest.h>

#include <cmath>

#include "graph/passes/passes.h"
#include "runtime/device/device.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

const OpCheck positive_variance{.ranges = {{"v", {0.3, 2}}}};

TEST(BatchNormalization, Frozen) {
  check_op(
      "(float[2,5,3,4] x, float[5] s, float[5] b, float[5] m, float[5] v) => (y) { y = BatchNormalization<epsilon = "
      "0.01>(x, s, b, m, v) }",
      {}, positive_variance);
  check_op(
      "(float[3,5] x, float[5] s, float[5] b, float[5] m, float[5] v) => (y) { y = BatchNormalization(x, s, b, m, v) }",
      {}, positive_variance);
}

TEST(BatchNormalization, Live) {
  OpCheck check = positive_variance;
  check.fixed = {"m", "v"};
  for (const char* x : {"2,5,3,4", "7,5", "3,2,11"}) {
    std::string c = x[2] == '2' ? "2" : "5";
    check_op(cat("(float[", x, "] x, float[", c, "] s, float[", c, "] b, float[", c, "] m, float[", c,
                 "] v) => (y) { y, nm, nv = BatchNormalization<training_mode = 1, momentum = 0.7>(x, s, b, m, v) }"),
             {}, check);
  }
}

TEST(BatchNormalization, RunningStatistics) {
  check_op(
      "(float[2,5,3,4] x, float[5] s, float[5] b, float[5] m, float[5] v) => (y, nm, nv) { y, nm, nv = "
      "BatchNormalization<training_mode = 1, momentum = 0.7>(x, s, b, m, v) }",
      {}, {.ranges = {{"v", {0.3, 2}}}, .gradient = false});
}

TEST(BatchNormalization, LargeMeanKeepsItsVariance) {
  check_op(
      "(float[4,3,5,5] x, float[3] s, float[3] b, float[3] m, float[3] v) => (y) { y, nm, nv = "
      "BatchNormalization<training_mode = 1>(x, s, b, m, v) }",
      {}, {.ranges = {{"x", {1000, 1001}}, {"v", {0.3, 2}}}, .gradient = false, .tolerance = 1e-3});
}

TEST(BatchNormalization, OtherLayouts) {
  for (const char* tag : {"nChw16c", "nChw8c", "nhwc"}) {
    check_layout(
        "(float[2,19,3,5] x, float[19] s, float[19] b, float[19] m, float[19] v) => (y) { y = "
        "BatchNormalization<epsilon = 5.0>(x, s, b, m, v) }",
        tag);
    check_layout(
        "(float[2,19,3,5] x, float[19] s, float[19] b, float[19] m, float[19] v) => (y, nm, nv) { y, nm, nv = "
        "BatchNormalization<training_mode = 1>(x, s, b, m, v) }",
        tag);
    check_layout(
        "(float[2,19,3,5] dy, float[2,19,3,5] x, float[19] s, float[19] m, float[19] v) => (dx, ds, db) { dx, ds, db = "
        "graft.BatchNormalizationGrad<epsilon = 5.0>(dy, x, s, , m, v) }",
        tag);
    check_layout("(float[2,19,3,5] x) => (y) { y = graft.ChannelSum(x) }", tag);
  }
}

// --- With what follows it ---

const char* const vectors = "float[5] s, float[5] b, float[5] m, float[5] v";

TEST(BatchNormalizationActivation, GradientsAgreeWithDifferences) {
  OpCheck frozen{.ranges = {{"v", {0.3, 2}}}, .forward = false};
  OpCheck live = frozen;
  live.fixed = {"m", "v"};
  for (const char* x : {"2,5,3,4", "7,5", "3,5,11"}) {
    for (const char* mode : {"training_mode = 0", "training_mode = 1"}) {
      const char* results = mode[16] == '1' ? "y, nm, nv" : "y";
      const OpCheck& check = mode[16] == '1' ? live : frozen;
      for (const char* activation : {"none", "relu", "hard_swish", "clip\", min = -0.5, max = 0.75, also = \""}) {
        std::string node = cat(results, " = graft.BatchNormalizationActivation<", mode, ", activation = \"", activation,
                               "\">(x, s, b, m, v");
        check_op(cat("(float[", x, "] x, ", vectors, ") => (y) { ", node, ") }"), {}, check);
        if (activation == std::string("hard_swish")) continue;
        check_op(cat("(float[", x, "] x, ", vectors, ", float[", x, "] r) => (y) { ", node, ", r) }"), {}, check);
      }
    }
  }
}

// Any subset of the operands may be the one that is differentiated: what the others need is left out.
TEST(BatchNormalizationActivation, GradientsOfSomeOperandsAlone) {
  for (const char* mode : {"training_mode = 0", "training_mode = 1"}) {
    bool live = mode[16] == '1';
    std::string text = cat("(float[2,5,3] x, ", vectors, ", float[2,5,3] r) => (y) { ", live ? "y, nm, nv" : "y",
                           " = graft.BatchNormalizationActivation<", mode, ", activation = \"relu\">(x, s, b, m, v");
    for (const char* operands : {", r) }", ") }"}) {
      for (const char* wanted : {"x", "s", "b", "r"}) {
        OpCheck check{.ranges = {{"v", {0.3, 2}}}, .forward = false, .fixed = {"x", "s", "b", "m", "v", "r"}};
        check.fixed.erase(wanted);
        check_op(text + operands, {}, check);
      }
    }
  }
}

// Outputs, then the gradients of all inputs but m and v, for a random seed.
std::vector<Tensor> results(const std::string& text, const Feeds& given, DType floats, bool fuse) {
  auto graph = graph_from_text(text, floats);
  if (fuse) EXPECT_EQ(recognise(*graph)["normalization_activation"], 1) << text;
  else recognise(*graph, {"normalization_activation"});
  Feeds feeds;
  for (const auto& [name, tensor] : given) feeds[name] = tensor.cast(floats);
  std::vector<Value*> wanted;
  for (Value* input : graph->inputs) {
    if (!feeds.count(input->name)) feeds[input->name] = random_feed(floats, input->dims, 0.3, 2, 7);
    if (input->name != "m" && input->name != "v") wanted.push_back(input);
  }
  const Value* y = graph->outputs[0];
  Tensor seed = random_feed(floats, y->dims, -1, 1, 8);
  for (Value* gradient : differentiate(*graph, {graph->outputs[0]}, {graph->add_constant(seed)}, wanted))
    graph->outputs.push_back(gradient);
  graph->prune();
  verify(*graph);
  return evaluate(*graph, feeds);
}

struct Spelling {
  const char* inputs;
  const char* body;
};

const Spelling spellings[] = {
    {"", "y = Relu(n)"},
    {"", "y = Clip(n, zero, six)"},
    {"", "y = Clip(n, , six)"},
    {"", "y = HardSwish(n)"},
    {", float[3,5,2,9] r", "a = Add(n, r) y = Relu(a)"},
    {", float[3,5,2,9] r", "a = Add(r, n) y = Clip(a, zero, six)"},
    {", float[3,5,2,9] r", "y = Add(n, r)"},
};

std::string text_of(const Spelling& spelling, bool live) {
  return cat("(float[3,5,2,9] x, ", vectors, spelling.inputs, ") => (y) <float zero = {0}, float six = {6}> { n",
             live ? ", nm, nv" : "", " = BatchNormalization<epsilon = 0.0, training_mode = ", int{live},
             ">(x, s, b, m, v) ", spelling.body, " }");
}

TEST(BatchNormalizationActivation, IsTheSameAsItsParts) {
  Tensor x = random_feed(DType::f32, {3, 5, 2, 9}, -9, 9, 3);
  for (const Spelling& spelling : spellings) {
    for (bool live : {false, true}) {
      std::string text = text_of(spelling, live);
      auto fused = results(text, {{"x", x}}, DType::f64, true);
      auto parts = results(text, {{"x", x}}, DType::f64, false);
      ASSERT_EQ(fused.size(), parts.size());
      for (size_t i = 0; i < parts.size(); ++i) expect_close(fused[i], parts[i], 1e-12, cat(text, " result ", i));
    }
  }
}

// Where t is a kink, infinite or no number, y and dx are those of the parts.
TEST(BatchNormalizationActivation, KinksAreThoseOfItsParts) {
  const double values[] = {0, -0.0, 6, 1, -1, 7, HUGE_VAL, -HUGE_VAL, std::nan("")};
  Tensor x(DType::f32, {3, 5, 2, 9});
  for (int64_t i = 0; i < x.count(); ++i) x.data<float>()[i] = static_cast<float>(values[i % 9]);
  auto constant = [](float value) { return Tensor::of<float>({5}, {value, value, value, value, value}); };
  Feeds feeds = {{"x", x},           {"s", constant(1)}, {"b", constant(0)},
                 {"m", constant(0)}, {"v", constant(1)}, {"r", Tensor(DType::f32, x.dims())}};
  for (const Spelling& spelling : spellings) {
    std::string text = text_of(spelling, false);
    for (DType dtype : {DType::f32, DType::f64}) {
      auto fused = results(text, feeds, dtype, true);
      auto parts = results(text, feeds, dtype, false);
      // y and dx; sums over all of them are no numbers
      for (size_t i = 0; i < 2; ++i) expect_close(fused[i], parts[i], 1e-6, cat(text, " result ", i));
    }
  }
}

TEST(BatchNormalizationActivation, OtherLayouts) {
  for (const char* tag : {"nChw16c", "nChw8c", "nhwc"}) {
    for (const char* results : {"y", "y, nm, nv"}) {
      int live = results[1] == ',';
      check_layout(
          cat("(float[2,19,3,5] x, float[19] s, float[19] b, float[19] m, float[19] v, float[2,19,3,5] r) => (",
              results, ") { ", results, " = graft.BatchNormalizationActivation<epsilon = 5.0, training_mode = ", live,
              ", activation = \"clip\", min = -0.2, max = 0.5>(x, s, b, m, v, r) }"),
          tag);
    }
    for (const char* activation : {"clip", "hard_swish"}) {
      check_layout(cat("(float[2,19,3,5] dy, float[2,19,3,5] x, float[19] s, float[19] b, float[19] m, float[19] v, "
                       "float[2,19,3,5] more) => (dx, ds, db, dr) { dx, ds, db, dr = "
                       "graft.BatchNormalizationGrad<epsilon = 5.0, "
                       "activation = \"",
                       activation, "\", min = -0.2, max = 0.5>(dy, x, s, b, m, v, , more) }"),
                   tag);
    }
  }
}

// Channels that leave a rest for vectors of every size.
TEST(BatchNormalization, MixedPrecision) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  const std::string map = "float[2,29,3,5]", operands = "float[29] s, float[29] b, float[29] m, float[29] v";
  for (const char* tag : {"any", "nChw16c", "nhwc"}) {
    check_mixed(cat("(", map, " x) => (y) { y = graft.ChannelSum(x) }"), tag);
    for (const char* results : {"y", "y, nm, nv"}) {
      std::string mode = cat("epsilon = 5.0, training_mode = ", int{results[1] == ','});
      check_mixed(cat("(", map, " x, ", operands, ") => (", results, ") { ", results, " = BatchNormalization<", mode,
                      ">(x, s, b, m, v) }"),
                  tag);
      for (const char* residual : {"", ", r"}) {
        check_mixed(cat("(", map, " x, ", operands, ", ", map, " r) => (", results, ") { ", results,
                        " = graft.BatchNormalizationActivation<", mode,
                        ", activation = \"clip\", min = -0.2, max = 0.5>", "(x, s, b, m, v", residual, ") }"),
                    tag);
      }
    }
    for (const char* activation : {"none", "clip", "hard_swish"}) {
      for (const char* results : {"dx, ds, db", "dx, ds, db, dr"}) {
        check_mixed(cat("(", map, " dy, ", map, " x, ", operands, ", ", map, " more) => (", results, ") { ", results,
                        " = graft.BatchNormalizationGrad<epsilon = 5.0, activation = \"", activation,
                        "\", min = -0.2, max = 0.5>(dy, x, s, b, m, v, , more) }"),
                    tag);
      }
    }
  }
}

// What forward leaves for backward: statistics and bits.
TEST(BatchNormalizationActivation, MixedPrecisionGradients) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  constexpr double tolerance = 6e-3;  // two roundings to 8 bits
  Tensor x = random_feed(DType::f32, {3, 5, 6, 9}, -2, 2, 3), r = random_feed(DType::f32, {3, 5, 6, 9}, -2, 2, 4);
  for (int live : {0, 1}) {
    for (const char* activation : {"none", "relu", "hard_swish"}) {
      for (const char* residual : {"", ", r"}) {
        if (*residual && activation == std::string("hard_swish")) continue;
        check_mixed_gradients(cat("(float[3,5,6,9] x, ", vectors, *residual ? ", float[3,5,6,9] r" : "", ") => (y) { y",
                                  live ? ", nm, nv" : "", " = graft.BatchNormalizationActivation<training_mode = ",
                                  live, ", activation = \"", activation, "\">(x, s, b, m, v", residual, ") }"),
                              {{"x", x}, {"r", r}}, {"m", "v"}, tolerance);
      }
    }
  }
}

TEST(BatchNormalizationActivation, LimitsThatPaddingWouldCrossAreRefused) {
  auto x = random_feed(DType::f32, {2, 3}, -1, 1, 1);
  auto c = random_feed(DType::f32, {3}, 0.5, 1, 2);
  EXPECT_THROW(run_op("graft", "BatchNormalizationActivation", {x, c, c, c, c}, 1,
                      {{"activation", std::string("clip")}, {"min", 0.5}}),
               ModelError);
  EXPECT_THROW(run_op("graft", "BatchNormalizationActivation", {x, c, c, c, c}, 1, {{"activation", std::string("x")}}),
               ModelError);
}

// Whole blocks a thread, blocks that threads share, and blocks larger than the cache.
// From the bytes that the first run leaves for backward, as a copy in backward does.
TEST(BatchNormalizationActivation, ASecondRunGivesTheSameBits) {
  for (DType floats : {DType::f32, DType::f64}) {
    auto graph = graph_from_text(
        "(float[3,5,40,30] x, float[5] s, float[5] b, float[5] m, float[5] v) => (y, nm, nv) { y, nm, nv = "
        "graft.BatchNormalizationActivation<training_mode = 1, activation = \"relu\">(x, s, b, m, v) }",
        floats);
    Node& node = **graph->nodes().begin();
    ASSERT_FALSE(find_op(node)->shortcut(node));
    Value* saved = graph->add_output(&node);
    saved->opaque = true;
    auto shortcut = find_op(node)->shortcut(node);
    ASSERT_TRUE(shortcut);
    EXPECT_EQ(node.outputs[shortcut->result], saved);
    std::vector<Value*> operands(node.inputs.begin(), node.inputs.begin() + 3);
    operands.resize(shortcut->slot + 1);
    operands[shortcut->slot] = saved;
    Node* again = graph->add_node("graft", node.type, operands, 1, node.attributes);
    infer(*again);
    graph->outputs.push_back(again->outputs[0]);
    Feeds feeds;
    unsigned seed = 3;
    for (const Value* input : graph->inputs) feeds[input->name] = random_feed(floats, input->dims, 0.3, 2, ++seed);
    auto found = evaluate(*graph, feeds);
    expect_close(found.at(3), found.at(0), 0, "y");
    node.attributes["bits"] = int64_t{1};
    EXPECT_FALSE(find_op(node)->shortcut(node));
  }
}

TEST(BatchNormalizationActivation, ThreadsChangeNoBit) {
  int before = thread_count();
  for (const Dims& dims : {Dims{6, 7, 31, 33}, Dims{3001, 37}, Dims{2, 3, 1024, 513}}) {
    Tensor x = random_tensor(DType::f64, dims, 1), r = random_tensor(DType::f64, dims, 2);
    Tensor c = random_tensor(DType::f64, {dims[1]}, 3, 0.5, 1), seed = random_tensor(DType::f64, dims, 4);
    Attributes live = {{"training_mode", int64_t{1}}, {"activation", std::string("relu")}};
    auto run = [&](int threads) {
      set_thread_count(threads);
      auto all = run_op("graft", "BatchNormalizationActivation", {x, c, c, c, c, r}, 3, live);
      for (Tensor& gradient :
           op_gradients("graft", "BatchNormalizationActivation", {x, c, c, c, c, r}, 3, live, seed, {0, 1, 2, 5}))
        all.push_back(std::move(gradient));
      return all;
    };
    auto alone = run(1);
    for (int threads : {2, 3, 5}) {
      auto together = run(threads);
      for (size_t i = 0; i < alone.size(); ++i)
        expect_close(together[i], alone[i], 0, cat("result ", i, " with ", threads, " threads"));
    }
  }
  set_thread_count(before);
}

}  // namespace
}  // namespace graft::test
