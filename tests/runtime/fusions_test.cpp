// Networks compute the same with every pattern and fusion, with all but one, and with none.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/model_session.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"
#include "tests/support/thread_count.h"

namespace graft {
namespace {

using test::random_tensor;
using test::Recording;
using test::Tensors;

constexpr int64_t steps = 50;
constexpr double step_tolerance = 1e-5;  // of parameters and statistics, after one step
constexpr double loss_tolerance = 1e-3;  // of a free run

// Networks of random weights, named w0, w1, ... in the order in which they are made.
class Builder {
 public:
  Builder() { graph_ = std::make_unique<Graph>(); }

  Value* input(Dims dims) {
    dims[0] = -1;
    return graph_->add_input("x", DType::f32, dims);
  }
  Value* weight(const Dims& dims, double low = -0.4, double high = 0.4) {
    ++weights_;
    return graph_->add_constant(random_tensor(DType::f32, dims, weights_, low, high), cat('w', weights_ - 1));
  }
  Value* scale(const Dims& dims) { return weight(dims, 0.5, 1.5); }
  Value* number(float value) { return graph_->add_constant(Tensor::scalar(value)); }
  Value* axis(int64_t value) { return graph_->add_constant(Tensor::of<int64_t>({1}, {value})); }
  Value* call(const char* type, const std::vector<Value*>& operands, Attributes attributes = {}) {
    return graph_->add_node("", type, operands, 1, std::move(attributes))->outputs[0];
  }

  Value* convolution(Value* x, int64_t from, int64_t to, int64_t window, int64_t group = 1) {
    return call("Conv", {x, weight({to, from / group, window, window})},
                {{"pads", std::vector<int64_t>(4, window / 2)}, {"group", group}});
  }
  Value* normalization(Value* x, int64_t channels) {
    return call("BatchNormalization",
                {x, scale({channels}), weight({channels}), weight({channels}), scale({channels})});
  }
  Value* clip(Value* x, float high) { return call("Clip", {x, number(0), number(high)}); }

  std::unique_ptr<Graph> end(Value* y) {
    graph_->rename(y, "y");
    graph_->outputs = {y};
    return std::move(graph_);
  }

