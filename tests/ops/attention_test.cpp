#include <gtest/gtest.h>

#include <limits>

#include "graph/passes/passes.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

const OpCheck gradient_only{.forward = false};

TEST(Attention, Gradients) {
  for (const char* inputs : {
           "(float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v",
           "(float[1,2,1,3] q, float[1,2,9,3] k, float[1,2,9,1] v",
           "(float[2,1,6,1] q, float[2,1,1,1] k, float[2,1,1,5] v",
           "(float[3,5,4] q, float[3,7,4] k, float[3,7,6] v",
           "(float[1,1,21,8] q, float[1,1,19,8] k, float[1,1,19,8] v",
       })
    check_op(cat(inputs, ") => (y) { y = graft.Attention<scale = 0.7>(q, k, v) }"), {}, gradient_only);
  for (const char* mask : {"2,3,5,7", "2,1,1,7", "5,7", "1,3,5,1", "1"})
    check_op(cat("(float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v, float[", mask,
                 "] m) => (y) { y = graft.Attention<scale = 0.5>(q, k, v, m) }"),
             {}, gradient_only);
}

TEST(Attention, GradientsOfSomeOperandsAlone) {
  for (const char* wanted : {"q", "k", "v", "m"}) {
    OpCheck check = gradient_only;
    check.fixed = {"q", "k", "v", "m"};
    check.fixed.erase(wanted);
    check_op(
        "(float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v, float[5,7] m) => (y) { y = graft.Attention(q, k, v, m) "
        "}",
        {}, check);
  }
}

// y, then the gradients of all inputs but the mask, for a random seed.
std::vector<Tensor> results(const std::string& text, const Feeds& given, DType floats, bool join) {
  auto graph = graph_from_text(text, floats);
  EXPECT_EQ(recognise(*graph, join ? std::set<std::string>{} : std::set<std::string>{"attention"})["attention"], join)
      << text;
  Feeds feeds;
  for (const auto& [name, tensor] : given) feeds[name] = tensor.cast(floats);
  std::vector<Value*> wanted;
  unsigned seed = 3;
  for (Value* input : graph->inputs) {
    if (!feeds.count(input->name)) feeds[input->name] = random_feed(floats, input->dims, -1, 1, ++seed);
    if (input->name != "m") wanted.push_back(input);
  }
  Tensor cotangent = random_feed(floats, graph->outputs[0]->dims, -1, 1, 2);
  for (Value* gradient : differentiate(*graph, {graph->outputs[0]}, {graph->add_constant(cotangent)}, wanted))
    graph->outputs.push_back(gradient);
  graph->prune();
  verify(*graph);
  return evaluate(*graph, feeds);
}

std::string bert(const char* dims, const char* mask) {
  return cat(
      "(float[", dims, "] x, float[", dims, "] z, float[", dims, "] u, float[", mask,
      "] m) => (y) <float c = {0.3}> { q = Transpose<perm = [0, 2, 1, 3]>(x) k = Transpose<perm = [0, 2, 3, 1]>(z) "
      "v = Transpose<perm = [0, 2, 1, 3]>(u) s = MatMul(q, k) t = Mul(s, c) a = Add(t, m) p = Softmax(a) o = "
      "MatMul(p, v) y = Transpose<perm = [0, 2, 1, 3]>(o) }");
}

TEST(Attention, IsTheSameAsItsParts) {
  for (auto [dims, mask] : {std::pair{"2,7,3,5", "2,1,1,7"}, {"1,40,2,8", "1,1,40,40"}, {"3,1,2,4", "1"}}) {
    std::string text = bert(dims, mask);
    auto parts = results(text, {}, DType::f64, false);
    auto wide = results(text, {}, DType::f64, true);
    auto single = results(text, {}, DType::f32, true);
    for (size_t i = 0; i < parts.size(); ++i) {
      expect_close(wide[i], parts[i], 1e-12, cat(text, " result ", i));
      expect_close(single[i], parts[i].cast(DType::f32), 1e-5, cat(text, " float ", i));
    }
  }
}

