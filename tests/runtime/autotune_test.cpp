// Kernels chosen by measuring: all that can be chosen compute the same, and the cache answers for them or is no cache.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "graph/passes/copy_into_backward.h"
#include "ops/bfloat16_gemm.h"
#include "runtime/device/device.h"
#include "runtime/session.h"
#include "tests/support/check_op.h"
#include "tests/support/networks.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_count.h"

namespace graft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Names = std::set<std::string>;
using test::check_choices;
using test::random_tensor;
using test::ThreadCount;

constexpr double sums = 1e-4, low_sums = 3e-2;

bool has_all(const Names& names, const Names& wanted) {
  return std::includes(names.begin(), names.end(), wanted.begin(), wanted.end());
}

TEST(KernelChoices, OfProductsComputeTheSame) {
  ThreadCount two(2);
  const Names all{"columns", "rows", "onednn"};
  EXPECT_TRUE(
      has_all(check_choices("(float[70,45] a, float[90,45] b, float[90] c) => (y) { y = Gemm<transB = 1>(a, b, c) }",
                            DType::f32, sums),
              all));
  EXPECT_TRUE(
      has_all(check_choices("(float[45,70] a, float[45,130] b) => (y) { y = Gemm<transA = 1, alpha = 0.5>(a, b) }",
                            DType::f32, sums),
              all));
  EXPECT_TRUE(
      has_all(check_choices("(float[5,3,70,40] a, float[5,3,90,40] b) => (y) { y = graft.MatMul<transB = 1>(a, b) }",
                            DType::f32, sums),
              {"batches", "columns", "rows", "onednn"}));
  EXPECT_TRUE(
      has_all(check_choices("(float[2,70,40] a, float[40,130] b) => (y) { y = MatMul(a, b) }", DType::f32, sums), all));
  // oneDNN would scale c as well.
  EXPECT_FALSE(check_choices("(float[70,45] a, float[45,90] b, float[90] c) => (y) { y = Gemm<alpha = 0.5>(a, b, c) }",
                             DType::f32, sums)
                   .contains("onednn"));
  check_choices("(float[70,45] a, float[45,90] b, float[70,1] c) => (y) { y = Gemm<beta = 2.0>(a, b, c) }", DType::f32,
                sums);
  check_choices("(float[3,1,5,4] a, float[1,3,4,6] b) => (y) { y = MatMul(a, b) }", DType::f32, sums);
}

TEST(KernelChoices, OfProductsInMixedPrecisionComputeTheSame) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  const Names both{"matmul", "inner_product"};
  EXPECT_EQ(check_choices("(float[33,64] a, float[48,64] b, float[48] c) => (y) { y = Gemm<transB = 1>(a, b, c) }",
                          DType::bf16, low_sums),
            both);
  EXPECT_EQ(
      check_choices("(float[33,64] a, float[64,48] b) => (y) { y = Gemm<alpha = 0.5>(a, b) }", DType::bf16, low_sums),
      both);
  EXPECT_EQ(check_choices("(float[64,33] a, float[64,48] b) => (y) { y = graft.MatMul<transA = 1>(a, b) }", DType::bf16,
                          low_sums),
            both);
  EXPECT_FALSE(check_choices("(float[64,33] a, float[64,48] b) => (y) { y = Gemm<transA = 1, alpha = 0.5>(a, b) }",
                             DType::bf16, low_sums)
                   .contains("inner_product"));
}

