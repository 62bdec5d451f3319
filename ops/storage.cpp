#include "ops/storage.h"

#include <algorithm>
#include <cstring>

#include "ops/broadcast.h"

namespace graft {
namespace {

// Elements that one step of the outer index of each dim covers.
Dims block_sizes(const Layout& layout) {
  Dims sizes(layout.padded.size(), 1);
  for (const auto& block : layout.blocks) sizes[static_cast<size_t>(block.dim)] *= block.size;
  return sizes;
}

// Stride of each inner block: the product of those inside it.
Dims block_strides(const Layout& layout) {
  Dims strides(layout.blocks.size(), 1);
  for (size_t b = layout.blocks.size(); b-- > 1;) strides[b - 1] = strides[b] * layout.blocks[b].size;
  return strides;
}

// Inner elements of the block at `outer` that lie outside `dims`, appended as runs.
void block_padding(const Dims& dims, const Layout& layout, const Dims& outer, int64_t offset,
                   std::vector<std::pair<int64_t, int64_t>>& runs) {
  Dims sizes = block_sizes(layout);
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  for (int64_t i = 0; i < count; ++i) {
    Dims index(dims.size(), 0);
    Dims unit(dims.size(), 1);
    int64_t rest = i;
    for (size_t b = layout.blocks.size(); b-- > 0;) {
      auto d = static_cast<size_t>(layout.blocks[b].dim);
      index[d] += rest % layout.blocks[b].size * unit[d];
      unit[d] *= layout.blocks[b].size;
      rest /= layout.blocks[b].size;
    }
    bool inside = true;
    for (size_t d = 0; d < dims.size(); ++d) inside &= outer[d] * sizes[d] + index[d] < dims[d];
    if (inside) continue;
    if (!runs.empty() && runs.back().first + runs.back().second == offset + i) ++runs.back().second;
    else runs.emplace_back(offset + i, 1);
  }
}

}  // namespace

std::vector<std::pair<int64_t, int64_t>> padding_runs(const Dims& dims, const Layout& layout) {
  std::vector<std::pair<int64_t, int64_t>> runs;
  if (!layout.is_padded(dims) || layout.storage_count() == 0) return runs;
  Dims sizes = block_sizes(layout);
  Dims extents(dims.size());
  for (size_t d = 0; d < dims.size(); ++d) extents[d] = layout.padded[d] / sizes[d];
  Dims outer(dims.size(), 0);
  for (bool more = true; more;) {
    int64_t offset = 0;
    bool partial = false;
    for (size_t d = 0; d < dims.size(); ++d) {
      offset += outer[d] * layout.strides[d];
      partial |= (outer[d] + 1) * sizes[d] > dims[d];
    }
    if (partial) block_padding(dims, layout, outer, offset, runs);
    more = false;
    for (size_t d = dims.size(); d-- > 0 && !more;) {
      more = ++outer[d] < extents[d];
      if (!more) outer[d] = 0;
    }
  }
  return runs;
}

void zero_padding(const std::vector<std::pair<int64_t, int64_t>>& runs, size_t element_size, void* storage) {
  for (auto [offset, length] : runs) {
    std::memset(static_cast<std::byte*>(storage) + static_cast<size_t>(offset) * element_size, 0,
                static_cast<size_t>(length) * element_size);
  }
}

std::vector<StorageAxis> storage_axes(const std::vector<const Value*>& values) {
  const Value& result = *values[0];
  const size_t rank = result.dims.size();
  // Per operand: strides of its outer axes and inner blocks by the result's dims; 0 where it is broadcast.
  struct Axis : StorageAxis {
    int64_t order;  // outer axes by descending stride, then the blocks
  };
  std::vector<Axis> axes;
  Dims sizes = block_sizes(result.layout);
  for (size_t d = 0; d < rank; ++d)
    axes.push_back({{result.layout.padded[d] / sizes[d], {}}, result.layout.strides[d]});
  for (const auto& block : result.layout.blocks) axes.push_back({{block.size, {}}, 0});
  for (const Value* value : values) {
    const size_t missing = rank - value->dims.size();
    auto broadcast = [&](size_t d) { return d < missing || (value->dims[d - missing] == 1 && result.dims[d] != 1); };
    for (size_t d = 0; d < rank; ++d) axes[d].strides.push_back(broadcast(d) ? 0 : value->layout.strides[d - missing]);
    Dims inner = block_strides(value->layout);
    size_t next = 0;
    for (size_t b = 0; b < result.layout.blocks.size(); ++b) {
      bool skip = broadcast(static_cast<size_t>(result.layout.blocks[b].dim));
      axes[rank + b].strides.push_back(skip ? 0 : inner.at(next++));
    }
  }
  std::stable_sort(axes.begin(), axes.begin() + static_cast<std::ptrdiff_t>(rank),
                   [](const Axis& a, const Axis& b) { return a.order > b.order; });
  std::vector<StorageAxis> merged;
  for (const Axis& axis : axes) {
    if (axis.extent == 1) continue;
    bool joins = !merged.empty();
    for (size_t k = 0; joins && k < values.size(); ++k)
      joins = merged.back().strides[k] == axis.strides[k] * axis.extent;
    if (joins) {
      merged.back().extent *= axis.extent;
      merged.back().strides = axis.strides;
    } else {
      merged.push_back(axis);
    }
  }
  if (merged.empty()) merged.push_back({1, std::vector<int64_t>(values.size(), 1)});
  return merged;
}

Layout broadcast_layout(const Layout& layout, const Dims& dims, const Dims& operand) {
  if (operand == dims) return layout;
  const size_t missing = dims.size() - operand.size();
  auto broadcast = [&](size_t d) { return d < missing || (operand[d - missing] == 1 && dims[d] != 1); };
  Layout result;
  int64_t stride = 1;
  for (const auto& block : layout.blocks) {
    auto d = static_cast<size_t>(block.dim);
    if (broadcast(d)) continue;
    result.blocks.push_back({block.dim - static_cast<int>(missing), block.size});
    stride *= block.size;
  }
  Dims sizes = block_sizes(layout);
  std::vector<size_t> order(dims.size());
  for (size_t d = 0; d < dims.size(); ++d) order[d] = d;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return layout.strides[a] > layout.strides[b]; });
  result.padded = operand;
  result.strides.resize(operand.size());
  for (size_t i = order.size(); i-- > 0;) {
    size_t d = order[i];
    if (d < missing) continue;
    result.strides[d - missing] = stride;
    if (broadcast(d)) continue;
    result.padded[d - missing] = layout.padded[d];
    stride *= std::max<int64_t>(layout.padded[d] / sizes[d], 1);
  }
  // Where only dims of size 1 are out of order, the plain layout is the same and known to everyone.
  Layout plain = Layout::plain(operand);
  if (result.blocks.empty()) {
    bool same = true;
    for (size_t d = 0; d < operand.size(); ++d) same &= operand[d] == 1 || result.strides[d] == plain.strides[d];
    if (same) return plain;
  }
  return result;
}