 private:
  std::unique_ptr<Graph> graph_;
  unsigned weights_ = 0;
};

// Three times Conv, BatchNormalization and an activation; the last two add what came before.
std::unique_ptr<Graph> residual() {
  constexpr int64_t channels = 19;  // leaves padding in blocks of 16 and of 8
  Builder b;
  Value* x = b.input({0, 3, 9, 7});
  for (int64_t i = 0; i < 3; ++i) {
    Value* h = b.normalization(b.convolution(x, i == 0 ? 3 : channels, channels, 3), channels);
    if (i > 0) h = b.call("Add", {x, h});
    x = i == 1 ? b.clip(h, 0.5) : b.call("Relu", {h});
  }
  return b.end(x);
}

// As in MobileNetV2, but for a hard-swish at the end, as exporters spell it out.
std::unique_ptr<Graph> inverted_residual() {
  constexpr int64_t narrow = 16, wide = 32;
  Builder b;
  Value* x = b.input({0, narrow, 8, 7});
  Value* h = b.clip(b.normalization(b.convolution(x, narrow, wide, 1), wide), 6);
  h = b.clip(b.normalization(b.convolution(h, wide, wide, 3, wide), wide), 6);
  h = b.call("Add", {x, b.normalization(b.convolution(h, wide, narrow, 1), narrow)});
  Value* gate = b.clip(b.call("Add", {h, b.number(3)}), 6);
  return b.end(b.call("Div", {b.call("Mul", {h, gate}), b.number(6)}));
}

std::unique_ptr<Graph> convolutions() {
  Builder b;
  Value* x = b.input({0, 16, 14, 13});
  return b.end(b.convolution(b.call("Relu", {b.convolution(x, 16, 32, 3)}), 32, 16, 3));
}

// (x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias
Value* layer_normalization(Builder& b, Value* x, int64_t width) {
  Value* centred = b.call("Sub", {x, b.call("ReduceMean", {x, b.axis(-1)})});
  Value* variance = b.call("ReduceMean", {b.call("Pow", {centred, b.number(2)}), b.axis(-1)});
  Value* root = b.call("Sqrt", {b.call("Add", {variance, b.number(1e-5F)})});
  return b.call("Add", {b.call("Mul", {b.call("Div", {centred, root}), b.scale({width})}), b.weight({width})});
}

Value* softmax(Builder& b, Value* x) {
  Value* e = b.call("Exp", {b.call("Sub", {x, b.call("ReduceMax", {x, b.axis(-1)})})});
  return b.call("Div", {e, b.call("ReduceSum", {e, b.axis(-1)})});
}

Value* gelu(Builder& b, Value* x) {
  Value* erf = b.call("Erf", {b.call("Div", {x, b.number(std::sqrt(2.0F))})});
  return b.call("Mul", {b.call("Mul", {x, b.call("Add", {erf, b.number(1)})}), b.number(0.5)});
}

// An attention of one head and a GELU, each behind a LayerNormalization, with what careless exporters add: transposes
// that undo each other, values computed twice, Identity.
std::unique_ptr<Graph> attention() {
  constexpr int64_t width = 16;
  const Attributes turn = {{"perm", std::vector<int64_t>{0, 2, 1}}};
  Builder b;
  Value* x = b.input({0, 6, width});
  Value* h = layer_normalization(b, x, width);
  Value* q = b.call("MatMul", {h, b.weight({width, width})});
  Value* key_weight = b.weight({width, width});
  Value* k = b.call("Transpose", {b.call("MatMul", {h, key_weight})}, turn);
  Value* v = b.call("Tanh", {b.call("MatMul", {b.call("Identity", {h}), key_weight})});
  Value* p = softmax(b, b.call("Div", {b.call("MatMul", {q, k}), b.number(4)}));
  Value* mixed = b.call("Transpose", {b.call("Transpose", {b.call("MatMul", {p, v})}, turn)}, turn);
  x = b.call("Add", {x, mixed});
  h = b.call("MatMul", {layer_normalization(b, x, width), b.weight({width, width})});
  h = b.call("Add", {b.weight({width}), h});
  return b.end(b.call("Add", {x, gelu(b, h)}));
}

// Products with a vector behind them; the columns of the first lie apart, so that the transpose of the sum is plain.
std::unique_ptr<Graph> products() {
  constexpr int64_t rows = 6, columns = 5;
  Builder b;
  Value* h = b.call("MatMul", {b.input({0, rows, 8}), b.weight({8, columns})});
  h = b.call("Transpose", {b.call("Add", {h, b.weight({columns})})}, {{"perm", std::vector<int64_t>{0, 2, 1}}});
  h = b.call("MatMul", {b.call("Tanh", {h}), b.weight({rows, 4})});
  return b.end(b.call("Add", {b.weight({4}), h}));
}

// Swish and Mish as products.
std::unique_ptr<Graph> gates() {
  Builder b;
  Value* h = b.call("Gemm", {b.input({0, 12}), b.weight({12, 9}), b.weight({9})});
  h = b.call("Gemm", {b.call("Mul", {h, b.call("Sigmoid", {h})}), b.weight({9, 7}), b.weight({7})});
  return b.end(b.call("Mul", {b.call("Tanh", {b.call("Softplus", {h})}), h}));
}

// A gate per channel and element-wise work around it, in layouts of convolutions, with results that backward reads.
std::unique_ptr<Graph> regions() {
  constexpr int64_t channels = 19;  // leaves padding in blocks of 16 and of 8
  Builder b;
  Value* x = b.convolution(b.input({0, 3, 9, 7}), 3, channels, 3);
  Value* h = b.call("Softplus", {b.call("Add", {x, b.weight({channels, 1, 1})})});
  h = b.call("Sub", {b.call("Elu", {b.call("Mul", {h, x})}), b.number(0.5)});
  Value* gate = b.call("GlobalAveragePool", {h});
  gate = b.call("HardSigmoid", {b.call("Conv", {gate, b.weight({channels, channels, 1, 1})})});
  h = b.call("Sum", {b.call("Mul", {h, gate}), x, b.weight({channels, 1, 1})});
  return b.end(b.convolution(b.call("LeakyRelu", {h}), channels, channels, 1));
}

// Rows of a table, picked more than once and from the end too.
std::unique_ptr<Graph> embedding() {
  constexpr int64_t rows = 11, width = 8;
  Builder b;
  Value* ids = b.call("Cast", {b.call("Mul", {b.input({0, 6}), b.number(5)})}, {{"to", int64_t{7}}});
  Value* h = b.call("Tanh", {b.call("Gather", {b.weight({rows, width}), ids})});
  return b.end(b.call("MatMul", {h, b.weight({width, 4})}));
}

struct Network {
  std::string name;
  std::unique_ptr<Graph> (*make)() = nullptr;  // nullptr: a recorded one
  Dims x = {}, y = {};
  std::set<std::string> made_for = {};  // what it has for fusions to find
};

void PrintTo(const Network& network, std::ostream* out) { *out << network.name; }  // NOLINT: gtest's name

const std::vector<Network>& networks() {
  static const std::vector<Network> all = {
      {"small_mlp"},
      {"small_cnn"},
      {"block"},
      {"residual",
       residual,
       {3, 3, 9, 7},
       {3, 19, 9, 7},
       {"normalization_activation", "join_sums", "release_gradients"}},
      {"inverted_residual",
       inverted_residual,
       {3, 16, 8, 7},
       {3, 16, 8, 7},
       {"normalization_activation", "depthwise_normalization", "hard_swish"}},
      {"convolutions", convolutions, {3, 16, 14, 13}, {3, 16, 14, 13}, {"winograd"}},
      {"attention",
       attention,
       {3, 6, 16},
       {3, 6, 16},
       {"layer_normalization", "softmax", "attention", "gelu", "merge_transposes", "merge_equal", "remove_identities"}},
      {"products", products, {3, 6, 8}, {3, 5, 4}, {"product_bias"}},
      {"regions", regions, {3, 3, 9, 7}, {3, 19, 9, 7}, {"elementwise"}},
      {"gates", gates, {5, 12}, {5, 7}, {"swish", "mish"}},
      {"embedding", embedding, {3, 6}, {3, 6, 4}, {"sparse_gradients"}}};
  return all;
}

std::vector<Network> built() {
  std::vector<Network> found;
  std::copy_if(networks().begin(), networks().end(), std::back_inserter(found),
               [](const Network& n) { return n.make; });
  return found;
}

// Each fusion on its own, and all.
std::vector<std::string> switches() {
  std::vector<std::string> names = fusion_names();
  names.emplace_back("all");
  return names;
}

// Sessions here say themselves what is switched off.
class FusionTest : public testing::Test {
 protected:
  FusionTest() {
    if (const char* value = std::getenv(variable)) before_ = value;
    unsetenv(variable);
  }
  ~FusionTest() override {
    if (before_) setenv(variable, before_->c_str(), 1);
  }