TEST(KernelChoices, OfConvolutionsComputeTheSame) {
  const Names both{"direct", "winograd"};
  EXPECT_EQ(check_choices("(float[2,32,9,8] x, float[48,32,3,3] w, float[48] b) => (y) { y = Conv<pads = [1, 1, 1, "
                          "1]>(x, w, b) }",
                          DType::f32, sums),
            both);
  EXPECT_EQ(check_choices("(float[2,48,9,8] dy, float[48,32,3,3] w) => (dx) { dx = graft.ConvGradData<pads = [1, 1, 1, "
                          "1], x_shape = [2,32,9,8]>(dy, w) }",
                          DType::f32, sums),
            both);
  EXPECT_EQ(check_choices("(float[2,32,9,8] x, float[2,48,9,8] dy) => (dw, db) { dw, db = graft.ConvGradWeights<pads = "
                          "[1, 1, 1, 1], w_shape = [48,32,3,3]>(x, dy) }",
                          DType::f32, 10 * sums),
            both);
  EXPECT_EQ(check_choices("(float[2,32,7,5] x, float[32,16,3,3] w, float[16] b) => (y) { y = ConvTranspose(x, w, b) }",
                          DType::f32, sums),
            both);
  EXPECT_TRUE(
      check_choices("(float[2,32,9,8] x, float[48,32,1,1] w) => (y) { y = Conv(x, w) }", DType::f32, sums).empty());
}

TEST(KernelChoices, OfPointwiseGradientsComputeTheSame) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  Names all{"direct", "pointwise"};
  if (has_matrix_tiles()) all.insert("tiles");
  EXPECT_EQ(
      check_choices("(float[2,32,9,8] x, float[2,48,9,8] dy) => (dw, db) { dw, db = graft.ConvGradWeights<w_shape "
                    "= [48,32,1,1]>(x, dy) }",
                    DType::bf16, low_sums),
      all);
}

// A session under measuring, and what it said.
class Tuned {
 public:
  Tuned(const std::string& network, const std::string& folder, MemoryOptions memory = {})
      : network_(test::network_named(network)), memory_(memory) {
    AutotuneOptions options{.folder = folder, .seconds_per_case = 1e-3};
    options.on_case = [this](int64_t done, int64_t cases) { steps_.emplace_back(done, cases); };
    options.on_end = [this](const AutotuneReport& report) { reports.push_back(report); };
    options.warn = [this](const std::string& text) { warnings.push_back(text); };
    SessionOptions session_options;
    session_options.autotune = options;
    session = std::make_unique<Session>(network_.make(), Expander{}, session_options);
  }

  TrainingPrograms programs(int64_t batch = 0) {
    TrainingOptions options;
    options.loss.type = LossType::mse;
    options.trainable = session->parameters();
    options.memory = memory_;
    Dims x = network_.x;
    if (batch > 0) x[0] = batch;
    return session->training({{"x", x}}, options);
  }

  // All states after some steps.
  test::Tensors trained() {
    TrainingPrograms step = programs();
    constexpr unsigned steps = 3;
    for (unsigned i = 0; i < steps; ++i)
      test::train_step(step, random_tensor(DType::f32, network_.x, i), random_tensor(DType::f32, network_.y, i + steps),
                       0.003);
    EXPECT_EQ(step.step->counters().allocations, 0);
    EXPECT_EQ(step.step->counters().descriptors, 0);
    return test::states(session->store());
  }

  std::unique_ptr<Session> session;
  std::vector<AutotuneReport> reports;
  std::vector<std::string> warnings;

  // The last case is told, and there are as many as are measured.
  void expect_steps() const {
    ASSERT_FALSE(steps_.empty());
    EXPECT_EQ(steps_.front(), std::pair(int64_t{0}, reports.front().measured));
    EXPECT_EQ(steps_.back(), std::pair(reports.front().measured, reports.front().measured));
  }

 private:
  const test::Network& network_;
  MemoryOptions memory_;
  std::vector<std::pair<int64_t, int64_t>> steps_;
};

std::string cache_file(const std::string& folder) {
  std::string found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    EXPECT_TRUE(found.empty()) << "two caches";
    found = entry.path().string();
  }
  return found;
}

Json cache_of(const std::string& folder) { return Json::parse(read_text(cache_file(folder))); }

void write(const std::string& file, const std::string& text) { std::ofstream(file, std::ios::binary) << text; }

