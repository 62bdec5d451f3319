#include "ops/build.h"

#include <algorithm>
#include <numeric>

#include "ops/op.h"

namespace graft {

std::vector<Val> call(const std::string& domain, const std::string& type, const std::vector<Val>& operands,
                      size_t output_count, Attributes attributes) {
  Graph* graph = nullptr;
  std::vector<Value*> inputs;
  for (const Val& operand : operands) {
    if (operand) graph = &operand.graph();
    inputs.push_back(operand.value());
  }
  if (!graph) throw UsageError("call of ", type, " without an operand");
  Node* node = graph->add_node(domain, type, std::move(inputs), output_count, std::move(attributes));
  infer(*node);
  std::vector<Val> results;
  for (Value* output : node->outputs) results.emplace_back(*graph, output);
  return results;
}

Val call(const std::string& type, const std::vector<Val>& operands, Attributes attributes) {
  return call("", type, operands, 1, std::move(attributes))[0];
}

Val constant(Graph& graph, Tensor data) { return {graph, graph.add_constant(std::move(data))}; }

Val constant_like(const Val& x, double value) {
  return constant(x.graph(), Tensor::scalar<double>(value).cast(x.dtype()));
}

Val indices(Graph& graph, const std::vector<int64_t>& values) {
  return constant(graph, Tensor::of<int64_t>({static_cast<int64_t>(values.size())}, values));
}

Val operator+(const Val& a, const Val& b) { return call("Add", {a, b}); }
Val operator-(const Val& a, const Val& b) { return call("Sub", {a, b}); }
Val operator*(const Val& a, const Val& b) { return call("Mul", {a, b}); }
Val operator/(const Val& a, const Val& b) { return call("Div", {a, b}); }
Val operator-(const Val& a) { return call("Neg", {a}); }
Val operator+(const Val& a, double b) { return a + constant_like(a, b); }
Val operator-(const Val& a, double b) { return a - constant_like(a, b); }
Val operator*(const Val& a, double b) { return a * constant_like(a, b); }
Val operator/(const Val& a, double b) { return a / constant_like(a, b); }
Val operator+(double a, const Val& b) { return constant_like(b, a) + b; }
Val operator-(double a, const Val& b) { return constant_like(b, a) - b; }
Val operator*(double a, const Val& b) { return constant_like(b, a) * b; }
Val operator/(double a, const Val& b) { return constant_like(b, a) / b; }

Val exp(const Val& x) { return call("Exp", {x}); }
Val log(const Val& x) { return call("Log", {x}); }
Val sqrt(const Val& x) { return call("Sqrt", {x}); }
Val abs(const Val& x) { return call("Abs", {x}); }
Val sign(const Val& x) { return call("Sign", {x}); }
Val tanh(const Val& x) { return call("Tanh", {x}); }
Val pow(const Val& x, double exponent) { return call("Pow", {x, constant_like(x, exponent)}); }
Val equal(const Val& a, const Val& b) { return call("Equal", {a, b}); }
Val less(const Val& a, const Val& b) { return call("Less", {a, b}); }
Val greater(const Val& a, const Val& b) { return call("Greater", {a, b}); }
Val where(const Val& condition, const Val& a, const Val& b) { return call("Where", {condition, a, b}); }
Val matmul(const Val& a, const Val& b) { return call("MatMul", {a, b}); }

Val cast(const Val& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return call("Cast", {x}, {{"to", onnx_dtype(dtype)}});
}

Val sum(const Val& x, const std::vector<int64_t>& axes, bool keepdims) {
  return call("ReduceSum", {x, indices(x.graph(), axes)}, {{"keepdims", int64_t{keepdims}}});
}

Val reshape(const Val& x, const Dims& dims) {
  if (x.dims() == dims) return x;
  return call("Reshape", {x, indices(x.graph(), dims)}, {{"allowzero", int64_t{1}}});
}

Val transpose(const Val& x, const std::vector<int64_t>& perm) { return call("Transpose", {x}, {{"perm", perm}}); }

Val swap_last_axes(const Val& x) {
  std::vector<int64_t> perm(static_cast<size_t>(x.rank()));
  std::iota(perm.begin(), perm.end(), int64_t{0});
  std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
  return transpose(x, perm);
}

Val expand(const Val& x, const Dims& dims) {
  if (x.dims() == dims) return x;
  return call("Expand", {x, indices(x.graph(), dims)});
}

Val unsqueeze(const Val& x, const std::vector<int64_t>& axes) {
  return call("Unsqueeze", {x, indices(x.graph(), axes)});
}

Val unbroadcast(const Val& gradient, const Dims& dims) {
  if (gradient.dims() == dims) return gradient;
  auto extra = gradient.dims().size() - dims.size();
  std::vector<int64_t> axes;
  for (size_t d = 0; d < gradient.dims().size(); ++d) {
    if (d < extra || (dims[d - extra] == 1 && gradient.dims()[d] != 1)) axes.push_back(static_cast<int64_t>(d));
  }
  return reshape(axes.empty() ? gradient : sum(gradient, axes, true), dims);
}

}  // namespace graft
