// Networks compute the same with every pattern and fusion, with all but one, and with none.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/model_session.h"
#include "tests/support/networks.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"
#include "tests/support/thread_count.h"

namespace graft {
namespace {

using test::built;
using test::Network;
using test::network_named;
using test::networks;
using test::random_tensor;
using test::Recording;
using test::Tensors;

constexpr int64_t steps = 50;
constexpr double step_tolerance = 1e-5;  // of parameters and statistics, after one step
constexpr double loss_tolerance = 1e-3;  // of a free run

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
    options_.trainable = test::trained(network, session_->parameters());
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
    options.trainable = test::trained(network, session.parameters());
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
  EXPECT_THROW(Session(network_named("gates").make(), {}), UsageError);
  setenv("GRAFT_DISABLE", "mish", 1);
  Session session(network_named("gates").make(), {}, {.disabled = {"swish"}});
  unsetenv("GRAFT_DISABLE");
  std::string text = session.text_after("recognise", {{"x", {5, 12}}}, nullptr);
  EXPECT_EQ(text.find("Mish"), std::string::npos) << text;
  EXPECT_EQ(text.find("Swish"), std::string::npos) << text;
  EXPECT_NE(Session(network_named("gates").make(), {}).text_after("recognise", {{"x", {5, 12}}}, nullptr).find("Mish"),
            std::string::npos);
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
    Session session(network_named("embedding").make(), {},
                    {.double_precision = dtype == DType::f64, .disabled = {disabled}});
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
    Session session(network_named("embedding").make(), {});
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
        Session session(network_named("residual").make(), {}, {.disabled = {disabled}});
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
