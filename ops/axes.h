// Axes and other small integer operands of nodes.
#pragma once

#include "graph/graph.h"

namespace graft {

// `axis` counted from the front. ModelError when it is outside -rank to rank-1.
size_t checked_axis(const Node& node, int64_t axis, size_t rank);
// The same for several, sorted. ModelError for one given twice.
std::vector<size_t> checked_axes(const Node& node, const std::vector<int64_t>& axes, size_t rank);
// The permutation of a Transpose node, reversed dims by default; and the one that undoes a permutation.
std::vector<int64_t> transpose_perm(const Node& node);
std::vector<int64_t> inverse_perm(const std::vector<int64_t>& perm);
// The layout of a value that leaves the only node behind it, a Transpose, plain; nullopt where there is none such.
std::optional<Layout> layout_for_transpose(const Value& value);
// The integers of operand i. UnsupportedError where they are not known at plan time.
std::vector<int64_t> constant_integers(const Node& node, size_t i);
// The integer of operand i as it is found when the node runs.
int64_t read_integer(DType dtype, const void* data, int64_t index);

}  // namespace graft