// Another kernel for every case than the one that runs without measuring, as far as the file tells it from others.
void choose_others(const std::string& folder) {
  Json cache = cache_of(folder);
  for (Json& entry : cache["cases"]) {
    for (const auto& [kernel, time] : entry["microseconds"].items()) {
      if (kernel == entry["kernel"]) continue;
      entry["kernel"] = kernel;
      break;
    }
  }
  write(cache_file(folder), cache.dump());
}

// The suite also runs without fusions, and so without Winograd's algorithm.
bool has_no_choice(const AutotuneReport& report) { return report.cases == 0 && std::getenv("GRAFT_DISABLE"); }

class Autotune : public testing::TestWithParam<const char*> {};

TEST_P(Autotune, MeasuresOnceAndKeepsTheBits) {
  TemporaryFolder folder;
  Tuned first(GetParam(), folder.path());
  test::Tensors states = first.trained();
  ASSERT_EQ(first.reports.size(), 1U);
  if (has_no_choice(first.reports[0])) GTEST_SKIP();
  EXPECT_GT(first.reports[0].measured, 0);
  EXPECT_EQ(first.reports[0].measured, first.reports[0].cases);
  EXPECT_GE(first.reports[0].usual_seconds, first.reports[0].chosen_seconds);
  first.expect_steps();
  EXPECT_TRUE(first.warnings.empty()) << first.warnings[0];
  const std::string written = read_text(cache_file(folder.path()));
  Tuned second(GetParam(), folder.path());
  test::expect_same_bits(second.trained(), states);
  EXPECT_EQ(second.reports[0].measured, 0);
  EXPECT_EQ(second.reports[0].cases, first.reports[0].cases);
  EXPECT_EQ(second.reports[0].changed, first.reports[0].changed);
  EXPECT_EQ(read_text(cache_file(folder.path())), written);
}

TEST_P(Autotune, OtherKernelsTrainAlike) {
  TemporaryFolder folder;
  Tuned usual(GetParam(), folder.path());
  test::Tensors wanted = usual.trained();
  if (has_no_choice(usual.reports[0])) GTEST_SKIP();
  choose_others(folder.path());
  Tuned other(GetParam(), folder.path());
  test::Tensors got = other.trained();
  EXPECT_EQ(other.reports[0].measured, 0);
  EXPECT_GT(other.reports[0].changed + usual.reports[0].changed, 0);
  int64_t changed = 0;
  for (const auto& node : other.programs().step->graph().nodes()) changed += node->kernel.empty() ? 0 : 1;
  EXPECT_EQ(changed, other.reports[0].changed);
  test::expect_agreement(got, wanted, 1e-3, "states");
  Tuned again(GetParam(), folder.path(), {.recompute = Recompute::all});
  test::expect_same_bits(again.trained(), got);
}

INSTANTIATE_TEST_SUITE_P(Networks, Autotune, testing::Values("convolutions", "products", "attention", "backbone"));

TEST(AutotuneCache, NothingIsMeasuredUnlessAsked) {
  Session session(test::network_named("convolutions").make(), {});
  TrainingOptions options;
  options.loss.type = LossType::mse;
  options.trainable = session.parameters();
  auto programs = session.training({{"x", test::network_named("convolutions").x}}, options);
  for (const auto& node : programs.step->graph().nodes()) EXPECT_TRUE(node->kernel.empty());
}

TEST(AutotuneCache, OtherShapesAndThreadsAreOtherCases) {
  TemporaryFolder folder;
  Tuned first("products", folder.path());
  first.programs();
  first.programs(2);
  ASSERT_EQ(first.reports.size(), 2U);
  EXPECT_GT(first.reports[1].measured, 0);
  ThreadCount other(thread_count() == 1 ? 2 : 1);
  first.programs(1);
  EXPECT_GT(first.reports[2].measured, 0);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 4);  // two caches, two locks
}

