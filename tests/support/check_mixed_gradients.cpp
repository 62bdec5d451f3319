#include <gtest/gtest.h>

#include <cmath>

#include "graph/passes/passes.h"
#include "ops/op.h"
#include "runtime/evaluate.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

Tensor rounded(const Tensor& tensor) { return tensor.cast(DType::bf16).cast(DType::f32); }

double norm(const Tensor& tensor) {
  double sum = 0;
  for (int64_t i = 0; i < tensor.count(); ++i) sum += std::pow(double{tensor.data<float>()[i]}, 2);
  return std::sqrt(sum);
}

// Outputs and gradients by name. Operands and seeds are numbers that bfloat16 has.
std::map<std::string, Tensor> results(const std::string& text, const Feeds& feeds, const std::set<std::string>& fixed,
                                      bool mixed) {
  auto graph = graph_from_text(text);
  std::map<std::string, Tensor> given;
  std::vector<std::string> names;
  std::vector<Value*> wanted;
  unsigned seed = 1;
  for (Value* input : graph->inputs) {
    auto found = feeds.find(input->name);
    given[input->name] =
        rounded(found == feeds.end() ? random_feed(DType::f32, input->dims, 0.3, 2, ++seed) : found->second);
    if (!fixed.count(input->name)) wanted.push_back(input);
  }
  for (const Value* output : graph->outputs) names.push_back(output->name);
  Value* cotangent = graph->add_constant(rounded(random_feed(DType::f32, graph->outputs[0]->dims, -1, 1, 99)));
  auto gradients = differentiate(*graph, {graph->outputs[0]}, {cotangent}, wanted);
  for (size_t i = 0; i < wanted.size(); ++i) {
    names.push_back("gradient of " + wanted[i]->name);
    graph->outputs.push_back(gradients[i]);
  }
  graph->prune();
  if (mixed) {
    EXPECT_GT(mix_precision(*graph).low, 1) << "no kernels for bfloat16";
  }
  verify(*graph);
  std::map<std::string, Tensor> all;
  std::vector<Tensor> values = evaluate(*graph, given);
  for (size_t i = 0; i < names.size(); ++i) all[names[i]] = values[i];
  return all;
}

}  // namespace

void check_mixed_gradients(const std::string& text, const Feeds& feeds, const std::set<std::string>& fixed,
                           double tolerance) {
  SCOPED_TRACE(cat(text, " in bfloat16, with gradients"));
  auto expected = results(text, feeds, fixed, false);
  double global = 0;
  for (const auto& [name, tensor] : expected) global = std::max(global, norm(tensor));
  for (const auto& [name, got] : results(text, feeds, fixed, true)) {
    Tensor off(DType::f32, got.dims());
    const Tensor& wanted = expected.at(name);
    for (int64_t i = 0; i < off.count(); ++i) off.data<float>()[i] = got.data<float>()[i] - wanted.data<float>()[i];
    EXPECT_LE(norm(off), tolerance * std::max(norm(wanted), 1e-3 * global)) << name;
  }
}

}  // namespace graft::test
