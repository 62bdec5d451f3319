// Encoders on padded batches: with skipping, without, and sample by sample at their own lengths.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "runtime/session.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::random_tensor;
using test::Tensors;

constexpr int64_t longest = 48, width = 64, heads = 2, classes = 5, words = 20;
const std::vector<int64_t> lengths = {48, 7, 33, 1};

enum class Pooling : uint8_t { masked_mean, first_token, mean };

// What is added to the scores of padding, or put in their place.
struct Hiding {
  const char* name;
  float value;
  bool chosen;  // by Where, not by a product
};
const std::vector<Hiding> hidings = {{"-10000", -10000, false},
                                     {"the lowest number", std::numeric_limits<float>::lowest(), false},
                                     {"minus infinity, by Where", -std::numeric_limits<float>::infinity(), true},
                                     {"-1", -1, false}};

// Two layers as BERT has them, on ids and a mask (N, S).
class Encoder {
 public:
  std::unique_ptr<Graph> make(const Hiding& hiding, Pooling pooling) {
    Value* ids = graph_->add_input("ids", DType::i64, {-1, -1});
    Value* mask = graph_->add_input("mask", DType::f32, {-1, -1});
    Value* over = call("Unsqueeze", {call("Sub", {number(1), mask}), integers({1, 2})});
    Value* hidden = hiding.chosen
                        ? call("Where", {call("Cast", {over}, {{"to", int64_t{9}}}), number(hiding.value), number(0)})
                        : call("Mul", {over, number(hiding.value)});
    Value* x = call("Gather", {weight({words, width}), ids});
    for (int layer = 0; layer < 2; ++layer) x = block(x, hidden);
    if (pooling == Pooling::first_token) {
      x = call("Gather", {x, graph_->add_constant(Tensor::scalar(int64_t{0}))}, {{"axis", int64_t{1}}});
    } else if (pooling == Pooling::mean) {
      x = call("ReduceMean", {x, integers({1})}, {{"keepdims", int64_t{0}}});
    } else {
      Value* seen = call("Unsqueeze", {mask, integers({2})});
      auto sum = [&](Value* value) { return call("ReduceSum", {value, integers({1})}, {{"keepdims", int64_t{0}}}); };
      x = call("Div", {sum(call("Mul", {x, seen})), sum(seen)});
    }
    Value* y = call("MatMul", {x, weight({width, classes})});
    graph_->rename(y, "y");
    graph_->outputs = {y};
    return std::move(graph_);
  }

 private:
  Value* call(const char* type, const std::vector<Value*>& operands, Attributes attributes = {}) {
    return graph_->add_node("", type, operands, 1, std::move(attributes))->outputs[0];
  }
  Value* weight(const Dims& dims) {
    ++weights_;
    return graph_->add_constant(random_tensor(DType::f32, dims, weights_, -0.3, 0.3), cat('w', weights_));
  }
  Value* number(float value) { return graph_->add_constant(Tensor::scalar(value)); }
  Value* integers(const std::vector<int64_t>& values) {
    return graph_->add_constant(Tensor::of<int64_t>({static_cast<int64_t>(values.size())}, values));
  }
  Value* turned(Value* x, const std::vector<int64_t>& perm) { return call("Transpose", {x}, {{"perm", perm}}); }
  Value* normalised(Value* x) {
    return call("LayerNormalization", {x, weight({width}), weight({width})}, {{"axis", int64_t{-1}}});
  }
  Value* block(Value* x, Value* hidden) {
    auto part = [&](const std::vector<int64_t>& perm) {
      Value* y = call("Add", {call("MatMul", {x, weight({width, width})}), weight({width})});
      return turned(call("Reshape", {y, integers({0, 0, heads, width / heads})}), perm);
    };
    Value *q = part({0, 2, 1, 3}), *k = part({0, 2, 3, 1}), *v = part({0, 2, 1, 3});
    Value* scores = call("Add", {call("Mul", {call("MatMul", {q, k}), number(0.2F)}), hidden});
    Value* seen = turned(call("MatMul", {call("Softmax", {scores}, {{"axis", int64_t{-1}}}), v}), {0, 2, 1, 3});
    Value* y = call("MatMul", {call("Reshape", {seen, integers({0, 0, width})}), weight({width, width})});
    x = normalised(call("Add", {x, y}));
    y = call("Gelu", {call("Add", {call("MatMul", {x, weight({width, 2 * width})}), weight({2 * width})})});
    return normalised(call("Add", {x, call("MatMul", {y, weight({2 * width, width})})}));
  }

  std::unique_ptr<Graph> graph_ = std::make_unique<Graph>();
  unsigned weights_ = 0;
};

Session encoder(const Hiding& hiding, Pooling pooling, DType dtype, bool skips) {
  SessionOptions options{.double_precision = dtype == DType::f64};
  if (!skips) options.disabled = {"skip_padding"};
  return Session(Encoder().make(hiding, pooling), {}, options);
}

