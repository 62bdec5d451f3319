#include "ops/axes.h"

#include <algorithm>
#include <numeric>

namespace graft {

size_t checked_axis(const Node& node, int64_t axis, size_t rank) {
  auto r = static_cast<int64_t>(rank);
  if (axis < -r || axis >= r)
    throw ModelError(node.where(), " axis ", axis, " out of range for rank ", r, ": allowed ", -r, " to ", r - 1);
  return static_cast<size_t>(axis < 0 ? axis + r : axis);
}

std::vector<size_t> checked_axes(const Node& node, const std::vector<int64_t>& axes, size_t rank) {
  std::vector<size_t> checked;
  for (int64_t axis : axes) checked.push_back(checked_axis(node, axis, rank));
  std::sort(checked.begin(), checked.end());
  auto twice = std::adjacent_find(checked.begin(), checked.end());
  if (twice != checked.end()) throw ModelError(node.where(), " names axis ", *twice, " twice");
  return checked;
}

std::optional<Layout> layout_for_transpose(const Value& value) {
  const Node* behind = value.users.size() == 1 ? value.users[0] : nullptr;
  if (!behind || behind->type != "Transpose" || !behind->domain.empty()) return std::nullopt;
  const std::vector<int64_t> perm = transpose_perm(*behind);
  if (perm.size() != value.dims.size()) return std::nullopt;
  return Layout::plain(behind->outputs[0]->dims).transposed(inverse_perm(perm));
}

std::vector<int64_t> constant_integers(const Node& node, size_t i) {
  const Value* value = node.input(i);
  if (!value || !value->is_constant())
    throw UnsupportedError(node.where(), " needs operand ", i, " to be known before the first step");
  return value->data.to_int64();
}

std::vector<int64_t> transpose_perm(const Node& node) {
  std::vector<int64_t> reversed(node.inputs[0]->dims.size());
  std::iota(reversed.rbegin(), reversed.rend(), int64_t{0});
  return node.integers("perm", reversed);
}

std::vector<int64_t> inverse_perm(const std::vector<int64_t>& perm) {
  std::vector<int64_t> inverse(perm.size());
  for (size_t i = 0; i < perm.size(); ++i) inverse[static_cast<size_t>(perm[i])] = static_cast<int64_t>(i);
  return inverse;
}

int64_t read_integer(DType dtype, const void* data, int64_t index) {
  switch (dtype) {
    case DType::i64: return static_cast<const int64_t*>(data)[index];
    case DType::i32: return static_cast<const int32_t*>(data)[index];
    case DType::i16: return static_cast<const int16_t*>(data)[index];
    case DType::i8: return static_cast<const int8_t*>(data)[index];
    case DType::u8: return static_cast<const uint8_t*>(data)[index];
    case DType::u16: return static_cast<const uint16_t*>(data)[index];
    case DType::u32: return static_cast<const uint32_t*>(data)[index];
    default: throw UnsupportedError("indices of ", dtype, " are not supported");
  }
}

}  // namespace graft