TEST(Attention, WithoutABatch) {
  std::string text =
      "(float[3,5,4] q, float[3,4,7] k, float[3,7,6] v, float[5,7] m) => (y) { s = MatMul(q, k) t = Add(s, m) p = "
      "Softmax(t) y = MatMul(p, v) }";
  auto parts = results(text, {}, DType::f64, false);
  auto single = results(text, {}, DType::f32, true);
  for (size_t i = 0; i < parts.size(); ++i) expect_close(single[i], parts[i].cast(DType::f32), 1e-5, cat("result ", i));
}

// More rows than are worked on together; a width that is no multiple of anything.
TEST(Attention, LongSequences) {
  std::string text =
      "(float[1,2,70,9] q, float[1,2,1030,9] k, float[1,2,1030,5] v) => (y) { t = Transpose<perm = [0, 1, "
      "3, 2]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }";
  auto parts = results(text, {}, DType::f64, false);
  auto single = results(text, {}, DType::f32, true);
  for (size_t i = 0; i < parts.size(); ++i) expect_close(single[i], parts[i].cast(DType::f32), 1e-5, cat("result ", i));
}

// Masks as exporters write them: the lowest number, or minus infinity; a row that sees nothing is uniform or no number.
TEST(Attention, MaskedRows) {
  for (float out : {std::numeric_limits<float>::lowest(), -std::numeric_limits<float>::infinity()}) {
    Tensor mask(DType::f32, {2, 1, 5, 5});
    for (int64_t i = 0; i < 25; ++i) mask.data<float>()[i] = i % 5 > i / 5 || i < 5 ? out : 0;
    std::string text = bert("2,5,3,4", "2,1,5,5");
    auto parts = results(text, {{"m", mask}}, DType::f32, false);
    auto joined = results(text, {{"m", mask}}, DType::f32, true);
    for (size_t i = 0; i < parts.size(); ++i) expect_close(joined[i], parts[i], 1e-5, cat(out, " result ", i));
  }
}

// Weights are rounded before they are multiplied, results behind that: each to 8 bits.
TEST(Attention, MixedPrecision) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  constexpr double tolerance = 2e-2;
  struct Sizes {
    int64_t batch, heads, rows, columns, depth, depth_v;
    const char* mask;
  };
  for (const Sizes& s : {Sizes{2, 3, 5, 7, 4, 6, "2,1,1,7"},
                         {1, 2, 128, 128, 32, 32, "1,1,1,128"},
                         {1, 2, 70, 1030, 9, 5, "70,1030"},
                         {2, 1, 6, 1, 1, 5, "1"},
                         {1, 3, 33, 40, 16, 1, "33,1"}}) {
    auto matrix = [&](const char* name, int64_t rows, int64_t columns) {
      return cat("float[", s.batch, ",", s.heads, ",", rows, ",", columns, "] ", name);
    };
    const std::string operands = cat(matrix("q", s.rows, s.depth), ", ", matrix("k", s.columns, s.depth), ", ",
                                     matrix("v", s.columns, s.depth_v));
    check_mixed(cat("(", operands, ") => (y) { y = graft.Attention<scale = 0.1>(q, k, v) }"), "any", 0, {}, tolerance);
    check_mixed(cat("(", operands, ", float[", s.mask, "] m) => (y) { y = graft.Attention<scale = 0.1>(q, k, v, m) }"),
                "any", 0, {}, tolerance);
    // Of every row a number that no score is above, and a factor with which probabilities come to about 1.
    Tensor saved(DType::f32, {s.batch * s.heads, 2, s.rows});
    for (int64_t i = 0; i < saved.count(); ++i)
      saved.data<float>()[i] = i / s.rows % 2 == 0 ? 12.0F : 1.2e5F / static_cast<float>(s.columns);
    check_mixed(
        cat("(", matrix("dy", s.rows, s.depth_v), ", ", operands, ", float[", s.batch * s.heads, ",2,", s.rows,
            "] saved, float[", s.mask,
            "] m) => (dq, dk, dv, dm) { dq, dk, dv, dm = graft.AttentionGrad<scale = 0.1>(dy, q, k, v, saved, m) "
            "}"),
        "any", 0, {{"saved", saved}}, tolerance);
  }
}

TEST(Attention, ThreadsDoNotChangeBits) {
  for (size_t i = 0; i < 4; ++i)
    expect_same_for_any_threads([&] { return results(bert("3,37,5,8", "37,37"), {}, DType::f32, true).at(i); });
}

}  // namespace
}  // namespace graft::test
