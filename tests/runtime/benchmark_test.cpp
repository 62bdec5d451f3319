#include "runtime/benchmark.h"

#include <gtest/gtest.h>

#include <cmath>

#include "runtime/operator_case.h"
#include "runtime/synthetic_inputs.h"

namespace graft {
namespace {

const MachineLimits machine{1, 1e9, 5e8, 1e9, 1e10, 1 << 20};

// logits = MatMul(ReduceMean(Gather(table, Cast(ids)) * mask), w)
std::unique_ptr<Graph> encoder() {
  auto graph = std::make_unique<Graph>();
  Value* ids = graph->add_input("ids", DType::i32, {-1, 6});
  Value* mask = graph->add_input("attention_mask", DType::f32, {-1, 6, 1});
  Value* flag = graph->add_input("flag", DType::i64, {1});
  Value* table = graph->add_constant(random_normal(DType::f32, {11, 4}, "table", 0), "table");
  Value* w = graph->add_constant(random_normal(DType::f32, {4, 3}, "w", 0), "w");
  Value* axis = graph->add_constant(Tensor::of<int64_t>({1}, {1}));
  Value* wide = graph->add_node("", "Cast", {ids}, 1, {{"to", onnx_dtype(DType::i64)}})->outputs[0];
  Value* rows = graph->add_node("", "Gather", {table, wide}, 1)->outputs[0];
  Value* seen = graph->add_node("", "Mul", {rows, mask}, 1)->outputs[0];
  Value* mean = graph->add_node("", "ReduceMean", {seen, axis}, 1, {{"keepdims", int64_t{0}}})->outputs[0];
  Value* logits = graph->add_node("", "MatMul", {mean, w}, 1)->outputs[0];
  Value* scale = graph->add_node("", "Cast", {flag}, 1, {{"to", onnx_dtype(DType::f32)}})->outputs[0];
  graph->outputs = {graph->add_node("", "Mul", {logits, scale}, 1)->outputs[0]};
  graph->rename(graph->outputs[0], "logits");
  return graph;
}

const std::map<std::string, Dims> encoder_dims{{"ids", {200, 6}}, {"attention_mask", {200, 6, 1}}, {"flag", {1}}};

TEST(SyntheticInputs, IntegersStayWithinTheTableTheyPickFrom) {
  auto graph = encoder();
  Tensor ids = synthetic_input(*graph->find("ids"), {200, 6}, 0);
  EXPECT_EQ(ids.dtype(), DType::i32);
  std::set<int32_t> seen(ids.values<int32_t>().begin(), ids.values<int32_t>().end());
  EXPECT_EQ(seen.size(), 11U) << "all rows of the table";
  EXPECT_EQ(*seen.begin(), 0);
  EXPECT_EQ(*seen.rbegin(), 10);
  Tensor mask = synthetic_input(*graph->find("attention_mask"), {200, 6, 1}, 0);
  for (float x : mask.values<float>()) EXPECT_EQ(x, 1);
  EXPECT_EQ(synthetic_input(*graph->find("flag"), {1}, 0).to_int64(), std::vector<int64_t>{1});
}

TEST(SyntheticInputs, MasksOfPaddingGrowEvenly) {
  Tensor mask = padding_mask(DType::i64, {3, 5}, 1);
  EXPECT_EQ(mask.to_int64(), (std::vector<int64_t>{1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1}));
  EXPECT_EQ(padding_mask(DType::i64, {1, 3}, 2).to_int64(), (std::vector<int64_t>{1, 1, 0}));
  EXPECT_THROW(padding_mask(DType::i64, {3, 5}, 6), UsageError);
  EXPECT_THROW(padding_mask(DType::i64, {3, 5}, 0), UsageError);
}

TEST(SyntheticInputs, LabelsAreClassesOfThePrediction) {
  Graph graph;
  Value* prediction = graph.add_input("p", DType::f32, {300, 5});
  Tensor labels = synthetic_labels(*prediction, {}, 0);
  EXPECT_EQ(labels.dims(), Dims{300});
  std::set<int64_t> seen(labels.values<int64_t>().begin(), labels.values<int64_t>().end());
  EXPECT_EQ(seen, (std::set<int64_t>{0, 1, 2, 3, 4}));
  std::set<float> binary;
  Tensor bce = synthetic_labels(*prediction, {.type = LossType::bce}, 0);
  EXPECT_EQ(bce.dims(), (Dims{300, 5}));
  for (float x : bce.values<float>()) binary.insert(x);
  EXPECT_EQ(binary, (std::set<float>{0, 1}));
}

TEST(SyntheticInputs, AreTheSameForTheSameSeed) {
  Tensor a = random_normal(DType::f32, {50}, "x", 1), b = random_normal(DType::f32, {50}, "x", 1);
  Tensor c = random_normal(DType::f32, {50}, "x", 2);
  EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), 200));
  EXPECT_NE(0, std::memcmp(a.raw(), c.raw(), 200));
}