std::vector<Candidate> propose_broadcast(const Node& node) {
  auto candidates = propose_plain(node);
  const Dims& dims = node.outputs[0]->dims;
  for (const Value* full : node.inputs) {
    if (!full || full->dims != dims || full->layout.is_plain(dims)) continue;
    Candidate as_it_lies;
    for (const Value* v : node.inputs)
      as_it_lies.inputs.push_back(v ? broadcast_layout(full->layout, dims, v->dims) : Layout{});
    as_it_lies.outputs.push_back(full->layout);
    candidates.insert(candidates.begin(), as_it_lies);
    break;
  }
  return candidates;
}

Settlement settle_broadcast(const Node& node, const Settlement*) {
  Settlement settlement;
  const Value& y = *node.outputs[0];
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const Value* x = node.inputs[i];
    bool same = x && x->dims == y.dims && x->layout == y.layout && size_of(x->dtype) == size_of(y.dtype);
    if (same) settlement.in_place.emplace_back(0, static_cast<int>(i));
  }
  return settlement;
}

namespace {

// Whether an operand has one value for all of a dim that is padded in the result.
bool broadcast_into_padding(const Value& x, const Value& y) {
  const size_t missing = y.dims.size() - x.dims.size();
  for (size_t d = 0; d < y.dims.size(); ++d) {
    if (y.layout.padded[d] == y.dims[d]) continue;
    if (d < missing || x.layout.padded[d - missing] != y.layout.padded[d]) return true;
  }
  return false;
}

}  // namespace

Kernel clean_padding(const Node& node, const Binding& binding, Kernel kernel) {
  const Value& y = *node.outputs[0];
  auto runs = padding_runs(y.dims, y.layout);
  if (runs.empty()) return kernel;
  return [=, out = binding.outputs[0], size = size_of(y.dtype)](Stream& stream) {
    kernel(stream);
    zero_padding(runs, size, out);
  };
}

Kernel with_clean_padding(const Node& node, const Binding& binding, bool keeps_zero, Kernel kernel) {
  for (const Value* x : node.inputs) keeps_zero &= !x || !broadcast_into_padding(*x, *node.outputs[0]);
  return keeps_zero ? kernel : clean_padding(node, binding, std::move(kernel));
}

}  // namespace graft
