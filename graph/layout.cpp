#include "graph/layout.h"

#include <cstring>

namespace graft {

Layout Layout::plain(const Dims& dims) {
  std::vector<int> order(dims.size());
  for (size_t d = 0; d < dims.size(); ++d) order[d] = static_cast<int>(d);
  return permuted(dims, order);
}

Layout Layout::permuted(const Dims& dims, const std::vector<int>& order) {
  Layout layout;
  layout.padded = dims;
  layout.strides.resize(dims.size());
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    auto d = static_cast<size_t>(order[i]);
    layout.strides[d] = stride;
    stride = checked_mul(stride, std::max<int64_t>(dims[d], 1));
  }
  return layout;
}

Layout Layout::transposed(const std::vector<int64_t>& perm) const {
  Layout layout;
  std::vector<int> position(perm.size());
  for (size_t i = 0; i < perm.size(); ++i) {
    auto d = static_cast<size_t>(perm[i]);
    layout.padded.push_back(padded[d]);
    layout.strides.push_back(strides[d]);
    position[d] = static_cast<int>(i);
  }
  for (const Block& block : blocks) layout.blocks.push_back({position[static_cast<size_t>(block.dim)], block.size});
  if (!layout.blocks.empty()) return layout;
  // Strides of dims of size 1 mean nothing: the plain layout is known to everyone.
  Layout same = plain(layout.padded);
  for (size_t i = 0; i < perm.size(); ++i) {
    if (layout.padded[i] != 1 && layout.strides[i] != same.strides[i]) return layout;
  }
  return same;
}

int64_t Layout::storage_count() const { return element_count(padded); }

int64_t Layout::offset(const Dims& index) const {
  Dims rest = index;
  int64_t offset = 0;
  int64_t inner = 1;
  for (size_t b = blocks.size(); b-- > 0;) {
    auto d = static_cast<size_t>(blocks[b].dim);
    offset += (rest[d] % blocks[b].size) * inner;
    rest[d] /= blocks[b].size;
    inner *= blocks[b].size;
  }
  for (size_t d = 0; d < rest.size(); ++d) offset += rest[d] * strides[d];
  return offset;
}

std::vector<std::vector<int64_t>> Layout::offset_terms(const Dims& dims) const {
  std::vector<std::vector<int64_t>> terms(dims.size());
  for (size_t d = 0; d < dims.size(); ++d) {
    Dims index(dims.size(), 0);
    for (index[d] = 0; index[d] < dims[d]; ++index[d]) terms[d].push_back(offset(index));
  }
  return terms;
}

bool Layout::lies_as(const Layout& other, const Dims& dims) const {
  if (*this == other) return true;
  return !is_padded(dims) && !other.is_padded(dims) && offset_terms(dims) == other.offset_terms(dims);
}

namespace {

// Elements of the dims from `d` on, which begin at `in` and `out`.
template <class Copy>
void copy_dims(const std::vector<std::vector<int64_t>>& from, const std::vector<std::vector<int64_t>>& to, size_t d,
               int64_t in, int64_t out, const Copy& copy) {
  if (d == from.size()) return copy(in, out);
  for (size_t i = 0; i < from[d].size(); ++i) {
    if (d + 1 < from.size()) copy_dims(from, to, d + 1, in + from[d][i], out + to[d][i], copy);
    else copy(in + from[d][i], out + to[d][i]);
  }
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Layout& layout) {
  out << "strides" << layout.strides;
  for (const auto& block : layout.blocks) out << ' ' << block.size << "x[" << block.dim << ']';
  return out;
}

void relayout(const Dims& dims, size_t size, const Layout& from, const void* src, const Layout& to, void* dst) {
  int64_t count = element_count(dims);
  auto* out = static_cast<std::byte*>(dst);
  const auto* in = static_cast<const std::byte*>(src);
  auto bytes = static_cast<int64_t>(size);
  if (to.is_padded(dims)) std::memset(dst, 0, static_cast<size_t>(to.storage_count() * bytes));
  if (count == 0) return;
  if (from == to && !from.is_padded(dims)) {
    std::memcpy(dst, src, static_cast<size_t>(count * bytes));
    return;
  }
  copy_dims(from.offset_terms(dims), to.offset_terms(dims), 0, 0, 0,
            [&](int64_t x, int64_t y) { std::memcpy(out + y * bytes, in + x * bytes, size); });
}

}  // namespace graft
