#include "runtime/session.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace graft {
namespace {

Tensor ramp(const Dims& dims, double scale) {
  Tensor t = Tensor::uninitialized(DType::f32, dims);
  for (int64_t i = 0; i < t.count(); ++i)
    t.data<float>()[i] = static_cast<float>(scale * std::sin(1.7 * static_cast<double>(i) + 0.3));
  return t;
}

// logits = Gemm(Relu(Gemm(x, w1, b1)), w2, b2), probabilities = Softmax(logits)
std::unique_ptr<Graph> mlp(int64_t batch = -1) {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input("x", DType::f32, {batch, 5});
  Value* w1 = graph->add_constant(ramp({5, 7}, 0.5), "w1");
  Value* b1 = graph->add_constant(ramp({7}, 0.1), "b1");
  Value* w2 = graph->add_constant(ramp({7, 3}, 0.5), "w2");
  Value* b2 = graph->add_constant(ramp({3}, 0.1), "b2");
  Value* h = graph->add_node("", "Gemm", {x, w1, b1}, 1)->outputs[0];
  Value* a = graph->add_node("", "Relu", {h}, 1)->outputs[0];
  Value* logits = graph->add_node("", "Gemm", {a, w2, b2}, 1)->outputs[0];
  Value* p = graph->add_node("", "Softmax", {logits}, 1)->outputs[0];
  graph->rename(logits, "logits");
  graph->rename(p, "p");
  graph->outputs = {p};
  return graph;
}

TrainingOptions sgd() {
  TrainingOptions options;
  options.optimiser.type = OptimiserType::sgd;
  options.trainable = {"w1", "b1", "w2", "b2"};
  return options;
}

double train_step(TrainingPrograms programs, const Tensor& x, const Tensor& labels, double lr) {
  programs.step->set_input("x", x);
  programs.step->set_input("graft.labels", labels);
  Tensor rate = Tensor::scalar(lr).cast(programs.step->graph().find("x")->dtype);
  if (!programs.apply) programs.step->set_input("graft.lr", rate);
  programs.step->run();
  if (programs.apply) {
    programs.apply->set_input("graft.lr", rate);
    programs.apply->run();
  }
  return programs.step->scalar("graft.loss_sum") / programs.step->scalar("graft.weight_sum");
}

TEST(Session, ValuesLargerThanTheMachineAreRefusedBeforeKernelsSeeThem) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    Session session(mlp(), {});
    TrainingOptions options = sgd();
    options.dtype = dtype;
    EXPECT_THROW(session.training({{"x", {int64_t{1} << 40, 5}}}, options), DeviceError);
    EXPECT_THROW(session.forward({{"x", {int64_t{1} << 40, 5}}}, Mode::infer), DeviceError);
  }
}

TEST(Session, TrainsOnTheLogitsBeforeTheSoftmax) {
  Session session(mlp(), {});
  Tensor x = ramp({8, 5}, 1);
  Tensor labels = Tensor::of<int64_t>({8}, {0, 1, 2, 0, 1, 2, 0, 1});
  double first = 0;
  double last = 0;
  for (int i = 0; i < 200; ++i) {
    last = train_step(session.training({{"x", {8, 5}}}, sgd()), x, labels, 0.5);
    if (i == 0) first = last;
  }
  EXPECT_NEAR(first, std::log(3), 0.3);
  EXPECT_LT(last, 0.1 * first);
  auto shared = session.forward({{"x", {8, 5}}}, Mode::infer);
  Program& forward = *shared;
  forward.set_input("x", x);
  forward.run();
  Tensor p = forward.output("p");
  for (int64_t row = 0; row < 8; ++row) EXPECT_GT(p.data<float>()[row * 3 + labels.data<int64_t>()[row]], 0.5F);
}

TEST(Session, EvaluationSeesTrainedWeights) {
  Session session(mlp(), {});
  Tensor x = ramp({4, 5}, 1);
  auto predict = [&] {
    auto shared = session.forward({{"x", {4, 5}}}, Mode::infer);
    Program& forward = *shared;
    forward.set_input("x", x);
    forward.run();
    return forward.output("p").data<float>()[0];
  };
  float before = predict();
  EXPECT_EQ(predict(), before);
  train_step(session.training({{"x", {4, 5}}}, sgd()), x, Tensor::of<int64_t>({4}, {0, 0, 0, 0}), 0.5);
  EXPECT_GT(predict(), before);
}

