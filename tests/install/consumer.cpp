// Builds a graph, asks for its gradient and runs it, through the installed headers and library alone.
#include <cstdio>

#include "graph/passes/passes.h"
#include "importers/onnx/model.h"
#include "ops/build.h"
#include "runtime/evaluate.h"
#include "runtime/session.h"

int main() {
  using namespace graft;
  Graph graph;
  Value* x = graph.add_input("x", DType::f32, {3});
  Val y = exp(Val(graph, x));
  graph.rename(y.value(), "y");
  graph.outputs = {y.value()};
  Value* seed = constant(graph, Tensor::of<float>({3}, {1, 1, 1})).value();
  graph.outputs.push_back(differentiate(graph, {y.value()}, {seed}, {x})[0]);
  auto results = evaluate(graph, {{"x", Tensor::of<float>({3}, {0, 0, 0})}});
  bool right = results.size() == 2 && results[0].data<float>()[1] == 1 && results[1].data<float>()[2] == 1;
  try {
    OnnxModel::load("no such file.onnx");
    right = false;
  } catch (const Error&) {
  }
  std::puts(right ? "consumer: right" : "consumer: wrong");
  return right ? 0 : 1;
}
