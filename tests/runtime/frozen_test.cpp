// Training with frozen tensors: what is trained gets the gradients that it gets when all is trained.
#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/session.h"
#include "tests/support/networks.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"

namespace graft {
namespace {

using test::Network;
using test::random_tensor;
using test::Tensors;

// Every n-th parameter, from the last: parts that begin anywhere.
std::vector<std::string> every(size_t n, const std::vector<std::string>& names) {
  std::vector<std::string> chosen;
  for (size_t i = 0; i < names.size(); i += n) chosen.push_back(names[names.size() - 1 - i]);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

class FrozenParameters : public testing::TestWithParam<Network> {};

// One step of plain gradient descent with statistics that stay: w - w' is the gradient times the rate.
Tensors updates(const Network& network, const std::vector<std::string>& trained,
                const std::set<std::string>& disabled) {
  Session session(network.make(), {}, {.double_precision = true, .disabled = disabled});
  TrainingOptions options;
  options.loss.type = LossType::mse;
  options.optimiser = {.type = OptimiserType::sgd, .momentum = 0, .weight_decay = 0};
  options.batchnorm_live = false;
  options.trainable = trained;
  Tensors before = test::states(session.store());
  Tensor x = random_tensor(DType::f64, network.x, 1), y = random_tensor(DType::f64, network.y, 2);
  test::train_step(session.training({{"x", network.x}}, options), x, y, 1);
  Tensors after = test::states(session.store()), found;
  for (const auto& [name, value] : before) {
    Tensor& update = found[name] = after.at(name).clone();
    for (int64_t i = 0; i < value.count(); ++i) update.data<double>()[i] -= value.data<double>()[i];
  }
  return found;
}

TEST_P(FrozenParameters, LeaveTheGradientsOfOthersAsTheyAre) {
  constexpr double tolerance = 1e-6;  // in double, where rounding is far below
  const Network& network = GetParam();
  std::vector<std::string> names = Session(network.make(), {}).parameters();
  Tensors all = updates(network, names, {"fold_normalization"});
  std::vector<std::vector<std::string>> parts{{names.back()}, {names.front()}, every(2, names), every(3, names)};
  for (const auto& part : parts) {
    Tensors some = updates(network, part, {}), wanted;
    for (const auto& [name, update] : all) {
      bool trained = std::find(part.begin(), part.end(), name) != part.end();
      wanted[name] = trained ? update : Tensor(DType::f64, update.dims());
    }
    test::expect_agreement(some, wanted, tolerance, cat(part.size(), " parameters from ", part.front()));
  }
}

INSTANTIATE_TEST_SUITE_P(Of, FrozenParameters, testing::ValuesIn(test::built()),
                         [](const auto& run) { return run.param.name; });

TEST(Frozen, EvaluationLeavesWhatIsTrainedUnfolded) {
  const Network& network = test::network_named("backbone");
  Session session(network.make(), {});
  LossOptions loss{.type = LossType::mse};
  auto normalisations = [&] {
    auto program = session.evaluation({{"x", network.x}}, loss, "");
    session.forget_programs();
    return std::ranges::count_if(program->graph().nodes(),
                                 [](const auto& node) { return node->type == "BatchNormalization"; });
  };
  EXPECT_EQ(normalisations(), 0);
  TrainingOptions options;
  options.loss = loss;
  options.trainable = session.match({"w7", "w12"}, {});
  session.training({{"x", network.x}}, options);
  EXPECT_EQ(normalisations(), 2);
}

}  // namespace
}  // namespace graft
