#include "runtime/training/length_buckets.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "runtime/training/trainer.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

constexpr int64_t longest = 64, words = 20;

// A constant for a text: `float[2,3] w = {...}, `.
std::string constant(const std::string& name, const Dims& dims, double phase) {
  std::string text = "float[";
  for (size_t i = 0; i < dims.size(); ++i) text += cat(i ? "," : "", dims[i]);
  text += "] " + name + " = {";
  for (int64_t i = 0; i < element_count(dims); ++i)
    text += cat(i ? ", " : "", 0.5 * std::sin(1.7 * static_cast<double>(i) + phase));
  return text + "}, ";
}

// Words and positions, attention that masks by a large negative, and what `pooling` makes of y and m of shape (N, S,
// 1).
const std::string encoder = R"((int64[N,S] input_ids, int64[N,S] attention_mask) => (float[N,3] logits)
  <int64 one = {1}, int64 zero = {0}, int64[1] first = {1}, int64[1] last = {2}, float unit = {1}, float low = {-10000},
   float ratio = {0.3}, bool on = {1},
   float[3] bias = {0.1, 0, -0.1}> {
  words = Gather(word_table, input_ids)
  shape = Shape(input_ids)
  length = Gather(shape, one)
  positions = Range(zero, length, one)
  places = Gather(place_table, positions)
  x = Add(words, places)
  mask = Cast<to = 1>(attention_mask)
  q = MatMul(x, wq)
  k = Transpose<perm = [0, 2, 1]>(x)
  scores = MatMul(q, k)
  rest = Sub(unit, mask)
  lowered = Mul(rest, low)
  over = Unsqueeze(lowered, first)
  masked = Add(scores, over)
  weights = Softmax<axis = -1>(masked)
  context = MatMul(weights, x)
  y = Add(x, context)
  m = Unsqueeze(mask, last)
)";
constexpr const char* masked_mean = R"(
  products = Mul(y, m)
  sum = ReduceSum<keepdims = 0>(products, first)
  count = ReduceSum<keepdims = 0>(m, first)
  pooled = Div(sum, count)
  logits = Gemm(pooled, head, bias)
})";
constexpr const char* dropped_mean = R"(
  dropped = Dropout(y, ratio, on)
  products = Mul(dropped, m)
  sum = ReduceSum<keepdims = 0>(products, first)
  count = ReduceSum<keepdims = 0>(m, first)
  pooled = Div(sum, count)
  logits = Gemm(pooled, head, bias)
})";
constexpr const char* plain_mean = R"(
  pooled = ReduceMean<keepdims = 0>(y, first)
  logits = Gemm(pooled, head, bias)
})";
constexpr const char* every_token = R"(
  scored = MatMul(y, head)
  logits = Add(scored, bias)
})";

std::unique_ptr<Session> make_session(const std::string& pooling = masked_mean, const SessionOptions& options = {},
                                      const std::vector<std::string>& dim_names = {"N", "S"}) {
  std::string text = encoder + pooling;
  std::string parameters = constant("word_table", {words, 6}, 0.3) + constant("place_table", {longest, 6}, 1.1) +
                           constant("wq", {6, 6}, 2.5) + constant("head", {6, 3}, 0.7);
  text.insert(text.find("<int64 one") + 1, parameters);
  auto graph = test::graph_from_text(text);
  for (Value* input : graph->inputs) input->dim_names = dim_names;
  return std::make_unique<Session>(std::move(graph), Expander{}, options);
}

// Rows of 2 to 40 tokens, padded to `longest`; the class is in the words.
class Rows : public Dataset {
 public:
  explicit Rows(int64_t size, int64_t spread = 39) : size_(size), spread_(spread) {}
  int64_t size() const override { return size_; }
  const std::vector<std::string>& input_names() const override { return names_; }
  int64_t label_of(int64_t i) const override { return (i * 7 + i / 5) % 3; }
  std::string describe(int64_t i) const override { return cat("row ", i); }
  Sample read(int64_t i) const override {
    Tensor ids(DType::i64, {longest}), mask(DType::i64, {longest});
    int64_t tokens = spread_ ? 2 + i * 11 % spread_ : longest;
    for (int64_t t = 0; t < tokens; ++t) {
      ids.data<int64_t>()[t] = (1 + 5 * label_of(i) + (i + 3 * t) % 7) % words;
      mask.data<int64_t>()[t] = 1;
    }
    return {{ids, mask}, Tensor::scalar(label_of(i))};
  }

 private:
  int64_t size_, spread_;
  std::vector<std::string> names_{"input_ids", "attention_mask"};
};

std::optional<LengthBuckets> buckets_of(Session& session) {
  Rows rows(4);
  return find_length_buckets(session, rows, all_indices(rows), [&](const std::map<std::string, Dims>& dims) {
    return session.forward(dims, Mode::infer);
  });
}