// Two processes at a time: nothing is lost, and who comes second takes what the first one chose.
TEST(AutotuneCache, TakesWhatOthersWroteMeanwhile) {
  TemporaryFolder folder;
  Tuned first("products", folder.path()), second("products", folder.path());
  first.programs(1);  // has read the cache
  second.programs(1);
  second.programs(2);
  choose_others(folder.path());
  const Json before = cache_of(folder.path());
  first.programs(2);
  EXPECT_GT(first.reports[1].measured, 0);
  EXPECT_EQ(cache_of(folder.path()), before);
  first.programs(3);
  Json after = cache_of(folder.path());
  EXPECT_GT(after["cases"].size(), before["cases"].size());
  Tuned third("products", folder.path());
  for (int64_t batch : {1, 2, 3}) third.programs(batch);
  for (const auto& report : third.reports) EXPECT_EQ(report.measured, 0);
}

class BadCache : public testing::Test {
 protected:
  void SetUp() override {
    Tuned made("products", folder_.path());
    made.programs();
    file_ = cache_file(folder_.path());
    cache_ = cache_of(folder_.path());
  }
  // The file is left aside with a warning, or without where only a case of it is none, and is a good one afterwards.
  void expect_replaced(const std::string& what, bool warns = true) {
    SCOPED_TRACE(what);
    Tuned tuned("products", folder_.path());
    tuned.programs();
    EXPECT_GT(tuned.reports[0].measured, 0);
    EXPECT_EQ(tuned.warnings.size(), warns ? 1U : 0U);
    for (const auto& warning : tuned.warnings) EXPECT_NE(warning.find(file_), std::string::npos) << warning;
    Tuned next("products", folder_.path());
    next.programs();
    EXPECT_EQ(next.reports[0].measured, 0);
    EXPECT_TRUE(next.warnings.empty());
  }
  void replaced(const std::string& what, const std::string& text) {
    write(file_, text);
    expect_replaced(what);
  }
  template <class F>
  void changed(const std::string& what, F&& change, bool warns = true) {
    Json cache = cache_;
    change(cache);
    write(file_, cache.dump());
    expect_replaced(what, warns);
  }

  TemporaryFolder folder_;
  std::string file_;
  Json cache_;
};

TEST_F(BadCache, IsReplaced) {
  const std::string text = cache_.dump();
  replaced("empty", "");
  replaced("cut off", text.substr(0, text.size() / 2));
  replaced("no JSON", "kernels");
  replaced("another JSON", "[1, 2]");
  replaced("deep", std::string(1000000, '['));
  replaced("no UTF-8", "{\"format\": \"\xff\"}");
  changed("another format", [](Json& c) { c["format"] = 2; });
  changed("an older version", [](Json& c) { c["machine"]["graft"] = "0.0.1"; });
  changed("another machine", [](Json& c) { c["machine"]["processor"] = "Z80"; });
  changed("no machine", [](Json& c) { c.erase("machine"); });
  changed("no cases", [](Json& c) { c["cases"] = 7; });
  changed("a case that is none", [](Json& c) { c["cases"][0] = "x"; });
  changed("a case without a name", [](Json& c) { c["cases"][0].erase("case"); });
  changed("a name too long", [](Json& c) { c["cases"][0]["case"] = std::string(3000, 'x'); });
  changed("a name that no terminal should see", [](Json& c) { c["cases"][0]["case"] = "\x1b[2J"; });
  changed("a kernel without a time", [](Json& c) { c["cases"][0]["kernel"] = "other"; });
  changed("no times", [](Json& c) { c["cases"][0]["microseconds"] = 1; });
  changed("a time that is none", [](Json& c) { c["cases"][0]["microseconds"].front() = "soon"; });
  changed("a negative time", [](Json& c) { c["cases"][0]["microseconds"].front() = -1; });
  changed("too many cases", [](Json& c) { c["cases"] = Json::array_t(30000, c["cases"][0]); });
  // All in order, but no kernel of the operator's.
  changed(
      "an unknown kernel",
      [](Json& c) {
        for (Json& entry : c["cases"]) entry["kernel"] = "abacus", entry["microseconds"] = {{"abacus", 1}};
      },
      false);
  fs::resize_file(file_, uintmax_t{1} << 30);
  expect_replaced("too large");
}