TEST(Benchmark, TimesATrainingStepNodeByNode) {
  Session session(encoder(), {});
  TrainingOptions training;
  training.trainable = session.parameters();
  StepBenchmark result = benchmark_step(session, encoder_dims, training, machine, {.seconds = 0, .rounds = 7});
  const StepTimes& times = result.times;
  EXPECT_EQ(times.steps, 7);
  EXPECT_GT(times.min_seconds, 0);
  EXPECT_GE(times.median_seconds, times.min_seconds);
  EXPECT_EQ(times.allocations, 0);
  EXPECT_EQ(times.descriptors, 0);
  ASSERT_EQ(times.node_seconds.size(), result.program->step_nodes().size());
  ASSERT_EQ(result.roofline.nodes.size(), times.node_seconds.size());
  double sum = 0;
  for (double seconds : times.node_seconds) {
    EXPECT_TRUE(std::isfinite(seconds));
    sum += seconds;
  }
  EXPECT_GT(result.compile_seconds, 0);
  EXPECT_EQ(result.planned_bytes, result.program->plan().peak_bytes());
  EXPECT_EQ(result.planned_new_bytes, result.planned_bytes - static_cast<int64_t>(sizeof(float)) * (44 + 12));
  std::map<std::pair<std::string, Direction>, int64_t> nodes;
  double grouped = 0;
  double before = std::numeric_limits<double>::infinity();
  for (const OperatorTime& time : by_operator(result.roofline, times.node_seconds)) {
    nodes[{time.label, time.direction}] = time.nodes;
    grouped += time.seconds;
    EXPECT_LE(time.seconds, before);
    before = time.seconds;
  }
  EXPECT_NEAR(grouped, sum, 1e-12);
  EXPECT_EQ((nodes[{"Gather", Direction::forward}]), 1);
  EXPECT_EQ((nodes[{"Adam", Direction::optimiser}] + nodes[{"AdamRows", Direction::optimiser}]), 2);
}

TEST(Benchmark, RecordsAStepInItsOrder) {
  Session session(encoder(), {});
  auto shared = session.forward(encoder_dims, Mode::infer);
  Program& program = *shared;
  set_synthetic_inputs(program, session, {});
  auto entries = record_step(program);
  auto nodes = program.step_nodes();
  ASSERT_EQ(entries.size(), nodes.size());
  int64_t end = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(entries[i].node, nodes[i]);
    EXPECT_GE(entries[i].start + 1000, end) << "a clock is read twice";
    end = entries[i].start + entries[i].duration;
  }
}

TEST(OperatorCases, AreReadFromText) {
  auto cases = read_operator_cases(
      "# nothing\n\n"
      "Conv pads=1,1,1,1 group=2 2x4x8x8 6x2x3x3 6  # a comment\n"
      "Gather 30x4 int64:2x5\nClip 3x4 - {6.0}\nReduceMean keepdims=0 3x4 {-1}\nMatMul 3x4 4x5\nMatMul 2x3x4 2x4x5\n"
      "Add 2x3 2x3\nAdd 2x3 3\nLeakyRelu alpha=0.5 scalar",
      "text");
  ASSERT_EQ(cases.size(), 9U);
  EXPECT_EQ(cases[0].type, "Conv");
  EXPECT_EQ(cases[0].operands, "pads=1,1,1,1 group=2 2x4x8x8 6x2x3x3 6");
  EXPECT_EQ(cases[0].where, "text line 3");
  auto output = [&](size_t i) { return graph_of(cases[i])->outputs[0]->dims; };
  EXPECT_EQ(output(0), (Dims{2, 6, 8, 8}));
  EXPECT_EQ(output(1), (Dims{2, 5, 4}));
  EXPECT_EQ(output(2), (Dims{3, 4}));
  EXPECT_EQ(output(3), (Dims{3}));
  EXPECT_EQ(output(8), Dims{});
  auto inputs = [&](size_t i) { return graph_of(cases[i])->inputs.size(); };
  EXPECT_EQ(inputs(0), 1U) << "weights are constants";
  EXPECT_EQ(inputs(4), 1U);
  EXPECT_EQ(inputs(5), 2U) << "a stack of matrices is no weight";
  EXPECT_EQ(inputs(6), 2U);
  EXPECT_EQ(inputs(7), 1U);
}

TEST(OperatorCases, CommonOnesCanBeBuilt) {
  auto cases = common_operator_cases();
  EXPECT_GT(cases.size(), 40U);
  for (const auto& given : cases) EXPECT_NO_THROW(graph_of(given)) << given.type << ' ' << given.operands;
}

template <class Error>
void expect_refused(const std::string& line, const std::string& word) {
  try {
    graph_of(read_operator_cases(line, "f").at(0));
    FAIL() << line << " was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
  }
}

TEST(OperatorCases, MistakesNameTheirLine) {
  expect_refused<DataError>("\nConf 1x2", "f line 2: no operator \"Conf\" that Graft has; nearest: \"Conv\"");
  expect_refused<DataError>("Relu 8x-2", "\"8x-2\" is no shape");
  expect_refused<DataError>("Relu 8y2", "\"8y2\" is no shape");
  expect_refused<DataError>("Relu {a}", "no list of values");
  expect_refused<DataError>("Relu flaot:2", "nearest: \"float\"");
  expect_refused<DataError>("MatMul 2x3 4x5", "f line 1");
  expect_refused<DataError>("Conv pad=1,1,1,1 2x4x8x8 6x4x3x3", "pad");
  expect_refused<DataError>("# nothing", "names no operator");
  expect_refused<DeviceError>("MatMul 1000000x1000000 1000000x1000000", "MiB");
  expect_refused<DeviceError>("Relu 9223372036854775807x9223372036854775807", "MiB");
}

}  // namespace
}  // namespace graft
