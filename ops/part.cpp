#include "ops/part.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/element_size.h"
#include "ops/strided_copy.h"

namespace graft {
namespace {

int64_t block_size(const Layout& layout, size_t d) {
  int64_t size = 1;
  for (const auto& block : layout.blocks) size *= block.dim == static_cast<int>(d) ? block.size : 1;
  return size;
}

// Axes of the copy between the part within `whole` and on its own, outer axes by blocks; offset of its first element.
std::vector<CopyAxis> part_axes(const Part& part, const Layout& whole, const Layout& alone, int64_t& offset) {
  std::vector<CopyAxis> axes;
  offset = 0;
  for (size_t d = 0; d < part.counts.size(); ++d) {
    const int64_t block = block_size(whole, d);
    axes.push_back({alone.padded[d] / block, whole.strides[d] * part.steps[d], alone.strides[d]});
    offset += part.starts[d] / block * whole.strides[d];
  }
  int64_t stride = 1;
  for (size_t b = whole.blocks.size(); b-- > 0;) {
    axes.push_back({whole.blocks[b].size, stride, stride});
    stride *= whole.blocks[b].size;
  }
  return axes;
}

}  // namespace

Part Part::whole(const Dims& dims) { return {Dims(dims.size(), 0), Dims(dims.size(), 1), dims}; }

Part Part::range(const Dims& dims, size_t axis, int64_t start, int64_t count) {
  Part part = whole(dims);
  part.starts[axis] = start;
  part.counts[axis] = count;
  return part;
}

Layout layout_like(const Layout& layout, const Dims& dims) {
  std::vector<int> order(dims.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return layout.strides[static_cast<size_t>(a)] > layout.strides[static_cast<size_t>(b)];
  });
  Dims outer = dims;
  int64_t inner = 1;
  for (size_t d = 0; d < dims.size(); ++d) {
    const int64_t block = block_size(layout, d);
    outer[d] = (dims[d] + block - 1) / block;
    inner *= block;
  }
  Layout like = Layout::permuted(outer, order);
  for (size_t d = 0; d < dims.size(); ++d) {
    like.strides[d] = checked_mul(like.strides[d], inner);
    like.padded[d] = checked_mul(outer[d], block_size(layout, d));
  }
  like.blocks = layout.blocks;
  std::vector<int64_t> same(dims.size());
  std::iota(same.begin(), same.end(), int64_t{0});
  return like.transposed(same);
}

bool has_whole_blocks(const Part& part, const Dims& dims, const Layout& layout) {
  for (size_t d = 0; d < dims.size(); ++d) {
    const int64_t block = block_size(layout, d);
    if (block == 1) continue;
    const int64_t end = part.starts[d] + part.counts[d];
    if (part.steps[d] != 1 || part.starts[d] % block || (part.counts[d] % block && end != dims[d])) return false;
  }
  return true;
}

Move take_part(const Node& node, const Part& part, const Value& whole, const Value& taken) {
  if (element_count(part.counts) == 0) return [](const void*, void*) {};
  int64_t offset = 0;
  StridedCopy copy(part_axes(part, whole.layout, taken.layout, offset), size_of(taken.dtype));
  return with_element_size(node, taken.dtype, [&]<class T>(T) -> Move {
    return [=](const void* from, void* to) { copy(static_cast<const T*>(from) + offset, to); };
  });
}

Move put_part(const Node& node, const Part& part, const Value& put, const Value& whole) {
  if (element_count(part.counts) == 0) return [](const void*, void*) {};
  int64_t offset = 0;
  auto axes = part_axes(part, whole.layout, put.layout, offset);
  for (CopyAxis& axis : axes) std::swap(axis.from, axis.to);
  StridedCopy copy(std::move(axes), size_of(put.dtype));
  return with_element_size(node, put.dtype, [&]<class T>(T) -> Move {
    return [=](const void* from, void* to) { copy(from, static_cast<T*>(to) + offset); };
  });
}

int64_t storage_bytes(const Value& value) {
  return checked_mul(value.layout.storage_count(), static_cast<int64_t>(size_of(value.dtype)));
}

void fill_zero(void* storage, int64_t bytes) {
  constexpr int64_t page = 4096;
  parallel_for((bytes + page - 1) / page, page / 4, [=](int64_t begin, int64_t end) {
    std::memset(static_cast<std::byte*>(storage) + begin * page, 0,
                static_cast<size_t>(std::min(end * page, bytes) - begin * page));
  });
}

}  // namespace graft