TEST(LengthBuckets, AreFew) {
  auto lengths = [](int64_t most) { return LengthBuckets("mask", {}, most).lengths(); };
  EXPECT_EQ(lengths(128), (std::vector<int64_t>{16, 24, 32, 48, 64, 96, 128}));
  EXPECT_EQ(lengths(100), (std::vector<int64_t>{16, 24, 32, 48, 64, 96, 100}));
  EXPECT_EQ(lengths(7), (std::vector<int64_t>{7}));
  EXPECT_EQ(lengths(512).size(), 11U);
}

TEST(LengthBuckets, CutOnlyWhatIsPaddingInEveryRow) {
  LengthBuckets buckets("mask", {{"mask", 1}, {"ids", 2}}, 40);
  // Rows whose tokens lie in [first, second); the length of the cut batch.
  auto cut = [&](const std::vector<std::pair<int64_t, int64_t>>& rows, DType dtype = DType::i64) {
    auto batch = static_cast<int64_t>(rows.size());
    Tensor mask(DType::i64, {batch, 40}), ids(DType::i32, {batch, 3, 40});
    for (int64_t i = 0; i < ids.count(); ++i) ids.data<int32_t>()[i] = static_cast<int32_t>(i);
    for (int64_t row = 0; row < batch; ++row) {
      auto [from, to] = rows[static_cast<size_t>(row)];
      std::fill(mask.data<int64_t>() + 40 * row + from, mask.data<int64_t>() + 40 * row + to, 1);
    }
    std::map<std::string, Tensor> inputs{{"mask", mask.cast(dtype)}, {"ids", ids}, {"other", ids}};
    buckets.cut(inputs);
    EXPECT_EQ(inputs.at("other").dims(), ids.dims());
    const Tensor& kept = inputs.at("ids");
    int64_t length = kept.dims()[2];
    EXPECT_EQ(inputs.at("mask").dims(), (Dims{batch, length}));
    for (int64_t i = 0; i < kept.count(); ++i) {
      EXPECT_EQ(kept.data<int32_t>()[i], static_cast<int32_t>(i / length * 40 + i % length));
    }
    for (int64_t row = 0; row < batch; ++row) {
      for (int64_t t = 0; t < length; ++t) {
        bool token = rows[static_cast<size_t>(row)].first <= t && t < rows[static_cast<size_t>(row)].second;
        EXPECT_EQ(inputs.at("mask").cast(DType::i64).data<int64_t>()[row * length + t], token);
      }
    }
    return length;
  };
  EXPECT_EQ(cut({{0, 3}, {0, 16}}), 16);
  EXPECT_EQ(cut({{0, 17}, {0, 3}}), 24);
  EXPECT_EQ(cut({{0, 17}, {0, 3}}, DType::boolean), 24);
  EXPECT_EQ(cut({{0, 25}, {0, 3}}, DType::f32), 32);
  EXPECT_EQ(cut({{0, 33}, {0, 3}}), 40);
  EXPECT_EQ(cut({{0, 40}, {0, 40}}), 40);
  EXPECT_EQ(cut({{30, 40}, {37, 40}}), 40) << "padding on the left";
  EXPECT_EQ(cut({{5, 12}, {0, 3}}), 16) << "holes in front";
  EXPECT_EQ(cut({{0, 3}, {0, 0}}), 40) << "a row without tokens sees its padding";
}

TEST(LengthBuckets, ApplyWherePaddingChangesNothing) {
  auto masked = make_session();
  auto found = buckets_of(*masked);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->lengths(), (std::vector<int64_t>{16, 24, 32, 48, 64}));
  EXPECT_EQ(masked->program_counts().kept, 0);
  EXPECT_FALSE(buckets_of(*make_session(plain_mean))) << "padding is in the mean";
  EXPECT_FALSE(buckets_of(*make_session(every_token))) << "the output has a row for each token";
  EXPECT_FALSE(buckets_of(*make_session(masked_mean, {}, {"N", ""}))) << "a dimension without a name";
}

struct Outcome {
  std::optional<LengthBuckets> buckets;
  std::vector<TrainingEpoch> epochs;
  SavedStates states;
  ProgramCounts programs;
  int64_t peak_bytes = 0, peak_length = 0;
  Checkpoint last;
};

struct Setting {
  bool cut = true;
  bool wide = true;     // float64
  int64_t spread = 39;  // of the rows' lengths; 0: none is padded
  int64_t stop = -1;    // behind so many batches
  int64_t accumulate = 1;
  std::string pooling = masked_mean;
  const Checkpoint* from = nullptr;
};