TEST(Session, AccumulationOverRaggedWindowsEqualsTheLargeBatch) {
  SessionOptions wide;
  wide.double_precision = true;
  Tensor x = ramp({7, 5}, 1).cast(DType::f64);
  Tensor labels = Tensor::of<int64_t>({7}, {0, -100, 2, 0, 1, -100, 1});
  TrainingOptions options = sgd();
  options.optimiser.type = OptimiserType::adamw;
  options.clip_norm = 0.05;
  Session whole(mlp(), {}, wide);
  Session parts(mlp(), {}, wide);
  TrainingOptions accumulating = options;
  accumulating.accumulate = true;
  for (int step = 0; step < 3; ++step) {
    train_step(whole.training({{"x", {7, 5}}}, options), x, labels, 0.01);
    TrainingPrograms programs;
    for (auto [begin, count] : {std::pair<int64_t, int64_t>{0, 3}, {3, 3}, {6, 1}}) {
      programs = parts.training({{"x", {count, 5}}}, accumulating);
      std::vector<double> rows(x.data<double>() + begin * 5, x.data<double>() + (begin + count) * 5);
      std::vector<int64_t> part(labels.data<int64_t>() + begin, labels.data<int64_t>() + begin + count);
      programs.step->set_input("x", Tensor::of<double>({count, 5}, rows));
      programs.step->set_input("graft.labels", Tensor::of<int64_t>({count}, part));
      programs.step->run();
    }
    programs.apply->set_input("graft.lr", Tensor::scalar<double>(0.01));
    programs.apply->run();
  }
  for (const auto& name : whole.parameters()) {
    Tensor a = whole.store().read(name);
    Tensor b = parts.store().read(name);
    for (int64_t i = 0; i < a.count(); ++i) EXPECT_NEAR(a.data<double>()[i], b.data<double>()[i], 1e-12) << name;
  }
}

TEST(Session, VectorJacobianProductHasEveryInputAndParameter) {
  Session session(mlp(), {});
  auto shared = session.vjp({{"x", {2, 5}}}, Mode::infer);
  Program& vjp = *shared;
  vjp.set_input("x", ramp({2, 5}, 1));
  vjp.set_input("cotangent:p", Tensor::of<float>({2, 3}, {1, 0, 0, 0, 0, 1}));
  vjp.run();
  for (const std::string name : {"x", "w1", "b1", "w2", "b2"}) {
    Tensor gradient = vjp.output("grad:" + name);
    double norm = 0;
    for (float g : gradient.values<float>()) norm += std::fabs(g);
    EXPECT_GT(norm, 0) << name;
  }
}

TEST(Session, GlobsThatMatchNothingNameTheNearest) {
  Session session(mlp(), {});
  EXPECT_EQ(session.match({"w*"}, {"w1"}), std::vector<std::string>{"w2"});
  try {
    session.match({"wight2"}, {});
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("\"w2\""), std::string::npos);
  }
}

TEST(Session, FreeDimensionsMustBeGiven) {
  Session session(mlp(), {});
  EXPECT_THROW(session.forward({}, Mode::infer), UsageError);
  EXPECT_THROW(session.forward({{"x", {2, 6}}}, Mode::infer), DataError);
}

TEST(Session, SteadyStepsPrepareNothing) {
  Session session(mlp(), {});
  Tensor x = ramp({8, 5}, 1);
  Tensor labels = Tensor::of<int64_t>({8}, {0, 1, 2, 0, 1, 2, 0, 1});
  auto programs = session.training({{"x", {8, 5}}}, sgd());
  train_step(programs, x, labels, 0.1);
  Counters before = programs.step->counters();
  train_step(programs, x, labels, 0.1);
  EXPECT_EQ(programs.step->counters().kernels, before.kernels);
  EXPECT_EQ(programs.step->counters().allocations, before.allocations);
  EXPECT_EQ(programs.step->counters().descriptors, before.descriptors);
  EXPECT_EQ(session.training({{"x", {8, 5}}}, sgd()).step, programs.step);
}

