#include "ops/strided_copy.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "runtime/device/device.h"

namespace graft {
namespace {

constexpr int64_t tile_elements = 4096;

// Axes of extent 1 go, the rest is ordered by destination and merged where both sides allow.
std::vector<CopyAxis> simplified(std::vector<CopyAxis> axes) {
  std::erase_if(axes, [](const CopyAxis& axis) { return axis.extent == 1; });
  std::stable_sort(axes.begin(), axes.end(),
                   [](const CopyAxis& a, const CopyAxis& b) { return std::abs(a.to) > std::abs(b.to); });
  std::vector<CopyAxis> merged;
  for (const CopyAxis& axis : axes) {
    CopyAxis* before = merged.empty() ? nullptr : &merged.back();
    if (before && before->from == axis.from * axis.extent && before->to == axis.to * axis.extent)
      *before = {before->extent * axis.extent, axis.from, axis.to};
    else merged.push_back(axis);
  }
  return merged;
}

// to[r * to_row + c] = from[r + c * from_column], 4 by 4 elements of 4 bytes
void transpose_4x4(const uint32_t* from, int64_t from_column, uint32_t* to, int64_t to_row) {
  uint32_t block[16];
  for (int64_t c = 0; c < 4; ++c) std::memcpy(block + 4 * c, from + c * from_column, 16);
  for (int64_t r = 0; r < 4; ++r) {
    uint32_t row[4] = {block[r], block[4 + r], block[8 + r], block[12 + r]};
    std::memcpy(to + r * to_row, row, 16);
  }
}

template <class T>
void copy_run(const T* from, T* to, int64_t count) {
  constexpr int64_t worth_a_call = 64 / sizeof(T);
  if (count >= worth_a_call) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  }
}

}  // namespace

StridedCopy::StridedCopy(std::vector<CopyAxis> axes, size_t element_size)
    : element_size_(element_size), outer_(simplified(std::move(axes))) {
  if (outer_.empty()) return;
  column_ = outer_.back();
  outer_.pop_back();
  if (!outer_.empty()) {
    auto row = std::min_element(outer_.begin(), outer_.end(), [](const CopyAxis& a, const CopyAxis& b) {
      return std::abs(a.from) < std::abs(b.from);
    });
    transposes_ = std::abs(row->from) < std::abs(column_.from);
    if (!transposes_) row = outer_.end() - 1;
    row_ = *row;
    outer_.erase(row);
  }
  // A tile that transposes has whole cache lines on both sides, and few enough to stay in the nearest cache.
  column_tile_ = std::min<int64_t>(column_.extent, transposes_ ? 64 : 4 * tile_elements);
  row_tile_ = std::min<int64_t>(
      row_.extent, transposes_ ? 64 : std::max<int64_t>(tile_elements / std::max<int64_t>(column_tile_, 1), 1));
}

template <class T>
void StridedCopy::copy_tile(const T* from, T* to, int64_t rows, int64_t columns) const {
  const CopyAxis row = row_, column = column_;
  int64_t first = 0;  // columns before it are done, but for the last rows
  if constexpr (sizeof(T) == 4) {
    if (transposes_ && row.from == 1 && column.to == 1) {
      const int64_t whole = rows / 4 * 4;
      for (; first + 4 <= columns; first += 4) {
        for (int64_t r = 0; r < whole; r += 4)
          transpose_4x4(from + r + first * column.from, column.from, to + r * row.to + first, row.to);
      }
      for (int64_t r = whole; r < rows; ++r) {
        for (int64_t c = 0; c < first; ++c) to[r * row.to + c] = from[r + c * column.from];
      }
    }
  }
  const bool runs = column.from == 1 && column.to == 1;
  for (int64_t r = 0; r < rows; ++r) {
    const T* source = from + r * row.from;
    T* target = to + r * row.to;
    if (runs) copy_run(source, target, columns);
    else
      for (int64_t c = first; c < columns; ++c) target[c * column.to] = source[c * column.from];
  }
}

template <class T>
void StridedCopy::copy(const T* from, T* to) const {
  if (row_.extent == 0 || column_.extent == 0) return;
  const int64_t column_tiles = (column_.extent + column_tile_ - 1) / column_tile_;
  const int64_t row_tiles = (row_.extent + row_tile_ - 1) / row_tile_;
  int64_t tiles = column_tiles * row_tiles;
  for (const CopyAxis& axis : outer_) tiles *= axis.extent;
  parallel_for(tiles, row_tile_ * column_tile_, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t column = tile % column_tiles * column_tile_;
      const int64_t row = tile / column_tiles % row_tiles * row_tile_;
      int64_t rest = tile / column_tiles / row_tiles;
      const T* source = from + row * row_.from + column * column_.from;
      T* target = to + row * row_.to + column * column_.to;
      for (size_t a = outer_.size(); a-- > 0;) {
        const int64_t index = rest % outer_[a].extent;
        rest /= outer_[a].extent;
        source += index * outer_[a].from;
        target += index * outer_[a].to;
      }
      copy_tile(source, target, std::min(row_tile_, row_.extent - row),
                std::min(column_tile_, column_.extent - column));
    }
  });
}

void StridedCopy::operator()(const void* from, void* to) const {
  switch (element_size_) {
    case 1: return copy(static_cast<const uint8_t*>(from), static_cast<uint8_t*>(to));
    case 2: return copy(static_cast<const uint16_t*>(from), static_cast<uint16_t*>(to));
    case 4: return copy(static_cast<const uint32_t*>(from), static_cast<uint32_t*>(to));
    case 8: return copy(static_cast<const uint64_t*>(from), static_cast<uint64_t*>(to));
    default: throw UsageError("elements of ", element_size_, " bytes cannot be copied");
  }
}

std::vector<CopyAxis> copy_axes(const Dims& dims, const Dims& from_strides, const Dims& to_strides) {
  std::vector<CopyAxis> axes;
  for (size_t d = 0; d < dims.size(); ++d) axes.push_back({dims[d], from_strides[d], to_strides[d]});
  return axes;
}

}  // namespace graft
