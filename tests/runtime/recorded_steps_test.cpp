// Gradients and training steps of three tiny networks against what PyTorch computed.
#include <gtest/gtest.h>

#include "runtime/model_session.h"
#include "tests/support/recording.h"

namespace graft {
namespace {

using test::expect_agreement;
using test::Recording;
using test::Tensors;

constexpr int64_t steps = 20;
constexpr double gradient_tolerance = 1e-4, gradient_tolerance_f64 = 1e-6;
constexpr double step_tolerance = 1e-5;
constexpr double update_tolerance = 1e-4;
constexpr double loss_tolerance = 1e-3;  // of a free run
constexpr const char* networks[] = {"small_mlp", "small_cnn", "block"};

std::map<std::string, Dims> dims_of(const Tensor& x) { return {{"x", x.dims()}}; }

SessionOptions in(DType dtype) {
  SessionOptions options;
  options.double_precision = dtype == DType::f64;
  return options;
}

std::string test_name(const std::string& first, const std::string& second) { return first + "_" + second; }

// a - b for the names of a
Tensors differences(const Tensors& a, const Tensors& b) {
  Tensors found;
  for (const auto& [name, value] : a) {
    Tensor difference = value.cast(DType::f64).clone(), less = b.at(name).cast(DType::f64);
    for (int64_t i = 0; i < value.count(); ++i) difference.data<double>()[i] -= less.data<double>()[i];
    found[name] = difference;
  }
  return found;
}

class RecordedGradients : public testing::TestWithParam<std::tuple<const char*, DType>> {};

TEST_P(RecordedGradients, OfLogitsAgree) {
  const auto& [network, dtype] = GetParam();
  bool wide = dtype == DType::f64;
  double tolerance = wide ? gradient_tolerance_f64 : gradient_tolerance;
  Recording recording(network);
  ModelSession model = ModelSession::open(recording.model(), in(dtype));
  Tensor x = recording.array("gradient/x").cast(dtype);
  auto shared = model.session().vjp(dims_of(x), Mode::train);
  Program& vjp = *shared;
  vjp.set_input("x", x);
  vjp.set_input("cotangent:logits", recording.array("gradient/cotangent").cast(dtype));
  vjp.run();
  Tensors wanted = recording.below(wide ? "gradient64/" : "gradient32/");
  expect_agreement({{"logits", vjp.output("logits")}}, {*wanted.find("logits")}, tolerance, "output");
  wanted.erase("logits");
  EXPECT_EQ(wanted.size(), model.session().parameters().size() + 1);  // and x
  Tensors got;
  for (const auto& [name, unused] : wanted) got[name] = vjp.output("grad:" + name);
  expect_agreement(got, wanted, tolerance, "gradient");
}

INSTANTIATE_TEST_SUITE_P(PyTorch, RecordedGradients,
                         testing::Combine(testing::ValuesIn(networks), testing::Values(DType::f32, DType::f64)),
                         [](const auto& run) {
                           return test_name(std::get<0>(run.param), std::string(name_of(std::get<1>(run.param))));
                         });

class RecordedSteps : public testing::TestWithParam<std::tuple<const char*, const char*, DType>> {
 protected:
  OptimiserOptions optimiser_options() const {
    auto number = [&](const char* name) { return recording_.number(optimiser_ + "/option/" + name); };
    OptimiserOptions options;
    options.type = optimiser_type(optimiser_);
    options.weight_decay = number("weight_decay");
    if (options.type == OptimiserType::sgd) {
      options.momentum = number("momentum");
      return options;
    }
    const auto* betas = recording_.array(optimiser_ + "/option/betas").data<double>();
    options.beta1 = betas[0];
    options.beta2 = betas[1];
    options.eps = number("eps");
    return options;
  }

  TrainingPrograms programs() {
    TrainingOptions options;
    options.optimiser = optimiser_options();
    options.trainable = session().parameters();
    return session().training(dims_of(recording_.row("steps/x", 0)), options);
  }

  // The loss of one step.
  double train(const TrainingPrograms& programs, int64_t step) const {
    return test::train_step(programs, recording_.row("steps/x", step).cast(dtype_), recording_.row("steps/y", step),
                            recording_.number(optimiser_ + "/option/lr"));
  }

  double recorded_loss(int64_t step) const { return recording_.array(optimiser_ + "/loss").data<float>()[step]; }

  // What is recorded below `folder` before a step.
  Tensors recorded(const std::string& folder, int64_t step) const {
    std::string prefix = optimiser_ + "/" + folder + "/";
    Tensors found;
    for (const auto& name : recording_.names(prefix)) found[name] = recording_.row(prefix + name, step);
    return found;
  }

  // {suffix of a moment's state, its folder in the recording}
  std::vector<std::pair<std::string, std::string>> moments() const {
    if (optimiser_ == "sgd") return {{"/sgd.momentum", "momentum"}};
    return {{"/adam.m", "m"}, {"/adam.v", "v"}};
  }

