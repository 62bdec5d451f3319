// Arithmetic on graph values: what gradient rules, losses and decompositions are written in. Every call adds a node to
// the graph of its operand, before the graph's insertion point, and infers its shape; nothing is computed.
#pragma once

#include <initializer_list>

#include "graph/graph.h"

namespace graft {

// A graph value that adds nodes when used in arithmetic. Empty: no value.
class Val {
 public:
  Val() = default;
  Val(Graph& graph, Value* value) : graph_(value ? &graph : nullptr), value_(value) {}

  explicit operator bool() const { return value_ != nullptr; }
  Value* value() const { return value_; }
  Graph& graph() const { return *graph_; }
  DType dtype() const { return value_->dtype; }
  const Dims& dims() const { return value_->dims; }
  int64_t rank() const { return static_cast<int64_t>(value_->dims.size()); }
  int64_t dim(int64_t axis) const { return value_->dims[static_cast<size_t>(axis < 0 ? axis + rank() : axis)]; }

 private:
  Graph* graph_ = nullptr;
  Value* value_ = nullptr;
};

// Adds a node and infers its results. Empty operands are absent ones; at least one must not be empty.
std::vector<Val> call(const std::string& domain, const std::string& type, const std::vector<Val>& operands,
                      size_t output_count, Attributes attributes = {});
// One result of an ONNX operator.
Val call(const std::string& type, const std::vector<Val>& operands, Attributes attributes = {});

Val constant(Graph& graph, Tensor data);
Val constant_like(const Val& x, double value);                  // a scalar of x's dtype
Val indices(Graph& graph, const std::vector<int64_t>& values);  // a 1-D int64 constant

// ONNX broadcasting applies to all binary operations.
Val operator+(const Val& a, const Val& b);
Val operator-(const Val& a, const Val& b);
Val operator*(const Val& a, const Val& b);
Val operator/(const Val& a, const Val& b);
Val operator-(const Val& a);
Val operator+(const Val& a, double b);
Val operator-(const Val& a, double b);
Val operator*(const Val& a, double b);
Val operator/(const Val& a, double b);
Val operator+(double a, const Val& b);
Val operator-(double a, const Val& b);
Val operator*(double a, const Val& b);
Val operator/(double a, const Val& b);

Val exp(const Val& x);
Val log(const Val& x);
Val sqrt(const Val& x);
Val abs(const Val& x);
Val sign(const Val& x);
Val tanh(const Val& x);
Val pow(const Val& x, double exponent);
Val equal(const Val& a, const Val& b);    // bool
Val less(const Val& a, const Val& b);     // bool
Val greater(const Val& a, const Val& b);  // bool
Val where(const Val& condition, const Val& a, const Val& b);
Val cast(const Val& x, DType dtype);  // x itself when it has the dtype
Val matmul(const Val& a, const Val& b);
Val sum(const Val& x, const std::vector<int64_t>& axes, bool keepdims);
Val reshape(const Val& x, const Dims& dims);  // x itself when it has these dims
Val transpose(const Val& x, const std::vector<int64_t>& perm);
Val swap_last_axes(const Val& x);            // transpose of the last two axes
Val expand(const Val& x, const Dims& dims);  // x itself when it has these dims
Val unsqueeze(const Val& x, const std::vector<int64_t>& axes);
// Sums a gradient over the axes along which an operand of `dims` was broadcast.
Val unbroadcast(const Val& gradient, const Dims& dims);

}  // namespace graft
