// The common operator cases (runtime/operator_case.h) on Google Benchmark, inference and with gradients.
//   operators_bench --benchmark_filter='MatMul.*backward'
#include <benchmark/benchmark.h>

#include "importers/onnx/function_body.h"
#include "runtime/benchmark.h"
#include "runtime/device/cpu/waiting.h"
#include "runtime/operator_case.h"

namespace graft {
namespace {

MachineLimits& machine() {
  static MachineLimits limits = measure_machine();
  return limits;
}

void run_case(benchmark::State& state, const OperatorCase& given, bool backward) {
  Session session(graph_of(given), function_body_graph);
  std::map<std::string, Dims> dims;
  for (const Value* input : session.graph().inputs) dims[input->name] = input->dims;
  auto shared = backward ? session.vjp(dims, Mode::train) : session.forward(dims, Mode::infer);
  Program& program = *shared;
  set_synthetic_inputs(program, session, {});
  program.run();
  for ([[maybe_unused]] auto _ : state) program.run();
  Roofline limits = roofline(program, machine());
  state.counters["FLOP/s"] = benchmark::Counter(limits.flops, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["limit_us"] = 1e6 * limits.seconds;
}

void register_cases(const std::vector<OperatorCase>& cases) {
  for (const auto& given : cases) {
    for (bool backward : {false, true}) {
      std::string name = given.type + '/' + given.operands + (backward ? "/backward" : "/forward");
      auto run = [&given, backward](benchmark::State& state) { run_case(state, given, backward); };
      benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMicrosecond)->UseRealTime();
    }
  }
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) {
  graft::limit_busy_waiting(argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  const std::vector<graft::OperatorCase> cases = graft::common_operator_cases();
  graft::register_cases(cases);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