 private:
  static constexpr const char* variable = "GRAFT_DISABLE";
  std::optional<std::string> before_;
};

// A network under training: batches, and the session that it runs in.
class Training {
 public:
  Training(const Network& network, OptimiserType type, DType dtype, const std::string& disabled)
      : network_(network), dtype_(dtype), rate_(type == OptimiserType::sgd ? 0.2 : 0.003) {
    SessionOptions session{.double_precision = dtype == DType::f64, .disabled = {disabled}};
    if (network.make) {
      session_ = std::make_shared<Session>(network.make(), Expander{}, session);
    } else {
      recording_.emplace(network.name);
      auto model = std::make_shared<ModelSession>(ModelSession::open(recording_->model(), session));
      session_ = {model, &model->session()};
    }
    options_.optimiser.type = type;
    options_.optimiser.momentum = 0.9;
    options_.optimiser.weight_decay = 0.01;
    options_.trainable = session_->parameters();
    if (network.make) options_.loss.type = LossType::mse;
  }

  double step(int64_t i) {
    constexpr int64_t batches = 20;
    i %= batches;
    auto seed = static_cast<unsigned>(i);
    Tensor x = recording_ ? recording_->row("steps/x", i) : random_tensor(DType::f32, network_.x, seed);
    Tensor y = recording_ ? recording_->row("steps/y", i) : random_tensor(DType::f32, network_.y, seed + batches);
    if (!recording_) y = y.cast(dtype_);
    return test::train_step(session_->training({{"x", x.dims()}}, options_), x.cast(dtype_), y, rate_);
  }

  Tensors states() const { return test::states(session_->store()); }
  void set(const Tensors& states) {
    for (const auto& [name, value] : states) session_->store().write(name, value);
  }

  // Parameters and statistics. Where the gradient is nothing but rounding, as that of a bias before a live
  // BatchNormalization, Adam makes whole steps of the rounding in float32: those parameters are compared in float64.
  Tensors compared(const Tensors& states) const {
    Tensors found = states;
    bool leave_out = options_.optimiser.type != OptimiserType::sgd && dtype_ == DType::f32 && recording_;
    std::erase_if(found, [&](const auto& entry) {
      StateKind kind = session_->store().entry(entry.first).kind;
      return (kind != StateKind::parameter && kind != StateKind::statistic) ||
             (leave_out && recording_->has_noise_for_gradient(entry.first));
    });
    return found;
  }

