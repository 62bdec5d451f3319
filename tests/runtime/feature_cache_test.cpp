// Features of the frozen part, computed once: training on them gives the bits that training on the data gives.
#include "runtime/training/feature_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "runtime/training/feature_store.h"
#include "runtime/training/trainer.h"
#include "tests/support/networks.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

using test::random_tensor;

// Random inputs and targets, which `read` counts.
class Draws : public Dataset {
 public:
  Draws(int64_t size, const Dims& x, const Dims& y, unsigned seed) : size_(size), seed_(seed), x_(x), y_(y) {
    x_.erase(x_.begin());
    y_.erase(y_.begin());
  }
  int64_t size() const override { return size_; }
  const std::vector<std::string>& input_names() const override { return names_; }
  int64_t label_of(int64_t) const override { return -1; }
  std::string describe(int64_t i) const override { return cat("draw ", i); }
  bool repeats() const override { return !augmented; }
  Sample read(int64_t i) const override {
    ++reads;
    if (i == broken) throw DataError(describe(i), " is broken");
    auto seed = static_cast<unsigned>(i) + seed_;
    return {{random_tensor(DType::f32, x_, seed)}, random_tensor(DType::f32, y_, seed + 1000)};
  }

  int64_t broken = -1;
  bool augmented = false;
  mutable std::atomic<int64_t> reads = 0;

 private:
  int64_t size_;
  unsigned seed_;
  Dims x_, y_;
  std::vector<std::string> names_{"x"};
};

// A model whose values have names, as those of files have.
struct Model {
  std::string name;
  std::function<std::unique_ptr<Graph>()> make;
  Dims x, y;
  std::vector<std::string> trained;
  std::vector<std::string> features;  // that are computed
};

void PrintTo(const Model& model, std::ostream* out) { *out << model.name; }  // NOLINT: gtest's name

std::unique_ptr<Session> session_of(const Model& model, uint64_t seed = 3) {
  auto graph = model.make();
  int64_t count = 0;
  for (const auto& value : graph->values()) {
    if (value->producer && value->name.empty()) graph->rename(value.get(), cat('v', count++));
  }
  return std::make_unique<Session>(std::move(graph), Expander{}, SessionOptions{.seed = seed});
}

TrainerOptions options_for(const Model& model) {
  TrainerOptions options;
  options.training.trainable = model.trained;
  options.training.loss.type = LossType::mse;
  options.schedule = {.decay = Decay::constant, .rate = 0.02};
  options.epochs = 3;
  options.batch_size = 4;
  return options;
}

struct Outcome {
  std::vector<double> losses;
  SavedStates states;
  int64_t reads = 0, skipped = 0;
};

// With features where there are `cache` options.
Outcome train(const Model& model, const TrainerOptions& options, const FeatureCacheOptions* cache, int64_t samples = 13,
              int64_t broken = -1) {
  auto session = session_of(model);
  Draws data(samples, model.x, model.y, 1), held_out(6, model.x, model.y, 500);
  data.broken = broken;
  std::vector<std::unique_ptr<Dataset>> features;
  if (cache) {
    features = cache_features(*session, options.training,
                              {{&data, all_indices(data)}, {&held_out, all_indices(held_out)}}, *cache);
  }
  Outcome outcome;
  outcome.reads = data.reads;
  TrainerCallbacks callbacks;
  callbacks.on_step = [&](const TrainingStep& step) { outcome.losses.push_back(step.loss); };
  callbacks.on_epoch = [&](const TrainingEpoch& epoch) {
    outcome.losses.push_back(epoch.validation->loss);
    outcome.skipped += epoch.skipped;
  };
  const Dataset& from = cache ? *features[0] : data;
  const Dataset& beside = cache ? *features[1] : held_out;
  Trainer trainer(*session, from, all_indices(data), &beside, all_indices(held_out), options, callbacks);
  trainer.run();
  if (cache && broken < 0) {
    EXPECT_EQ(data.reads, outcome.reads) << "the data were read again";
  }
  outcome.states = take_states(session->store());
  return outcome;
}

void expect_same_bits(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.losses, b.losses);
  ASSERT_EQ(a.states.size(), b.states.size());
  for (const auto& [name, state] : a.states) {
    const Tensor& other = b.states.at(name).value;
    ASSERT_EQ(state.value.bytes(), other.bytes()) << name;
    EXPECT_EQ(std::memcmp(state.value.raw(), other.raw(), static_cast<size_t>(other.bytes())), 0) << name;
  }
}

FeatureCacheOptions in_memory(const TrainerOptions& options) {
  return {.batch_size = options.batch_size, .on_bad_sample = options.on_bad_sample};
}

Model built(const std::string& name, std::vector<std::string> trained, std::vector<std::string> features) {
  const test::Network& network = test::network_named(name);
  return {name, network.make, network.x, network.y, std::move(trained), std::move(features)};
}