  void set_states(int64_t step) {
    ParameterStore& store = session().store();
    for (const auto& [name, value] : recorded("param", step)) store.write(name, value.cast(dtype_));
    for (const auto& [suffix, folder] : moments()) {
      for (const auto& [name, value] : recorded(folder, step)) store.write(name + suffix, value.cast(dtype_));
    }
    store.write("optimiser/step", Tensor::scalar(step));
  }

  // The states that the names of `wanted` with `suffix` stand for.
  Tensors states(const Tensors& wanted, const std::string& suffix = "") {
    Tensors found;
    for (const auto& [name, unused] : wanted) found[name] = session().store().read(name + suffix);
    return found;
  }

  // What is recorded after a step from the recorded state. The gradient of a bias before a live BatchNormalization, or
  // of attention's keys, is zero but for rounding, which Adam scales up to whole steps: in float32 these are nobody's
  // to compare, in float64 the rounding is far below Adam's epsilon, and PyTorch's own float64 step is recorded.
  Tensors recorded_after(const std::string& folder, int64_t step) const {
    Tensors found = recorded(folder, step + 1);
    if (dtype_ == DType::f64) {
      std::string prefix = optimiser_ + "/" + folder + "64/";
      for (const auto& name : recording_.names(prefix)) found[name] = recording_.row(prefix + name, step);
    } else if (optimiser_ != "sgd") {
      std::erase_if(found, [&](const auto& entry) { return recording_.has_noise_for_gradient(entry.first); });
    }
    return found;
  }

  size_t left_out() const { return dtype_ == DType::f32 && optimiser_ != "sgd" && network_ != "small_mlp" ? 1 : 0; }

  Session& session() { return model_.session(); }

  std::string network_ = std::get<0>(GetParam()), optimiser_ = std::get<1>(GetParam());
  DType dtype_ = std::get<2>(GetParam());
  Recording recording_{network_};
  ModelSession model_ = ModelSession::open(recording_.model(), in(dtype_));
};

TEST_P(RecordedSteps, EachAgreesFromTheRecordedState) {
  TrainingPrograms step_programs = programs();
  for (int64_t step = 0; step < steps; ++step) {
    set_states(step);
    double loss = train(step_programs, step);
    std::string what = cat("step ", step);
    EXPECT_NEAR(loss, recorded_loss(step), step_tolerance * recorded_loss(step)) << what;
    Tensors wanted = recorded_after("param", step);
    EXPECT_EQ(wanted.size() + left_out(), recorded("param", step).size());
    Tensors got = states(wanted);
    expect_agreement(got, wanted, step_tolerance, what);
    Tensors before = recorded("param", step);
    expect_agreement(differences(got, before), differences(wanted, before), update_tolerance, what + " update");
    for (const auto& [suffix, folder] : moments()) {
      wanted = recorded_after(folder, step);
      expect_agreement(states(wanted, suffix), wanted, gradient_tolerance, what + " " + folder);
    }
    EXPECT_EQ(session().store().read("optimiser/step").data<int64_t>()[0], step + 1);
  }
}

TEST_P(RecordedSteps, FreeRunFollowsTheLosses) {
  Tensors initial = recording_.below("init/");
  expect_agreement(states(initial), initial, 0, "initial");
  TrainingPrograms step_programs = programs();
  for (int64_t step = 0; step < steps; ++step) {
    EXPECT_NEAR(train(step_programs, step), recorded_loss(step), loss_tolerance * recorded_loss(step)) << step;
  }
}

INSTANTIATE_TEST_SUITE_P(PyTorch, RecordedSteps,
                         testing::Combine(testing::ValuesIn(networks), testing::Values("sgd", "adam", "adamw"),
                                          testing::Values(DType::f32, DType::f64)),
                         [](const auto& run) {
                           return test_name(test_name(std::get<0>(run.param), std::get<1>(run.param)),
                                            std::string(name_of(std::get<2>(run.param))));
                         });

// With n elements a channel, PyTorch's running variance gains n / (n - 1) times what ours does.
TEST(RunningVariance, IsThePopulationsAsOnnxHasIt) {
  Recording recording("small_cnn");
  ModelSession model = ModelSession::open(recording.model());
  Session& session = model.session();
  TrainingOptions options;
  options.optimiser.type = OptimiserType::sgd;
  options.trainable = session.parameters();
  Tensor x = recording.row("steps/x", 0);
  test::train_step(session.training(dims_of(x), options), x, recording.row("steps/y", 0), 0.05);
  for (auto [name, n] : {std::pair{"bn1.running_var", 8 * 8 * 8}, {"bn2.running_var", 8 * 4 * 4}}) {
    Tensor ours = session.store().read(name);
    Tensor theirs = recording.row(cat("sgd/torch/", name), 1);
    Tensor before = recording.row(cat("sgd/torch/", name), 0);
    for (int64_t i = 0; i < ours.count(); ++i) {
      double kept = 0.9 * before.data<float>()[i];
      double unbiased = (ours.data<float>()[i] - kept) * n / (n - 1);
      EXPECT_NEAR(theirs.data<float>()[i] - kept, unbiased, 1e-6) << name;
    }
  }
}

}  // namespace
}  // namespace graft