Outcome train(const Setting& setting) {
  auto session = make_session(setting.pooling, {.double_precision = setting.wide});
  Rows rows(50, setting.spread), held_out(21, setting.spread);
  TrainerOptions options;
  options.training.trainable = session->parameters();
  options.schedule = {.decay = Decay::constant, .rate = 0.02};
  options.epochs = 2;
  options.batch_size = 4;
  options.accumulate = setting.accumulate;
  options.length_buckets = setting.cut;
  Outcome outcome;
  int64_t batches = 0;
  TrainerCallbacks callbacks;
  callbacks.on_epoch = [&](const TrainingEpoch& epoch) { outcome.epochs.push_back(epoch); };
  callbacks.on_step = [&](const TrainingStep&) { ++batches; };
  callbacks.on_checkpoint = [&](const TrainingProgress& at, const ParameterStore& states) {
    outcome.last = {at, take_states(states)};
  };
  callbacks.interrupted = [&] { return setting.stop >= 0 && batches >= setting.stop; };
  callbacks.on_compiled = [&](const TrainingPrograms& programs) {
    outcome.peak_bytes = programs.step->plan().peak_bytes();
    outcome.peak_length = programs.step->graph().find("input_ids")->dims[1];
  };
  Trainer trainer(*session, rows, all_indices(rows), &held_out, all_indices(held_out), options, callbacks);
  if (setting.from) trainer.restore(*setting.from);
  trainer.run();
  outcome.buckets = trainer.buckets();
  outcome.states = take_states(session->store());
  outcome.programs = session->program_counts();
  return outcome;
}

// The largest difference of a parameter or moment, as a share of the largest there is in it.
double difference(const SavedStates& a, const SavedStates& b) {
  double worst = 0;
  for (const auto& [name, state] : a) {
    Tensor x = state.value.cast(DType::f64), y = b.at(name).value.cast(DType::f64);
    double largest = 0, error = 0;
    for (int64_t i = 0; i < x.count(); ++i) {
      largest = std::max(largest, std::abs(x.data<double>()[i]));
      error = std::max(error, std::abs(x.data<double>()[i] - y.data<double>()[i]));
    }
    if (error > 0) worst = std::max(worst, error / largest);
  }
  return worst;
}

void expect_same_bits(const SavedStates& a, const SavedStates& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, state] : a) {
    ASSERT_EQ(state.value.bytes(), b.at(name).value.bytes());
    auto bytes = static_cast<size_t>(state.value.bytes());
    EXPECT_EQ(std::memcmp(state.value.raw(), b.at(name).value.raw(), bytes), 0) << name;
  }
}

TEST(LengthBuckets, TrainingIsTheSameWithoutThePadding) {
  for (int64_t accumulate : {1, 3}) {
    Outcome cut = train({.accumulate = accumulate}), whole = train({.cut = false, .accumulate = accumulate});
    ASSERT_TRUE(cut.buckets);
    EXPECT_FALSE(whole.buckets);
    EXPECT_LE(difference(whole.states, cut.states), 1e-9);
    ASSERT_EQ(cut.epochs.size(), whole.epochs.size());
    for (size_t i = 0; i < cut.epochs.size(); ++i) {
      EXPECT_NEAR(cut.epochs[i].loss, whole.epochs[i].loss, 1e-9);
      EXPECT_NEAR(cut.epochs[i].validation->loss, whole.epochs[i].validation->loss, 1e-9);
      EXPECT_EQ(cut.epochs[i].validation->confusion, whole.epochs[i].validation->confusion);
    }
    // Probes, five lengths in training and four that occur in validation, smaller last batches, apply.
    EXPECT_LE(cut.programs.compiled, 2 + 5 + 4 + 4 + 1);
    EXPECT_GT(cut.programs.compiled, whole.programs.compiled);
    EXPECT_EQ(cut.programs.evicted, 0);
  }
}

TEST(LengthBuckets, ThePlanThatIsShownIsThatOfTheLongestRows) {
  Outcome cut = train({}), whole = train({.cut = false});
  EXPECT_EQ(cut.peak_length, longest);
  EXPECT_EQ(cut.peak_bytes, whole.peak_bytes);
}

TEST(LengthBuckets, RowsWithoutPaddingStayAsTheyAre) {
  Outcome cut = train({.wide = false, .spread = 0}), whole = train({.cut = false, .wide = false, .spread = 0});
  EXPECT_TRUE(cut.buckets);
  expect_same_bits(cut.states, whole.states);
}

// Dropout counts elements: it is not the same on another length.
TEST(LengthBuckets, ARunGoesOnToTheBit) {
  for (int64_t accumulate : {1, 3}) {
    Outcome at_once = train({.wide = false, .accumulate = accumulate, .pooling = dropped_mean});
    // 13 batches an epoch, the last one smaller.
    for (int64_t stop : accumulate == 1 ? std::vector<int64_t>{4, 12, 21} : std::vector<int64_t>{6}) {
      SCOPED_TRACE(cat("accumulate ", accumulate, ", stopped after ", stop));
      Outcome begun = train({.wide = false, .stop = stop, .accumulate = accumulate, .pooling = dropped_mean});
      Outcome gone_on = train({.wide = false, .accumulate = accumulate, .pooling = dropped_mean, .from = &begun.last});
      expect_same_bits(gone_on.states, at_once.states);
      EXPECT_EQ(gone_on.epochs.back().validation->loss, at_once.epochs.back().validation->loss);
    }
  }
}

}  // namespace
}  // namespace graft