// A forward pass on `batch` rows.
std::shared_ptr<Program> forward(Session& session, int64_t batch) {
  return session.forward({{"x", {batch, 5}}}, Mode::infer);
}

TEST(Session, ManyShapesStayBounded) {
  Session session(mlp(), {}, {.programs = 4});
  for (int64_t batch = 1; batch <= 10; ++batch) {
    auto shared = forward(session, batch);
    shared->set_input("x", ramp({batch, 5}, 1));
    shared->run();
    EXPECT_EQ(shared->output("p").dims(), (Dims{batch, 3}));
  }
  ProgramCounts counts = session.program_counts();
  EXPECT_EQ(counts.kept, 4);
  EXPECT_EQ(counts.compiled, 10);
  EXPECT_EQ(counts.evicted, 6);
  for (int64_t batch : {10, 9, 8, 7}) forward(session, batch);
  EXPECT_EQ(session.program_counts().compiled, 10);
  forward(session, 11);  // displaces 10, for which nobody asked for the longest time
  for (int64_t batch : {7, 8, 9, 11}) forward(session, batch);
  EXPECT_EQ(session.program_counts().compiled, 11);
  EXPECT_THROW(Session(mlp(), {}, {.programs = 1}), UsageError);
}

TEST(Session, ShapesThatAlternateAreCompiledOnce) {
  for (bool accumulate : {false, true}) {
    Session session(mlp(), {}, {.programs = accumulate ? 3 : 2});
    TrainingOptions options = sgd();
    options.accumulate = accumulate;
    for (int i = 0; i < 6; ++i) {
      int64_t batch = i % 2 ? 8 : 5;
      Tensor labels = Tensor(DType::i64, {batch});
      train_step(session.training({{"x", {batch, 5}}}, options), ramp({batch, 5}, 1), labels, 0.1);
    }
    EXPECT_EQ(session.program_counts().compiled, accumulate ? 3 : 2);
    EXPECT_EQ(session.program_counts().evicted, 0);
  }
}

TEST(Session, AStepAndItsApplyDoNotDisplaceEachOther) {
  Session session(mlp(), {}, {.programs = 2});
  TrainingOptions options = sgd();
  options.accumulate = true;
  for (int i = 0; i < 3; ++i) {
    forward(session, 3);
    auto programs = session.training({{"x", {8, 5}}}, options);
    int64_t compiled = session.program_counts().compiled;
    auto again = session.training({{"x", {8, 5}}}, options);
    EXPECT_EQ(again.step, programs.step);
    EXPECT_EQ(again.apply, programs.apply);
    EXPECT_EQ(session.program_counts().compiled, compiled);
    train_step(again, ramp({8, 5}, 1), Tensor(DType::i64, {8}), 0.1);
  }
}

TEST(Session, AProgramThatIsHeldStaysWhole) {
  Session session(mlp(), {}, {.programs = 2});
  auto held = forward(session, 2);
  for (int64_t batch : {3, 4, 5}) forward(session, batch);
  EXPECT_NE(forward(session, 2), held);
  held->set_input("x", ramp({2, 5}, 1));
  held->run();
  Tensor p = held->output("p");
  auto fresh = forward(session, 2);
  fresh->set_input("x", ramp({2, 5}, 1));
  fresh->run();
  EXPECT_EQ(std::memcmp(p.raw(), fresh->output("p").raw(), static_cast<size_t>(p.bytes())), 0);
}

TEST(Session, OutputsThatAnotherProgramOverwroteAreRefused) {
  Session session(mlp(), {});
  auto large = forward(session, 9);
  auto small = forward(session, 2);
  EXPECT_EQ(large->arena(), small->arena()) << "they work in the same memory";
  large->run();
  EXPECT_NO_THROW(large->output("p"));
  small->run();
  EXPECT_NO_THROW(small->output("p"));
  EXPECT_THROW(large->output("p"), UsageError);
}