TEST_F(BadCache, IsNoOrdinaryFile) {
  auto expect_kept_aside = [&](const std::string& what) {
    SCOPED_TRACE(what);
    Tuned tuned("products", folder_.path());
    tuned.programs();
    EXPECT_GT(tuned.reports[0].measured, 0);
    ASSERT_EQ(tuned.warnings.size(), 2U);  // cannot be read, cannot be written
    EXPECT_NE(tuned.warnings[0].find("no regular file"), std::string::npos) << tuned.warnings[0];
  };
  fs::remove(file_);
  fs::create_directory(file_);
  expect_kept_aside("a folder");
  fs::remove(file_);
  ASSERT_EQ(::mkfifo(file_.c_str(), 0600), 0);
  expect_kept_aside("a pipe");
}

TEST(AutotuneCache, ThatCannotBeWrittenLastsForTheSession) {
  TemporaryFolder folder;
  Tuned tuned("products", folder.write("file", "") + "/below");
  test::Tensors states = tuned.trained();
  ASSERT_EQ(tuned.warnings.size(), 1U);
  EXPECT_NE(tuned.warnings[0].find("XDG_CACHE_HOME"), std::string::npos) << tuned.warnings[0];
  tuned.programs(1);  // other cases: the warning comes once
  tuned.session->forget_programs();
  tuned.programs();
  ASSERT_EQ(tuned.reports.size(), 3U);
  EXPECT_EQ(tuned.reports[2].measured, 0);
  EXPECT_EQ(tuned.warnings.size(), 1U);
}

TEST(AutotuneCache, LiesWhereTheUserKeepsCaches) {
  const char* names[] = {"XDG_CACHE_HOME", "HOME"};
  std::map<std::string, std::string> before;
  for (const char* name : names) {
    if (const char* value = std::getenv(name)) before[name] = value;
  }
  ::setenv("HOME", "/users/someone", 1);
  ::setenv("XDG_CACHE_HOME", "/caches", 1);
  EXPECT_EQ(default_cache_folder(), "/caches/graft");
  ::setenv("XDG_CACHE_HOME", "relative", 1);  // as the standard has it: to be ignored
  EXPECT_EQ(default_cache_folder(), "/users/someone/.cache/graft");
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(default_cache_folder(), "/users/someone/.cache/graft");
  ::unsetenv("HOME");
  EXPECT_EQ(default_cache_folder(), "");
  for (const char* name : names) {
    if (before.contains(name)) ::setenv(name, before[name].c_str(), 1);
    else ::unsetenv(name);
  }
}

TEST(KernelChoices, GoWithCopiesOfTheirNodes) {
  Graph graph;
  Value* a = graph.add_input("a", DType::f32, {4, 4});
  Node* product = graph.add_node("", "MatMul", {a, a}, 1);
  product->kernel = "rows";
  graph.set_provenance({"relu", Direction::backward});
  Node* reader = graph.add_node("", "Relu", {product->outputs[0]}, 1);
  for (Node* node : {product, reader}) infer(*node);
  graph.outputs = {product->outputs[0], reader->outputs[0]};
  EXPECT_EQ(graph.clone()->nodes().front()->kernel, "rows");
  copy_into_backward(graph, {true, false});
  ASSERT_NE(reader->inputs[0]->producer, product);
  EXPECT_EQ(reader->inputs[0]->producer->kernel, "rows");
}

TEST(KernelChoices, ThatNobodyOffersAreRefused) {
  Graph graph;
  Value* a = graph.add_input("a", DType::f32, {4, 4});
  Node* node = graph.add_node("", "MatMul", {a, a}, 1);
  infer(*node);
  for (Value* value : {a, node->outputs[0]}) value->layout = Layout::plain(value->dims);
  node->kernel = "abacus";
  EXPECT_THROW(settle(graph), UsageError);
  node->kernel.clear();
  EXPECT_NO_THROW(settle(graph));
}

}  // namespace
}  // namespace graft
