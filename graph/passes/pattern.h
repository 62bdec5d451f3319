// What recognise looks at graphs with: constants by value, products and sums in any order, closed regions.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "graph/graph.h"

namespace graft::pattern {

// The value of a floating-point constant with one element.
std::optional<double> number(const Value* value);
// Equal up to float32 rounding.
bool is_about(double value, double wanted);
inline bool is_number(const Value* value, double wanted) {
  auto found = number(value);
  return found && is_about(*found, wanted);
}

// The ONNX node of this type that gives `value`; nullptr otherwise.
const Node* made_by(const Value* value, std::string_view type);

// coefficient * product(factors). Steps through Mul, Div by a number and Pow with a small whole exponent, as long as a
// result has no other use.
struct Product {
  double coefficient = 1;
  std::vector<Value*> factors;
  // Whether the factors are these, in any order.
  bool is(double wanted_coefficient, std::vector<const Value*> wanted) const;
  // The factor beside `one` of exactly two; nullptr otherwise.
  Value* beside(const Value* one) const;
};
Product product_of(Value* value);

// shift + sum(terms): through Add, and Sub of a number.
struct Sum {
  double shift = 0;
  std::vector<Value*> terms;
};
Sum sum_of(Value* value);

// Axes that a Reduce... node reduces, not negative, sorted; nullopt where they are not constant.
std::optional<std::vector<int64_t>> reduced_axes(const Node& node);

// Whether everything between `inputs` and the result of `root` is of use for that result only.
bool is_closed(const Graph& graph, const Node& root, const std::vector<const Value*>& inputs);

// Values that others than nodes of the graph itself read: outputs, what states become, what bodies capture.
std::unordered_set<const Value*> kept_values(const Graph& graph);

// Result `index` of `node` takes over the uses and the name of `result`; it is dropped where that is nullptr.
void take_over(Graph& graph, Value* result, Node* node, size_t index);

// Calls `join` on every node of this type, an ONNX node unless a domain is given, of which it may erase any that it has
// been called on; returns how often it was true. The graph's provenance is as before.
int join_each(Graph& graph, std::string_view type, const std::function<bool(Node*)>& join,
              std::string_view domain = "");

// Puts `replacement` in the place of `old_value`, with its name, and erases what nothing uses any more.
void replace(Graph& graph, Value* old_value, Value* replacement);

}  // namespace graft::pattern