Model written(const std::string& name, const std::string& text, const Dims& x, const Dims& y,
              std::vector<std::string> trained, std::vector<std::string> features) {
  return {name, [text] { return test::graph_from_text(text); }, x, y, std::move(trained), std::move(features)};
}

// Two layers and a Dropout before, between or behind them.
Model with_dropout(const std::string& where) {
  auto graph = [where] {
    auto g = std::make_unique<Graph>();
    unsigned seed = 7;
    auto call = [&](const char* type, std::vector<Value*> operands) {
      return g->add_node("", type, std::move(operands), 1)->outputs[0];
    };
    auto weight = [&](const char* name) {
      return g->add_constant(random_tensor(DType::f32, {6, 6}, ++seed, -0.5, 0.5), name);
    };
    auto drop = [&](const char* place, Value* x) {
      if (where != place) return x;
      return call("Dropout", {x, g->add_constant(Tensor::scalar(0.3F)), g->add_constant(Tensor::scalar(true))});
    };
    Value* h = drop("before", g->add_input("x", DType::f32, {-1, 6}));
    h = drop("between", call("Tanh", {call("MatMul", {h, weight("w0")})}));
    h = drop("behind", call("Tanh", {call("MatMul", {h, weight("w1")})}));
    g->outputs = {call("MatMul", {h, weight("w2")})};
    g->rename(g->outputs[0], "y");
    return g;
  };
  return {"dropout_" + where, graph, {4, 6}, {4, 6}, {"w2"}, {where == "between" ? "v1" : "v3"}};
}

class Cached : public testing::TestWithParam<Model> {};