// Samples [begin, end), with `tokens` of each.
struct Batch {
  Batch(int64_t begin, int64_t end, int64_t tokens, DType dtype)
      : ids(DType::i64, {end - begin, tokens}), mask(DType::f32, {end - begin, tokens}) {
    for (int64_t i = 0; i < ids.count(); ++i) {
      const int64_t sample = begin + i / tokens, token = i % tokens;
      const bool seen = token < lengths[static_cast<size_t>(sample)];
      ids.data<int64_t>()[i] = seen ? (7 * sample + 3 * token + token / 5) % words : 0;
      mask.data<float>()[i] = seen ? 1 : 0;
    }
    mask = mask.cast(dtype);
    cotangent = test::rows(random_tensor(DType::f32, {static_cast<int64_t>(lengths.size()), classes}, 3), begin, end)
                    .cast(dtype);
  }
  Tensor ids, mask, cotangent;
};

// Outputs, and gradients of all parameters.
Tensors gradients(Session& session, const Batch& batch) {
  auto vjp = session.vjp({{"ids", batch.ids.dims()}, {"mask", batch.mask.dims()}}, Mode::train);
  vjp->set_input("ids", batch.ids);
  vjp->set_input("mask", batch.mask);
  vjp->set_input("cotangent:y", batch.cotangent);
  vjp->run();
  Tensors found;
  for (const Value* output : vjp->graph().outputs) {
    if (output->name != "grad:mask") found[output->name] = vjp->output(output->name);
  }
  return found;
}

const int64_t samples = static_cast<int64_t>(lengths.size());

TEST(SkipPadding, StepsHaveTheSameBits) {
  for (const Hiding& hiding : hidings) {
    for (Pooling pooling : {Pooling::masked_mean, Pooling::first_token, Pooling::mean}) {
      SCOPED_TRACE(cat(hiding.name, ", pooling ", static_cast<int>(pooling)));
      auto trained = [&](bool skips) {
        Session session = encoder(hiding, pooling, DType::f32, skips);
        TrainingOptions options;
        options.trainable = session.parameters();
        const Batch batch(0, samples, longest, DType::f32);
        auto programs = session.training({{"ids", batch.ids.dims()}, {"mask", batch.mask.dims()}}, options);
        programs.step->set_input("ids", batch.ids);
        programs.step->set_input("mask", batch.mask);
        programs.step->set_input("graft.labels", Tensor::of<int64_t>({samples}, {0, 3, 1, 4}));
        programs.step->set_input("graft.lr", Tensor::scalar(0.01F));
        for (int i = 0; i < 4; ++i) programs.step->run();
        EXPECT_EQ(programs.step->counters().allocations, 0);
        return test::states(session.store());
      };
      test::expect_same_bits(trained(true), trained(false));
    }
  }
}

// What a mask hides is as if it were not there.
TEST(SkipPadding, GradientsAreThoseOfSamplesWithoutPadding) {
  for (DType dtype : {DType::f64, DType::f32}) {
    for (const Hiding& hiding : hidings) {
      if (hiding.value == -1) continue;
      for (Pooling pooling : {Pooling::masked_mean, Pooling::first_token}) {
        Session session = encoder(hiding, pooling, dtype, true);
        Tensors padded = gradients(session, Batch(0, samples, longest, dtype)), sums;
        std::map<std::string, std::vector<Tensor>> outputs;
        for (int64_t i = 0; i < samples; ++i) {
          for (const auto& [name, value] :
               gradients(session, Batch(i, i + 1, lengths[static_cast<size_t>(i)], dtype))) {
            if (name == "y") {
              const Tensor wanted = value.cast(DType::f64), got = test::rows(padded.at("y"), i, i + 1).cast(DType::f64);
              test::expect_close(got, wanted, dtype == DType::f64 ? 1e-12 : 1e-5);
              continue;
            }
            Tensor part = value.cast(DType::f64);
            Tensor& sum = sums.try_emplace(name, DType::f64, part.dims()).first->second;
            for (int64_t e = 0; e < part.count(); ++e) sum.data<double>()[e] += part.data<double>()[e];
          }
        }
        padded.erase("y");
        for (auto& [name, value] : padded) value = value.cast(DType::f64);
        test::expect_agreement(padded, sums, dtype == DType::f64 ? 1e-10 : 1e-5, cat(hiding.name, ' ', dtype));
      }
    }
  }
}

TEST(SkipPadding, TellsAttentionAndTheProductsOfGradients) {
  if (std::getenv("GRAFT_DISABLE")) GTEST_SKIP() << "fusions are switched off";
  const Batch batch(0, samples, longest, DType::f32);
  auto text = [&](const Hiding& hiding, bool skips) {
    Session session = encoder(hiding, Pooling::first_token, DType::f32, skips);
    TrainingOptions options;
    options.trainable = session.parameters();
    return session.text_after("lay_out", {{"ids", batch.ids.dims()}, {"mask", batch.mask.dims()}}, &options);
  };
  auto count = [](const std::string& all, const std::string& part) {
    int found = 0;
    for (size_t at = 0; (at = all.find(part, at)) != std::string::npos; at += part.size()) ++found;
    return found;
  };
  const std::string on = text(hidings[0], true), off = text(hidings[0], false);
  EXPECT_EQ(count(on, "skips = 1"), 4) << on;           // attention and its gradient, in two layers
  EXPECT_EQ(count(on, "zero_rows"), 2 * 12 + 2) << on;  // the gradients of six products a layer, and of the head
  EXPECT_EQ(count(off, "skips") + count(off, "zero_rows"), 0);
}

}  // namespace
}  // namespace graft
