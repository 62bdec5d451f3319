// Training steps on Google Benchmark: cross-entropy and AdamW on all parameters. Without files a perceptron of three
// layers, else the models given, at batch 1 and 8 with every other free dimension 128.
//   step_bench [MODEL.onnx ...] --benchmark_filter='.*/8'
#include <benchmark/benchmark.h>

#include "runtime/benchmark.h"
#include "runtime/device/cpu/waiting.h"
#include "runtime/model_session.h"
#include "runtime/synthetic_inputs.h"

namespace graft {
namespace {

// 784-512-512-10 with ReLU.
std::unique_ptr<Graph> perceptron() {
  auto graph = std::make_unique<Graph>();
  Value* x = graph->add_input("x", DType::f32, {-1, 784});
  const std::vector<int64_t> widths{784, 512, 512, 10};
  for (size_t layer = 1; layer < widths.size(); ++layer) {
    std::string name = cat("w", layer);
    Value* w = graph->add_constant(random_normal(DType::f32, {widths[layer - 1], widths[layer]}, name, 0), name);
    Value* b = graph->add_constant(Tensor(DType::f32, {widths[layer]}), cat("b", layer));
    x = graph->add_node("", "Gemm", {x, w, b}, 1)->outputs[0];
    if (layer + 1 < widths.size()) x = graph->add_node("", "Relu", {x}, 1)->outputs[0];
  }
  graph->rename(x, "logits");
  graph->outputs = {x};
  return graph;
}

void run_step(benchmark::State& state, Session& session, int64_t batch) {
  constexpr int64_t length = 128;
  std::map<std::string, Dims> dims;
  for (const Value* input : session.graph().inputs) {
    dims[input->name] = input->dims;
    for (size_t axis = 0; axis < input->dims.size(); ++axis) {
      int64_t& dim = dims[input->name][axis];
      if (dim < 0) dim = axis == 0 ? batch : length;
    }
  }
  TrainingOptions training;
  training.trainable = session.parameters();
  TrainingPrograms programs = session.training(dims, training);
  Program& program = *programs.step;
  set_synthetic_inputs(program, session, training.loss);
  program.run();
  for ([[maybe_unused]] auto _ : state) program.run();
  state.counters["samples/s"] =
      benchmark::Counter(static_cast<double>(batch), benchmark::Counter::kIsIterationInvariantRate);
}

void register_steps(const std::string& name, Session& session, const std::vector<int64_t>& batches) {
  for (int64_t batch : batches) {
    auto run = [&session, batch](benchmark::State& state) { run_step(state, session, batch); };
    benchmark::RegisterBenchmark(cat(name, '/', batch).c_str(), run)->Unit(benchmark::kMillisecond)->UseRealTime();
  }
}

void run(int argc, char** argv) {
  std::vector<ModelSession> models;
  std::unique_ptr<Session> session;
  for (int i = 1; i < argc; ++i) models.push_back(ModelSession::open(argv[i]));
  for (auto& model : models) register_steps(model.file().path().stem().string(), model.session(), {1, 8});
  if (models.empty()) {
    session = std::make_unique<Session>(perceptron(), Expander());
    register_steps("mlp", *session, {1, 32, 256});
  }
  benchmark::RunSpecifiedBenchmarks();
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) {
  graft::limit_busy_waiting(argv);
  benchmark::Initialize(&argc, argv);
  try {
    graft::run(argc, argv);
  } catch (const graft::Error& error) {
    std::fprintf(stderr, "step_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