 private:
  const Network& network_;
  DType dtype_;
  double rate_;
  std::optional<Recording> recording_;
  std::shared_ptr<Session> session_;
  TrainingOptions options_;
};

class FusedAgainstUnfused : public FusionTest,
                            public testing::WithParamInterface<std::tuple<Network, OptimiserType, DType>> {};

TEST_P(FusedAgainstUnfused, OneStepAndFiftyAgree) {
  const auto& [network, type, dtype] = GetParam();
  Training fused(network, type, dtype, "");
  std::vector<double> losses;
  Tensors first, last;
  for (int64_t i = 0; i < steps; ++i) {
    losses.push_back(fused.step(i));
    if (i == 0) first = fused.states();
  }
  Tensors trained = fused.states();
  fused.step(steps);
  last = fused.states();
  for (const std::string& disabled : switches()) {
    Training other(network, type, dtype, disabled);
    for (int64_t i = 0; i < steps; ++i) {
      auto wanted = losses[static_cast<size_t>(i)];
      EXPECT_NEAR(other.step(i), wanted, loss_tolerance * wanted) << disabled << ", step " << i;
      if (i == 0)
        test::expect_agreement(other.states(), fused.compared(first), step_tolerance, cat(disabled, ", first step"));
    }
    other.set(trained);
    other.step(steps);
    test::expect_agreement(other.states(), fused.compared(last), step_tolerance, cat(disabled, ", step of a trained"));
  }
}

std::string step_test_name(const testing::TestParamInfo<std::tuple<Network, OptimiserType, DType>>& info) {
  const auto& [network, type, dtype] = info.param;
  return cat(network.name, type == OptimiserType::sgd ? "_sgd_" : "_adamw_", name_of(dtype));
}

INSTANTIATE_TEST_SUITE_P(Float, FusedAgainstUnfused,
                         testing::Combine(testing::ValuesIn(networks()),
                                          testing::Values(OptimiserType::sgd, OptimiserType::adamw),
                                          testing::Values(DType::f32)),
                         step_test_name);
INSTANTIATE_TEST_SUITE_P(Double, FusedAgainstUnfused,
                         testing::Combine(testing::Values(networks()[1], networks()[2]),
                                          testing::Values(OptimiserType::adamw), testing::Values(DType::f64)),
                         step_test_name);

class BuiltNetwork : public FusionTest, public testing::WithParamInterface<Network> {};

TEST_P(BuiltNetwork, HasTheSameGradients) {
  const Network& network = GetParam();
  for (Mode mode : {Mode::train, Mode::infer}) {
    auto gradients = [&](const std::string& disabled) {
      Session session(network.make(), {}, {.disabled = {disabled}});
      auto shared = session.vjp({{"x", network.x}}, mode);
      Program& vjp = *shared;
      vjp.set_input("x", random_tensor(DType::f32, network.x, 1));
      vjp.set_input("cotangent:y", random_tensor(DType::f32, network.y, 2));
      vjp.run();
      Tensors found;
      for (const Value* output : vjp.graph().outputs) found[output->name] = vjp.output(output->name);
      return found;
    };
    Tensors fused = gradients("");
    for (const std::string& disabled : switches())
      test::expect_agreement(gradients(disabled), fused, 1e-5,
                             cat(disabled, mode == Mode::train ? " live" : " frozen"));
  }
}

TEST_P(BuiltNetwork, ChangesByEachFusionThatItIsMadeFor) {
  const Network& network = GetParam();
  auto text = [&](const std::string& disabled) {
    Session session(network.make(), {}, {.disabled = {disabled}});
    TrainingOptions options;
    options.loss.type = LossType::mse;
    options.trainable = session.parameters();
    return session.text_after("lay_out", {{"x", network.x}}, &options);
  };
  for (const std::string& name : network.made_for) EXPECT_NE(text(name), text("")) << name;
  EXPECT_EQ(text(""), text(""));
}

INSTANTIATE_TEST_SUITE_P(Of, BuiltNetwork, testing::ValuesIn(built()), [](const auto& run) { return run.param.name; });

TEST_F(FusionTest, EachHasANetworkMadeForIt) {
  std::set<std::string> covered;
  for (const Network& network : networks()) covered.insert(network.made_for.begin(), network.made_for.end());
  EXPECT_EQ(covered, std::set<std::string>(fusion_names().begin(), fusion_names().end()));
}

TEST_F(FusionTest, TheEnvironmentSwitchesThemOff) {
  setenv("GRAFT_DISABLE", "mish,gelo", 1);
  EXPECT_THROW(Session(gates(), {}), UsageError);
  setenv("GRAFT_DISABLE", "mish", 1);
  Session session(gates(), {}, {.disabled = {"swish"}});
  unsetenv("GRAFT_DISABLE");
  std::string text = session.text_after("recognise", {{"x", {5, 12}}}, nullptr);
  EXPECT_EQ(text.find("Mish"), std::string::npos) << text;
  EXPECT_EQ(text.find("Swish"), std::string::npos) << text;
  EXPECT_NE(Session(gates(), {}).text_after("recognise", {{"x", {5, 12}}}, nullptr).find("Mish"), std::string::npos);
}

// Unlike other fusions, sparse gradients change no bit, and only where nothing else reads the gradient.
TEST_F(FusionTest, AnEmbeddingTrainsToTheSameBits) {
  const Dims x_dims = {3, 6}, y_dims = {3, 6, 4};
  struct Rule {
    OptimiserType type;
    double momentum, weight_decay;
  };
  auto trained = [&](const Rule& rule, DType dtype, const std::string& disabled, int threads) {
    test::ThreadCount some(threads);
    Session session(embedding(), {}, {.double_precision = dtype == DType::f64, .disabled = {disabled}});
    TrainingOptions options;
    options.loss.type = LossType::mse;
    options.optimiser.type = rule.type;
    options.optimiser.momentum = rule.momentum;
    options.optimiser.weight_decay = rule.weight_decay;
    options.trainable = session.parameters();
    auto programs = session.training({{"x", x_dims}}, options);
    for (unsigned i = 0; i < 5; ++i) {
      Tensor x = random_tensor(DType::f32, x_dims, i).cast(dtype);
      test::train_step(programs, x, random_tensor(dtype, y_dims, i + 5), 0.1);
    }
    EXPECT_EQ(programs.step->counters().allocations, 0);
    return test::states(session.store());
  };
  using enum OptimiserType;
  for (const Rule& rule : {Rule{adam, 0, 0},
                           {adam, 0, 0.1},
                           {adamw, 0, 0.1},
                           {sgd, 0, 0},
                           {sgd, 0, 0.1},
                           {sgd, 0.9, 0},
                           {sgd, 0.9, 0.1}}) {
    for (DType dtype : {DType::f32, DType::f64}) {
      Tensors wanted = trained(rule, dtype, "sparse_gradients", 1);
      for (int threads : {1, 2}) test::expect_same_bits(trained(rule, dtype, "", threads), wanted);
    }
  }
}

TEST_F(FusionTest, GradientsThatAreClippedOrAccumulatedAreWhole) {
  auto text = [](double clip_norm, bool accumulate) {
    Session session(embedding(), {});
    TrainingOptions options;
    options.loss.type = LossType::mse;
    options.clip_norm = clip_norm;
    options.accumulate = accumulate;
    options.trainable = session.parameters();
    return session.text_after("lay_out", {{"x", {3, 6}}}, &options);
  };
  auto has = [](const std::string& all, const char* part) { return all.find(part) != std::string::npos; };
  EXPECT_TRUE(has(text(0, false), "AdamRows") && !has(text(0, false), "GatherGrad"));
  EXPECT_TRUE(has(text(1, false), "GatherGrad") && !has(text(1, false), "AdamRows"));
  EXPECT_TRUE(has(text(0, true), "GatherGrad") && !has(text(0, true), "AdamRows"));
}

TEST_F(FusionTest, PartsOfAResidualNetworkTrainTheSame) {
  // The weight, the scale and the bias of three stages are w0, w1 and w2; the next stage begins at w5.
  const std::vector<std::vector<std::string>> parts = {
      {"w0", "w5", "w10"}, {"w0"}, {"w6"}, {"w2", "w11"}, {"w5", "w7"}};
  const Dims x_dims = {3, 3, 9, 7}, y_dims = {3, 19, 9, 7};
  for (bool live : {false, true}) {
    for (const auto& part : parts) {
      auto trained = [&](const std::string& disabled) {
        Session session(residual(), {}, {.disabled = {disabled}});
        TrainingOptions options;
        options.loss.type = LossType::mse;
        options.optimiser.type = OptimiserType::sgd;
        options.trainable = part;
        options.batchnorm_live = live;
        auto programs = session.training({{"x", x_dims}}, options);
        Tensor x = random_tensor(DType::f32, x_dims, 1);
        test::train_step(programs, x, random_tensor(DType::f32, y_dims, 2), 0.5);
        return test::states(session.store());
      };
      Tensors fused = trained("");
      for (const char* disabled : {"normalization_activation", "all"})
        test::expect_agreement(trained(disabled), fused, 1e-5, cat(disabled, ' ', part[0], live ? " live" : " frozen"));
    }
  }
}

}  // namespace
}  // namespace graft
