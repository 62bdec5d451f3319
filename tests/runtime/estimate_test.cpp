// Estimates from plans are those of the Programs.
#include "runtime/estimate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/networks.h"

namespace graft {
namespace {

// Round figures, with a cache that some of the values fit.
constexpr MachineLimits machine{1, 1e9, 5e8, 4e9, 1e9, 1e10, 1 << 14};

TrainingOptions options_of(const Session& session, const std::vector<std::string>& trained) {
  TrainingOptions options;
  options.loss.type = LossType::mse;
  options.trainable = session.match(trained, {});
  return options;
}

void expect_program(const StepEstimate& estimate, const Program& program, const std::string& name) {
  EXPECT_EQ(estimate.cost.peak_bytes, program.plan().peak_bytes()) << name;
  EXPECT_EQ(estimate.limit_seconds, roofline(program, machine).seconds) << name;
  EXPECT_GT(estimate.limit_seconds, 0) << name;
}

const Choice& choice_named(const std::vector<Choice>& choices, const std::string& name) {
  return *std::ranges::find_if(choices, [&](const Choice& choice) { return choice.name == name; });
}

// Features are found by their names, as files have them.
std::unique_ptr<Graph> with_names(std::unique_ptr<Graph> graph) {
  int64_t count = 0;
  for (const auto& node : graph->nodes()) {
    for (Value* output : node->outputs) {
      if (output && output->name.empty()) graph->rename(output, cat("value ", count++));
    }
  }
  return graph;
}

class EstimateOf : public testing::TestWithParam<test::Network> {};

TEST_P(EstimateOf, ChoicesAreWhatTheirProgramsTake) {
  const test::Network& network = GetParam();
  const std::map<std::string, Dims> dims{{"x", network.x}};
  Session session(network.make(), {});
  TrainingOptions asked = options_of(session, {});
  std::vector<Choice> choices = estimate_choices(session, dims, asked, machine);
  EXPECT_EQ(session.program_counts().compiled, 0);
  auto expect = [&](const std::string& name, const TrainingOptions& options) {
    const Choice& choice = choice_named(choices, name);
    EXPECT_EQ(choice.error, "") << name;
    Session trained(network.make(), {});
    expect_program(choice.step, *trained.training(dims, options).step, name);
  };
  expect("as asked", asked);
  for (auto [name, dtype, recompute] : {std::tuple("--dtype bf16", DType::bf16, Recompute::automatic),
                                        {"--recompute none", DType::f32, Recompute::none},
                                        {"--recompute all", DType::f32, Recompute::all}}) {
    TrainingOptions options = asked;
    options.dtype = dtype;
    options.memory.recompute = recompute;
    expect(name, options);
  }
  TrainingOptions narrow = asked;
  narrow.saved = DType::bf16;
  expect("--saved-activations bf16", narrow);
  TrainingOptions on_disk = asked;
  on_disk.memory.optimiser = OptimiserState::disk;
  expect("--optimizer-state disk", on_disk);
  const StepCost& cost = choice_named(choices, "--optimizer-state disk").step.cost;
  EXPECT_GT(cost.disk_bytes, 0);
  EXPECT_NE(choice_named(choices, "--optimizer-state disk").note.find(cat(cost.disk_bytes)), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Networks, EstimateOf, testing::ValuesIn(test::built()),
                         [](const auto& run) { return run.param.name; });

TEST(Estimate, OfFeaturesIsThatOfTheRest) {
  const test::Network& network = test::network_named("backbone");
  const std::map<std::string, Dims> dims{{"x", network.x}};
  Session session(with_names(network.make()), {});
  TrainingOptions asked = options_of(session, {"w12", "w13", "w14"});
  std::vector<Choice> choices = estimate_choices(session, dims, asked, machine);
  const Choice& all = choice_named(choices, "all parameters");
  const Choice& kept = choice_named(choices, "--cache-features memory");
  EXPECT_EQ(kept.error, "");
  EXPECT_LT(choices[0].step.cost.flops, all.step.cost.flops);
  EXPECT_LT(kept.step.cost.flops, choices[0].step.cost.flops);
  EXPECT_LT(kept.step.limit_seconds, choices[0].step.limit_seconds);

  Session rest(with_names(network.make()), {});
  const FrozenPart& frozen = rest.split(dims, asked);
  EXPECT_EQ(kept.feature_bytes, frozen.bytes());
  rest.frozen(dims);
  std::map<std::string, Dims> features;
  for (const auto& feature : frozen.features) {
    features[feature.name] = feature.dims;
    features[feature.name].insert(features[feature.name].begin(), network.x[0]);
  }
  expect_program(kept.step, *rest.training(features, asked).step, "rest");
}

TEST(Estimate, SaysWhyAChoiceCannotBeHad) {
  const test::Network& network = test::network_named("backbone");
  Session session(with_names(network.make()), {});
  std::vector<Choice> choices = estimate_choices(session, {{"x", network.x}}, options_of(session, {}), machine);
  EXPECT_NE(choice_named(choices, "--cache-features memory").error.find("no frozen part"), std::string::npos);
  EXPECT_TRUE(std::ranges::none_of(choices, [](const Choice& choice) { return choice.name == "all parameters"; }));
  Dims huge = network.x;
  huge[0] = int64_t{1} << 26;
  for (const Choice& choice : estimate_choices(session, {{"x", huge}}, options_of(session, {"w13"}), machine)) {
    if (choice.name == "--cache-features memory") continue;
    EXPECT_NE(choice.error.find("MiB"), std::string::npos) << choice.name << ": " << choice.error;
  }
}

}  // namespace
}  // namespace graft
