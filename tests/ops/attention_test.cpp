#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
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

struct Options {
  bool skips = false;     // padding
  bool low = false;       // in mixed precision
  Tensor cotangent = {};  // of y; random where there is none
};

// y, then the gradients of all inputs but the mask, for a random seed.
std::vector<Tensor> results(const std::string& text, const Feeds& given, DType floats, bool join,
                            const Options& options = {}) {
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
  Tensor cotangent = options.cotangent.defined() ? options.cotangent.cast(floats)
                                                 : random_feed(floats, graph->outputs[0]->dims, -1, 1, 2);
  for (Value* gradient : differentiate(*graph, {graph->outputs[0]}, {graph->add_constant(cotangent)}, wanted))
    graph->outputs.push_back(gradient);
  graph->prune();
  if (options.skips) {
    EXPECT_GT(skip_padding(*graph), 0);
  }
  if (options.low) {
    graph->sort();
    EXPECT_GT(mix_precision(*graph).low, 0);
  }
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

constexpr float lowest = std::numeric_limits<float>::lowest(), infinite = std::numeric_limits<float>::infinity();

// What a mask of rows x columns for each sample is.
Tensor mask_of(const Dims& dims, const std::function<float(int64_t sample, int64_t row, int64_t column)>& value) {
  Tensor mask(DType::f32, dims);
  const int64_t rows = dims[2], columns = dims[3];
  for (int64_t i = 0; i < mask.count(); ++i)
    mask.data<float>()[i] = value(i / (rows * columns), i / columns % rows, i % columns);
  return mask;
}

struct Padding {
  std::string name;
  Dims dims;
  std::function<float(int64_t sample, int64_t row, int64_t column)> mask;
  bool gives_nan = false;
};

// For samples of up to 70 tokens.
std::vector<Padding> paddings() {
  const Dims keys = {3, 1, 1, 70}, scores = {3, 1, 70, 70};
  std::vector<Padding> all;
  for (float out : {-infinite, lowest, -10000.0F, -1.0F}) {
    auto add = [&](const char* name, const Dims& dims, auto hides) {
      all.push_back({cat(name, ' ', out), dims,
                     [=](int64_t n, int64_t r, int64_t c) { return hides(n, r, c) ? out : 0; },
                     out == -infinite && std::string_view(name).starts_with("all")});
    };
    add("at the end", keys, [](int64_t n, int64_t, int64_t c) { return c >= 9 + 30 * n; });
    add("at the end of every row", scores, [](int64_t n, int64_t, int64_t c) { return c >= 9 + 30 * n; });
    add("in front", keys, [](int64_t n, int64_t, int64_t c) { return c < 20 * n + 13; });
    add("in the middle", keys, [](int64_t, int64_t, int64_t c) { return c >= 10 && c < 61; });
    add("all of a sample", keys, [](int64_t n, int64_t, int64_t c) { return n == 1 || c >= 40; });
    add("behind the row, and at the end", scores, [](int64_t, int64_t r, int64_t c) { return c > r || c >= 33; });
    add("in some rows", scores, [](int64_t, int64_t r, int64_t c) { return c >= 30 && r % 7 != 3; });
    add("all of some rows", scores, [](int64_t, int64_t r, int64_t c) { return c >= 30 || r >= 30; });
  }
  all.push_back({"less and less", keys, [](int64_t, int64_t, int64_t c) { return static_cast<float>(-3 * c); }});
  all.push_back(
      {"no number", keys, [](int64_t, int64_t, int64_t c) { return c == 69  ? NAN
                                                                   : c > 40 ? -1e30F
                                                                            : 0; }, true});
  return all;
}

constexpr const char* seventy = "3,70,2,8";

// Of queries behind the first ten tokens of each sample there is no gradient.
Tensor cut_cotangent() {
  Tensor cotangent = random_feed(DType::f32, {3, 70, 2, 8}, -1, 1, 5);
  for (int64_t i = 0; i < cotangent.count(); ++i) {
    if (i / 16 % 70 >= 10) cotangent.data<float>()[i] = 0;
  }
  return cotangent;
}

void expect_same(const std::vector<Tensor>& got, const std::vector<Tensor>& wanted, const std::string& what) {
  for (size_t i = 0; i < wanted.size(); ++i) expect_close(got[i], wanted[i], 0, cat(what, ", result ", i));
}

TEST(Attention, SkippedKeysAndRowsChangeNoBit) {
  for (const Padding& padding : paddings()) {
    const std::string text = bert(seventy, cat(padding.dims[0], ",1,", padding.dims[2], ",70").c_str());
    const Feeds feeds{{"m", mask_of(padding.dims, padding.mask)}};
    for (const Tensor& cotangent : {Tensor{}, cut_cotangent(), Tensor(DType::f32, {3, 70, 2, 8})}) {
      auto run = [&](bool skips, bool low) {
        return results(text, feeds, DType::f32, true, {.skips = skips, .low = low, .cotangent = cotangent});
      };
      // A gradient of zero for a row that is no number is zero.
      if (cotangent.defined() && padding.gives_nan) continue;
      expect_same(run(true, false), run(false, false), padding.name);
      if (has_bfloat16()) expect_same(run(true, true), run(false, true), cat(padding.name, " in bfloat16"));
    }
  }
}

// What is not computed is seen by what it leaves alone: values that are no number.
TEST(Attention, SkipsWhatTheMaskHides) {
  const Dims keys = {3, 1, 1, 70}, operand = {3, 70, 2, 8};
  Tensor v = random_feed(DType::f32, operand, -1, 1, 7), k = random_feed(DType::f32, operand, -1, 1, 8);
  auto behind = [](const Tensor& x, int64_t token, float value) {
    Tensor changed = x.clone();
    for (int64_t i = 0; i < changed.count(); ++i) {
      if (i / 16 % 70 >= token) changed.data<float>()[i] = value;
    }
    return changed;
  };
  auto is_finite = [](const std::vector<Tensor>& all) {
    return std::all_of(all.begin(), all.end(), [](const Tensor& x) {
      return std::all_of(x.values<float>().begin(), x.values<float>().end(), [](float e) { return std::isfinite(e); });
    });
  };
  for (bool low : {false, true}) {
    if (low && !has_bfloat16()) continue;
    for (float out : {-infinite, lowest, -10000.0F, -100.0F}) {
      Tensor mask = mask_of(keys, [&](int64_t, int64_t, int64_t c) { return c >= 16 ? out : 0; });
      auto run = [&](const Tensor& z, const Tensor& u, bool skips) {
        return results(bert(seventy, "3,1,1,70"), {{"m", mask}, {"z", z}, {"u", u}}, DType::f32, true,
                       {.skips = skips, .low = low});
      };
      const bool hides = out < -100;
      EXPECT_EQ(is_finite(run(k, behind(v, 16, NAN), true)), hides) << out << " low " << low;
      EXPECT_FALSE(is_finite(run(k, behind(v, 16, NAN), false))) << out;
      EXPECT_FALSE(is_finite(run(behind(k, 16, NAN), v, true))) << "a key that is no number " << out;
      // Scores that rise over a mask of that depth.
      if (out == -10000) {
        Tensor large = behind(k, 16, 1e4F);
        expect_same(run(large, v, true), run(large, v, false), "large scores");
        EXPECT_FALSE(is_finite(run(large, behind(v, 16, NAN), true)));
      }
    }
    // Rows without a gradient, whose queries are no numbers, give none.
    Tensor q = behind(random_feed(DType::f32, operand, -1, 1, 9), 32, NAN);
    auto all = results(bert(seventy, "3,1,1,70"), {{"m", Tensor(DType::f32, keys)}, {"x", q}}, DType::f32, true,
                       {.skips = true, .low = low, .cotangent = cut_cotangent()});
    all.erase(all.begin());
    EXPECT_TRUE(is_finite(all)) << low;
  }
}

TEST(Attention, SkippingThreadsDoNotChangeBits) {
  const Padding padding = paddings().front();
  for (size_t i = 0; i < 4; ++i) {
    expect_same_for_any_threads([&] {
      return results(bert(seventy, "3,1,1,70"), {{"m", mask_of(padding.dims, padding.mask)}}, DType::f32, true,
                     {.skips = true, .cotangent = cut_cotangent()})
          .at(i);
    });
  }
}

TEST(Attention, ThreadsDoNotChangeBits) {
  for (size_t i = 0; i < 4; ++i)
    expect_same_for_any_threads([&] { return results(bert("3,37,5,8", "37,37"), {}, DType::f32, true).at(i); });
}

}  // namespace
}  // namespace graft::test
