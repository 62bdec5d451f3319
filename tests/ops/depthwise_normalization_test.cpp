#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

struct Shape {
  const char *x, *channels, *window, *attributes;
};

// Strides, dilations, windows wider than the image, uneven pads, channels that leave padding in a block of any size.
const Shape shapes[] = {
    {"2,5,6,7", "5", "3,3", "pads = [1, 1, 1, 1]"},
    {"3,5,7,6", "5", "3,3", "pads = [1, 1, 1, 1], strides = [2, 2]"},
    {"2,17,8,5", "17", "3,3", "pads = [0, 1, 2, 0], strides = [2, 1]"},
    {"2,3,5,9", "3", "5,5", "pads = [2, 2, 2, 2], strides = [1, 3]"},
    {"2,4,9,8", "4", "2,3", "dilations = [2, 3], pads = [1, 3, 1, 3]"},
    {"3,4,3,4", "4", "3,3", "pads = [2, 2, 2, 2], strides = [3, 3]"},
    {"2,9,4,5", "9", "1,1", "strides = [2, 2]"},
    {"3,3,4,2", "3", "3,3", "auto_pad = \"SAME_UPPER\", strides = [2, 2]"},
    {"1,3,31,40", "3", "3,3", "pads = [1, 1, 1, 1]"},
};

std::string inputs_of(const Shape& shape) {
  std::string text = cat("float[", shape.x, "] x");
  for (const char* name : {"s", "b", "m", "v", "s2", "b2", "m2", "v2"})
    text += cat(", float[", shape.channels, "] ", name);
  return cat(text, ", float[", shape.channels, ",1,", shape.window, "] w");
}

const OpCheck gradient_only{
    .ranges = {{"v", {0.3, 2}}, {"v2", {0.3, 2}}}, .forward = false, .fixed = {"m", "v", "m2", "v2"}};

std::string joined(const Shape& shape, const std::string& activations) {
  return cat("(", inputs_of(shape),
             ") => (y) { y, nm, nv, nm2, nv2 = graft.DepthwiseNormalization<first_epsilon = 0.01, second_epsilon = "
             "0.02, group = ",
             shape.channels, ", ", shape.attributes, activations, ">(x, s, b, m, v, w, s2, b2, m2, v2) }");
}

TEST(DepthwiseNormalization, Gradients) {
  for (const Shape& shape : shapes) check_op(joined(shape, ""), {}, gradient_only);
  for (const char* first : {"relu", "hard_swish", "clip\", first_min = -0.5, first_max = 0.75, also = \""}) {
    for (const char* second : {"relu", "hard_swish", "clip\", second_min = -0.5, second_max = 0.75, too = \""}) {
      std::string activations = cat(", first_activation = \"", first, "\", second_activation = \"", second, "\"");
      check_op(joined(shapes[0], activations), {}, gradient_only);
      check_op(joined(shapes[1], activations), {}, gradient_only);
    }
  }
}

// Any subset of the operands may be the one that is differentiated.
TEST(DepthwiseNormalization, GradientsOfSomeOperandsAlone) {
  for (const char* wanted : {"x", "s", "b", "w", "s2", "b2"}) {
    OpCheck check = gradient_only;
    check.fixed.insert({"x", "s", "b", "w", "s2", "b2"});
    check.fixed.erase(wanted);
    check_op(joined(shapes[1], ", first_activation = \"relu\""), {}, check);
  }
}

// Outputs y and the running statistics, then the gradients of all that is no statistic, for a random seed.
std::vector<Tensor> results(const std::string& text, const Feeds& given, DType floats, bool join) {
  auto graph = graph_from_text(text, floats);
  if (join) EXPECT_EQ(recognise(*graph)["depthwise_normalization"], 1) << text;
  else recognise(*graph, {"depthwise_normalization", "normalization_activation"});
  Feeds feeds;
  for (const auto& [name, tensor] : given) feeds[name] = tensor.cast(floats);
  std::vector<Value*> wanted;
  unsigned seed = 7;
  for (Value* input : graph->inputs) {
    bool statistic = input->name[0] == 'm' || input->name[0] == 'v';
    if (!feeds.count(input->name))
      feeds[input->name] = random_feed(floats, input->dims, statistic ? 0.3 : -1, 2, ++seed);
    if (!statistic) wanted.push_back(input);
  }
  Tensor cotangent = random_feed(floats, graph->outputs[0]->dims, -1, 1, 5);
  for (Value* gradient : differentiate(*graph, {graph->outputs[0]}, {graph->add_constant(cotangent)}, wanted))
    graph->outputs.push_back(gradient);
  graph->prune();
  verify(*graph);
  return evaluate(*graph, feeds);
}

std::string in_parts(const Shape& shape, const std::string& first, const std::string& second) {
  return cat(
      "(", inputs_of(shape), ") => (y, nm, nv, nm2, nv2) <float zero = {0}, float six = {6}, float low = {-0.25}> { ",
      "n, nm, nv = BatchNormalization<training_mode = 1, epsilon = 0.25, momentum = 0.7>(x, s, b, m, v) ", first,
      " z = Conv<group = ", shape.channels, ", ", shape.attributes,
      ">(u, w) k, nm2, nv2 = BatchNormalization<training_mode = 1, momentum = 0.8>(z, s2, b2, m2, v2) ", second, " }");
}