TEST_P(Cached, TrainsToTheSameBits) {
  const Model& model = GetParam();
  for (int64_t accumulate : {1, 2}) {
    TrainerOptions options = options_for(model);
    options.accumulate = accumulate;
    Outcome wanted = train(model, options, nullptr);
    FeatureCacheOptions cache = in_memory(options);
    std::vector<std::string> computed;
    cache.on_begin = [&](const FrozenPart& frozen, int64_t samples, int64_t batches) {
      for (const auto& feature : frozen.features) computed.push_back(feature.name);
      EXPECT_EQ(samples, 19);
      EXPECT_EQ(batches, 6);
    };
    Outcome outcome = train(model, options, &cache);
    EXPECT_EQ(computed, model.features);
    expect_same_bits(outcome, wanted);
    TemporaryFolder folder;
    cache.place = FeaturePlace::disk;
    cache.folder = folder / "new";
    cache.loader_threads = 3;
    expect_same_bits(train(model, options, &cache), wanted);
    EXPECT_TRUE(std::filesystem::is_empty(cache.folder));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Of, Cached,
    testing::Values(
        built("residual", {"w10", "w11", "w12"}, {"v6"}),  // the last of three blocks, live
        built("residual", {"w11"}, {"v7", "v6"}),          // its scale alone
        built("inverted_residual", {"w10", "w11"}, {"v5", "x"}), built("attention", {"w6", "w7"}, {"v34", "v25"}),
        built("products", {"w2", "w3"}, {"v3"}), with_dropout("between"), with_dropout("behind"),
        // The frozen part takes a shape from the input, and so does the rest.
        written("shapes",
                "(float[n,3,4] x) => (y) <float[4,4] w0 = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, "
                "float[12,2] w1 = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6}, int64[1] zero = {0}, "
                "int64[1] rest = {-1}> { a = MatMul(x, w0)  h = Tanh(a)  s = Shape(x)  "
                "n = Gather(s, zero)  t = Concat<axis = 0>(n, rest)  f = Reshape(h, t)  y = MatMul(f, w1) }",
                {4, 3, 4}, {4, 2}, {"w1"}, {"f"})),
    [](const auto& run) { return cat(run.param.name, run.index); });

TEST(FeatureCache, SamplesThatCannotBeReadAreLeftOutAsEver) {
  Model model = with_dropout("behind");
  TrainerOptions options = options_for(model);
  options.on_bad_sample = OnBadSample::skip;
  FeatureCacheOptions cache = in_memory(options);
  Outcome wanted = train(model, options, nullptr, 13, 5);
  Outcome outcome = train(model, options, &cache, 13, 5);
  expect_same_bits(outcome, wanted);
  EXPECT_EQ(wanted.skipped, 4);  // an epoch has a batch less, and all updates take one more
  EXPECT_EQ(outcome.skipped, 4);
  options.on_bad_sample = cache.on_bad_sample = OnBadSample::fail;
  EXPECT_THROW(train(model, options, &cache, 13, 5), DataError);
}

// What cache_features says when it refuses; "" where it does not.
template <class Refusal>
std::string refusal(const Model& model, FeatureCacheOptions cache, bool augmented = false) {
  auto session = session_of(model);
  Draws data(9, model.x, model.y, 1);
  data.augmented = augmented;
  try {
    cache_features(*session, options_for(model).training, {{&data, all_indices(data)}}, cache);
  } catch (const Refusal& error) {
    return error.what();
  }
  return "";
}

void expect_part(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(FeatureCache, RefusesWhatIsNotTheSameInEveryEpoch) {
  FeatureCacheOptions cache{.batch_size = 4};
  Model model = with_dropout("before");
  expect_part(refusal<UsageError>(model, cache), "Dropout \"v0\"]");
  model = with_dropout("behind");
  EXPECT_EQ(refusal<UsageError>(model, cache), "");
  expect_part(refusal<UsageError>(model, cache, true), "changes its samples");
  model.trained = {"w0"};
  expect_part(refusal<UsageError>(model, cache), "[MatMul \"v0\"]");
}

TEST(FeatureCache, RefusesSamplesThatDependOnEachOther) {
  Model model = written("mixing",
                        "(float[n,4] x) => (y) <float[4,2] w = {1,2,3,4,5,6,7,8}, int64[1] axes = {0}> "
                        "{ h = Exp(x)  m = ReduceMean(h, axes)  d = Sub(h, m)  y = MatMul(d, w) }",
                        {4, 4}, {4, 2}, {"w"}, {});
  expect_part(refusal<UsageError>(model, {.batch_size = 4}), "\"d\" of a sample depends on the other samples");
  EXPECT_EQ(refusal<UsageError>(model, {.batch_size = 1}), "");
}

// Statistics are those of the batch where the scale is trained, and those of the file where it is not.
TEST(FeatureCache, LiveStatisticsEndTheFrozenPart) {
  Model model = built("residual", {"w12"}, {});  // the last bias alone: nothing is live
  auto session = session_of(model);
  TrainingOptions options = options_for(model).training;
  auto names = [&] {
    std::vector<std::string> found;
    for (const auto& feature : session->split({{"x", model.x}}, options).features) found.push_back(feature.name);
    return found;
  };
  std::vector<std::string> frozen = names();
  options.trainable = {"w1", "w12"};  // and the first scale
  EXPECT_NE(names(), frozen);
  options.batchnorm_live = false;
  EXPECT_NE(names(), frozen);
  options.trainable = {"w0"};
  EXPECT_THROW(names(), UsageError);
}

TEST(FeatureCache, RefusesMoreThanTheLimit) {
  Model model = with_dropout("behind");
  constexpr int64_t bytes = 9 * 6 * 4;
  FeatureCacheOptions cache{.limit = bytes, .batch_size = 4};
  EXPECT_EQ(refusal<UsageError>(model, cache), "");
  cache.limit = bytes - 1;
  expect_part(refusal<UsageError>(model, cache), "9 samples take 216 bytes, 24 each; the limit is 215");
  TemporaryFolder folder;
  cache.place = FeaturePlace::disk;
  cache.folder = folder.path();
  expect_part(refusal<UsageError>(model, cache), "the limit is 215");
}

TEST(FeatureCache, AFolderThatCannotBeWrittenIsADeviceError) {
  TemporaryFolder folder;
  FeatureCacheOptions cache{.place = FeaturePlace::disk, .folder = folder.write("file", "x"), .batch_size = 4};
  EXPECT_NE(refusal<DeviceError>(with_dropout("behind"), cache), "");
  cache.folder = "/proc/features";
  EXPECT_NE(refusal<DeviceError>(with_dropout("behind"), cache), "");
  constexpr int64_t too_much = int64_t{1} << 55;
  EXPECT_THROW(DiskFeatures(folder.path(), 1, too_much), DeviceError);
  EXPECT_THROW(MemoryFeatures(1, too_much), DeviceError);
}

// The path by which Linux shows an open file in `folder` that has no name.
std::string unnamed_file_in(const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.starts_with(folder) && target.ends_with(" (deleted)")) return entry.path().string();
  }
  return "";
}

TEST(DiskFeatures, DamageIsSeen) {
  TemporaryFolder folder;
  constexpr int64_t records = 5, bytes = 21;
  DiskFeatures features(folder.path(), records, bytes);
  std::vector<std::byte> record(bytes), read(bytes);
  for (int64_t i : {4, 0, 2, 1, 3}) {
    std::fill(record.begin(), record.end(), static_cast<std::byte>(i + 1));
    features.write(i, record.data());
  }
  for (int64_t i = 0; i < records; ++i) {
    features.read(i, read.data());
    EXPECT_EQ(read.front(), static_cast<std::byte>(i + 1));
    EXPECT_EQ(read.back(), static_cast<std::byte>(i + 1));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  std::string path = unnamed_file_in(folder.path());
  if (path.empty()) GTEST_SKIP() << "files without names cannot be reached here";
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(3 * bytes + bytes - 1);
    file.put('x');
  }
  EXPECT_NO_THROW(features.read(2, read.data()));
  EXPECT_THROW(features.read(3, read.data()), DeviceError);
  std::filesystem::resize_file(path, 4 * bytes + 1);
  EXPECT_THROW(features.read(4, read.data()), DeviceError);
}

}  // namespace
}  // namespace graft