TEST(Session, LayoutsAreThoseOfTheFirstShape) {
  // A 5x5 convolution of one pixel leaves its weights plain, one of 8x8 would like blocks.
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input("x", DType::f32, {-1, 3, -1, -1});
  Value* w = graph->add_constant(ramp({16, 3, 5, 5}, 0.1), "w");
  Value* conv = graph->add_node("", "Conv", {x, w}, 1, {{"pads", std::vector<int64_t>{2, 2, 2, 2}}})->outputs[0];
  Value* axes = graph->add_constant(Tensor::of<int64_t>({2}, {2, 3}));
  graph->outputs = {graph->add_node("", "ReduceMax", {conv, axes}, 1, {{"keepdims", int64_t{0}}})->outputs[0]};
  graph->rename(graph->outputs[0], "y");
  Session session(std::move(graph), {});
  TrainingOptions options = sgd();
  options.trainable = {"w"};
  auto first = session.training({{"x", {1, 3, 1, 1}}}, options);
  Layout chosen = session.store().entry("w").layout;
  session.training({{"x", {4, 3, 8, 8}}}, options);
  EXPECT_EQ(session.store().entry("w").layout, chosen);
  EXPECT_FALSE(first.step->stale());
  EXPECT_EQ(session.training({{"x", {1, 3, 1, 1}}}, options).step, first.step);
}

TEST(Session, NamesEveryNodeThatBlocksTraining) {
  Session sound(mlp(), {});
  EXPECT_TRUE(sound.trainability({{"x", {2, 5}}}, sgd()).blockers.empty());
  auto graph = mlp();
  Value* p = graph->outputs[0];
  graph->outputs = {
      graph->add_node("", "CumProd", {p, graph->add_constant(Tensor::scalar<int64_t>(1))}, 1)->outputs[0]};
  graph->rename(graph->outputs[0], "y");
  Session session(std::move(graph), {});
  TrainingOptions options = sgd();
  Trainability found = session.trainability({{"x", {2, 5}}}, options);
  ASSERT_EQ(found.blockers.size(), 1U);
  EXPECT_EQ(found.blockers[0].type, "CumProd");
  EXPECT_EQ(found.blockers[0].reason,
            "has neither a kernel for float nor a function body that trains well, and has no gradient");
  EXPECT_THROW(session.training({{"x", {2, 5}}}, options), UnsupportedError);
}

TEST(Session, NamesParametersThatNoGradientReaches) {
  auto graph = mlp();
  Value* w = graph->add_constant(ramp({5, 3}, 0.5), "w0");
  Value* product = graph->add_node("", "MatMul", {graph->inputs[0], w}, 1)->outputs[0];
  Value* sign = graph->add_node("", "Sign", {product}, 1)->outputs[0];
  graph->outputs = {graph->add_node("", "Add", {graph->outputs[0], sign}, 1)->outputs[0]};
  Session session(std::move(graph), {});
  TrainingOptions options = sgd();
  options.trainable = session.parameters();
  Trainability found = session.trainability({{"x", {2, 5}}}, options);
  EXPECT_TRUE(found.blockers.empty());
  EXPECT_EQ(found.without_gradient, std::vector<std::string>{"w0"});
}

TEST(Session, TheCostOfAStepIsThatOfItsProgram) {
  Session session(mlp(), {});
  StepCost cost = session.training_cost({{"x", {8, 5}}}, sgd());
  // Two products forward, their weight gradients, and the data gradient of the second.
  double products = 2.0 * 8 * (3 * 5 * 7 - 5 * 7 + 3 * 7 * 3);
  EXPECT_GT(cost.flops, products);
  EXPECT_LT(cost.flops, 3 * products);
  EXPECT_EQ(session.store().entries().size(), 4U) << "an estimate leaves no states behind";
  EXPECT_EQ(session.training({{"x", {8, 5}}}, sgd()).step->plan().peak_bytes(), cost.peak_bytes);
}

TEST(Session, PrintsTheGraphAfterAPass) {
  Session session(mlp(), {});
  TrainingOptions options = sgd();
  EXPECT_NE(session.text_after("specialise", {{"x", {2, 5}}}, nullptr).find("float[2,7]"), std::string::npos);
  EXPECT_NE(session.text_after("differentiate", {{"x", {2, 5}}}, &options).find("backward of"), std::string::npos);
  EXPECT_THROW(session.text_after("nothing", {}, nullptr), UsageError);
}

}  // namespace
}  // namespace graft
