// Networks with the pattern "normalization_activation" and without it compute the same.
#include <gtest/gtest.h>

#include "runtime/model_session.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::random_tensor;
using test::Recording;
using test::Tensors;

const SessionOptions without{.disabled = {"normalization_activation"}};

TEST(NormalizationActivation, OneStepOfASmallNetworkIsTheSame) {
  Recording recording("small_cnn");
  for (OptimiserType type : {OptimiserType::sgd, OptimiserType::adam}) {
    auto trained = [&](const SessionOptions& session_options) {
      ModelSession model = ModelSession::open(recording.model(), session_options);
      TrainingOptions options;
      options.optimiser.type = type;
      options.trainable = model.session().parameters();
      Tensor x = recording.row("steps/x", 0);
      auto programs = model.session().training({{"x", x.dims()}}, options);
      test::train_step(programs, x, recording.row("steps/y", 0), 0.05);
      Tensors states = test::states(model.session().store());
      std::erase_if(states, [&](const auto& entry) {
        return recording.has_noise_for_gradient(entry.first.substr(0, entry.first.find('/')));
      });
      return states;
    };
    test::expect_agreement(trained({}), trained(without), 1e-5, "state");
  }
}

constexpr int64_t channels = 19;  // leaves padding in blocks of 16 and of 8

// Three times Conv, BatchNormalization and an activation; the last two add what came before.
std::unique_ptr<Graph> residual_network() {
  auto graph = std::make_unique<Graph>();
  auto weight = [&](const std::string& name, const Dims& dims, double low = -0.4, double high = 0.4) {
    return graph->add_constant(random_tensor(DType::f32, dims, static_cast<unsigned>(name[0] + 7 * name[1]), low, high),
                               name);
  };
  auto call = [&](const char* type, std::vector<Value*> operands, Attributes attributes = {}) {
    return graph->add_node("", type, operands, 1, std::move(attributes))->outputs[0];
  };
  Value* zero = graph->add_constant(Tensor::scalar(0.0F));
  Value* half = graph->add_constant(Tensor::scalar(0.5F));
  Value* x = graph->add_input("x", DType::f32, {-1, 3, 9, 7});
  for (int i = 0; i < 3; ++i) {
    std::string k = std::to_string(i);
    Value* w = weight("w" + k, {channels, x->dims.at(1), 3, 3});
    Value* h = call("Conv", {x, w}, {{"pads", std::vector<int64_t>{1, 1, 1, 1}}});
    h = call("BatchNormalization", {h, weight("s" + k, {channels}, 0.5, 1.5), weight("b" + k, {channels}),
                                    weight("m" + k, {channels}), weight("v" + k, {channels}, 0.5, 1.5)});
    if (i > 0) h = call("Add", {x, h});
    x = i == 1 ? call("Clip", {h, zero, half}) : call("Relu", {h});
    x->dims = {-1, channels, 9, 7};
  }
  graph->rename(x, "y");
  graph->outputs = {x};
  return graph;
}

const Dims input_dims = {3, 3, 9, 7};
const Dims output_dims = {3, channels, 9, 7};

TEST(NormalizationActivation, GradientsOfAResidualNetworkAreTheSame) {
  for (Mode mode : {Mode::train, Mode::infer}) {
    auto gradients = [&](const SessionOptions& options) {
      Session session(residual_network(), {}, options);
      Program& vjp = session.vjp({{"x", input_dims}}, mode);
      vjp.set_input("x", random_tensor(DType::f32, input_dims, 1));
      vjp.set_input("cotangent:y", random_tensor(DType::f32, output_dims, 2));
      vjp.run();
      Tensors found;
      for (const Value* output : vjp.graph().outputs) found[output->name] = vjp.output(output->name);
      return found;
    };
    test::expect_agreement(gradients({}), gradients(without), 1e-5, mode == Mode::train ? "live" : "frozen");
  }
}

TEST(NormalizationActivation, TrainsPartsOfAResidualNetworkTheSame) {
  const std::vector<std::vector<std::string>> parts = {{"w0", "w1", "w2"}, {"w0"}, {"s1"}, {"b0", "s2"}, {"w1", "b1"}};
  for (bool live : {false, true}) {
    for (const auto& part : parts) {
      auto trained = [&](const SessionOptions& session_options) {
        Session session(residual_network(), {}, session_options);
        TrainingOptions options;
        options.loss.type = LossType::mse;
        options.optimiser.type = OptimiserType::sgd;
        options.trainable = part;
        options.batchnorm_live = live;
        auto programs = session.training({{"x", input_dims}}, options);
        Tensor x = random_tensor(DType::f32, input_dims, 1);
        test::train_step(programs, x, random_tensor(DType::f32, output_dims, 2), 0.5);
        return test::states(session.store());
      };
      test::expect_agreement(trained({}), trained(without), 1e-5, cat(part[0], live ? " live" : " frozen"));
    }
  }
}

}  // namespace
}  // namespace graft