constexpr std::pair<const char*, const char*> spellings[] = {
    {"u = Clip(n, zero, six)", "y = Clip(k, zero, six)"},
    {"u = Relu(n)", "y = HardSwish(k)"},
    {"u = HardSwish(n)", "y = Clip(k, low)"},
    {"u = Identity(n)", "y = Relu(k)"},
    {"u = Clip(n, low, six)", "y = Identity(k)"},
};

// Of z, times scale / sigma.
constexpr double rounding = 1e-4;

TEST(DepthwiseNormalization, IsTheSameAsItsParts) {
  for (const Shape& shape : shapes) {
    for (auto [first, second] : spellings) {
      auto replaced = [](std::string text, const std::string& from, const std::string& to) {
        for (size_t at; (at = text.find(from)) != std::string::npos;) text.replace(at, from.size(), to);
        return text;
      };
      // Identities are no part of the pattern.
      std::string text = in_parts(shape, first, second);
      if (text.find("u = Identity(n) ") != std::string::npos)
        text = replaced(replaced(text, "u = Identity(n) ", ""), "(u, w)", "(n, w)");
      if (text.find("y = Identity(k)") != std::string::npos)
        text = replaced(replaced(text, "y = Identity(k)", ""), "k, nm2", "y, nm2");
      auto joined = results(text, {}, DType::f64, true);
      auto parts = results(text, {}, DType::f64, false);
      ASSERT_EQ(joined.size(), parts.size());
      for (size_t i = 0; i < parts.size(); ++i) expect_close(joined[i], parts[i], 1e-11, cat(text, " result ", i));
      auto single = results(text, {}, DType::f32, true);
      for (size_t i = 0; i < 5; ++i)
        expect_close(single[i], parts[i].cast(DType::f32), rounding, cat(text, " float ", i));
    }
  }
}

TEST(DepthwiseNormalization, MixedPrecision) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  constexpr double tolerance = 8e-3;  // two roundings to 8 bits, the first before sums
  for (const Shape& shape : shapes) {
    for (const char* activation : {"relu", "hard_swish"})
      check_mixed_gradients(
          joined(shape, cat(", first_activation = \"", activation, "\", second_activation = \"", activation, "\"")), {},
          {"m", "v", "m2", "v2"}, tolerance);
  }
}

TEST(DepthwiseNormalization, LargeMeanKeepsItsVariance) {
  std::string text = in_parts(shapes[0], "u = Relu(n)", "y = Relu(k)");
  Tensor x = random_feed(DType::f32, {2, 5, 6, 7}, 1000, 1001, 3);
  auto single = results(text, {{"x", x}}, DType::f32, true);
  auto parts = results(text, {{"x", x}}, DType::f64, false);
  for (size_t i = 0; i < 5; ++i) expect_close(single[i], parts[i].cast(DType::f32), 1e-3, cat("result ", i));
}

// The text's node, with bytes for backward, and once more from these; `with_others`: in the place of sums of x too.
std::vector<Tensor> run_twice(const std::string& text, DType floats, bool with_others = false) {
  auto graph = graph_from_text(text, floats);
  Node& node = **graph->nodes().begin();
  Value* saved = graph->add_output(&node);
  saved->opaque = true;
  std::vector<Value*> operands = node.inputs;
  for (size_t i : {3, 4, 8, 9}) operands[i] = nullptr;
  operands.resize(12);
  operands[11] = saved;
  Node* again = graph->add_node("graft", node.type, operands, 1, node.attributes);
  infer(*again);
  if (with_others) graph->set_input(again, 10, saved);
  graph->outputs.push_back(again->outputs[0]);
  Feeds feeds;
  unsigned seed = 3;
  for (const Value* input : graph->inputs) feeds[input->name] = random_feed(floats, input->dims, 0.3, 2, ++seed);
  return evaluate(*graph, feeds);
}

TEST(DepthwiseNormalization, ASecondRunGivesTheSameBits) {
  for (const Shape& shape : shapes) {
    const std::string text = joined(shape, ", first_activation = \"relu\", second_activation = \"hard_swish\"");
    for (DType floats : {DType::f32, DType::f64}) {
      auto found = run_twice(text, floats);
      expect_close(found.at(1), found.at(0), 0, text);
    }
  }
}

TEST(DepthwiseNormalization, RefusesBytesThatAreNotMadeForIt) {
  EXPECT_THROW(run_twice(joined(shapes[0], ""), DType::f32, true), ModelError);
}

// Enough blocks for some threads to own them, and few enough for all to share one.
TEST(DepthwiseNormalization, ThreadsDoNotChangeBits) {
  for (const Shape& shape : {Shape{"5,70,9,8", "70", "3,3", "pads = [1, 1, 1, 1], strides = [2, 2]"}, shapes[0]}) {
    std::string text = in_parts(shape, "u = Relu(n)", "y = Relu(k)");
    for (size_t i = 0; i < 11; ++i)
      expect_same_for_any_threads([&] { return results(text, {}, DType::f32, true).at(i); });
  }
}

}  // namespace
}  // namespace graft::test
