#include "ops/strided_copy.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "ops/bfloat16_loops.h"
#include "ops/copy_loops.h"
#include "runtime/device/device.h"

namespace graft {
namespace {

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

// One element, at any address.
template <class T>
void put(const T* from, T* to) {
  std::memcpy(to, from, sizeof(T));
}
void put(const float* from, BFloat16* to) { to->bits = to_bf16(*from); }
void put(const FloatPair* from, BFloat16Pair* to) {
  put(&from->first, &to->first);
  put(&from->second, &to->second);
}

template <class T>
void put_run(const T* from, T* to, int64_t count) {
  constexpr int64_t worth_a_call = 64 / sizeof(T);
  if (count >= worth_a_call) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
  } else {
    for (int64_t i = 0; i < count; ++i) put(from + i, to + i);
  }
}
void put_run(const float* from, BFloat16* to, int64_t count) { to_bfloat16(from, to, count); }
void put_run(const FloatPair* from, BFloat16Pair* to, int64_t count) {
  to_bfloat16(&from->first, &to->first, 2 * count);
}

}  // namespace

StridedCopy::StridedCopy(std::vector<CopyAxis> axes, size_t element_size, bool narrows)
    : element_size_(element_size), narrows_(narrows), outer_(simplified(std::move(axes))) {
  if (outer_.empty()) return;
  widen();
  take_tile();
  cut();
}

// Two elements that stay side by side are one of twice the size.
void StridedCopy::widen() {
  while (outer_.size() > 1 && element_size_ < sizeof(uint64_t)) {
    const CopyAxis last = outer_.back();
    if (last.extent != 2 || last.from != 1 || last.to != 1) return;
    if (std::any_of(outer_.begin(), outer_.end() - 1,
                    [](const CopyAxis& axis) { return axis.from % 2 != 0 || axis.to % 2 != 0; }))
      return;
    outer_.pop_back();
    for (CopyAxis& axis : outer_) axis = {axis.extent, axis.from / 2, axis.to / 2};
    element_size_ *= 2;
  }
}

CopyAxis StridedCopy::take(std::vector<CopyAxis>::iterator axis) {
  CopyAxis taken = *axis;
  outer_.erase(axis);
  return taken;
}

void StridedCopy::take_tile() {
  auto closest_at_source = [this] {
    return std::min_element(outer_.begin(), outer_.end(),
                            [](const CopyAxis& a, const CopyAxis& b) { return std::abs(a.from) < std::abs(b.from); });
  };
  auto longest = [this] {
    return std::max_element(outer_.begin(), outer_.end(),
                            [](const CopyAxis& a, const CopyAxis& b) { return a.extent < b.extent; });
  };
  column_ = take(outer_.end() - 1);
  if (outer_.empty()) {
    if (column_.from == 1 && column_.to == 1) move_ = Move::runs;
    return;
  }
  const CopyAxis next = outer_.back();
  if (narrows_ && element_size_ == sizeof(float) && column_.extent == 2 && column_.to == 1 && next.from == 1 &&
      next.to == 2) {
    move_ = Move::pairs;
    odd_ = column_.from;
    column_ = take(outer_.end() - 1);
    if (!outer_.empty()) row_ = take(closest_at_source());
  } else if (column_.from == 1 && column_.to == 1) {
    move_ = Move::runs;
    row_ = take(longest());
  } else {
    auto row = closest_at_source();
    const bool transposes = std::abs(row->from) < std::abs(column_.from);
    row_ = take(transposes ? row : outer_.end() - 1);
    if (row_.from == 1 && column_.to == 1 && element_size_ > 1) move_ = Move::squares;
  }
}

void StridedCopy::cut() {
  if (move_ == Move::squares || (move_ == Move::elements && std::abs(row_.from) < std::abs(column_.from))) {
    // Whole cache lines on both sides, and few enough to stay in the nearest cache.
    constexpr int64_t tile = 64;
    column_tile_ = std::min(column_.extent, tile);
    row_tile_ = std::min(row_.extent, tile);
  } else {
    constexpr int64_t elements = 4096;
    column_tile_ = std::min(column_.extent, 4 * elements);
    row_tile_ = std::min(row_.extent, std::max<int64_t>(elements / std::max<int64_t>(column_tile_, 1), 1));
  }
  for (const CopyAxis& axis : outer_) steps_.push_back({axis.extent, axis.from, axis.to, 0, 0});
  auto tiles = [](int64_t extent, int64_t tile) { return (extent + tile - 1) / std::max<int64_t>(tile, 1); };
  steps_.push_back({tiles(row_.extent, row_tile_), row_tile_ * row_.from, row_tile_ * row_.to, row_tile_, 0});
  steps_.push_back(
      {tiles(column_.extent, column_tile_), column_tile_ * column_.from, column_tile_ * column_.to, 0, column_tile_});
  for (const Step& step : steps_) tiles_ *= step.extent;
  std::erase_if(steps_, [](const Step& step) { return step.extent == 1; });
  // Tiles that lie close on either side come one after the other.
  auto distance = [](const Step& step) { return std::min(std::abs(step.from), std::abs(step.to)); };
  std::stable_sort(steps_.begin(), steps_.end(),
                   [&](const Step& a, const Step& b) { return distance(a) > distance(b); });
}

template <class From, class To>
void StridedCopy::copy_tile(const From* from, To* to, int64_t rows, int64_t columns) const {
  const CopyAxis row = row_, column = column_;
  if constexpr (sizeof(From) > 1) {
    if (move_ == Move::squares) return transpose_tile(from, column.from, to, row.to, rows, columns);
  }
  if constexpr (std::is_same_v<From, float>) {
    if (move_ == Move::pairs) return interleave_tile(from, row.from, odd_, to, row.to, rows, columns);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const From* source = from + r * row.from;
    To* target = to + r * row.to;
    if (move_ == Move::runs) put_run(source, target, columns);
    else
      for (int64_t c = 0; c < columns; ++c) put(source + c * column.from, target + c * column.to);
  }
}

// A position among tiles, and how many elements of rows and columns lie before it.
class StridedCopy::Walk {
 public:
  Walk(const std::vector<Step>& steps, int64_t tile) : steps_(steps) {
    for (size_t s = steps.size(); s-- > 0; tile /= steps[s].extent) {
      index_[s] = tile % steps[s].extent;
      move(steps[s], index_[s]);
    }
  }

  void next() {
    for (size_t s = steps_.size(); s-- > 0;) {
      if (++index_[s] < steps_[s].extent) return move(steps_[s], 1);
      move(steps_[s], 1 - steps_[s].extent);
      index_[s] = 0;
    }
  }

  int64_t from = 0, to = 0, row = 0, column = 0;

 private:
  void move(const Step& step, int64_t times) {
    from += times * step.from;
    to += times * step.to;
    row += times * step.row;
    column += times * step.column;
  }

  const std::vector<Step>& steps_;
  std::array<int64_t, std::numeric_limits<int64_t>::digits> index_;  // as many extents of 2 have a product
};

template <class From, class To>
void StridedCopy::copy_tiles(const From* from, To* to, int64_t begin, int64_t end) const {
  Walk at(steps_, begin);
  for (int64_t tile = begin; tile < end; ++tile, at.next()) {
    copy_tile(from + at.from, to + at.to, std::min(row_tile_, row_.extent - at.row),
              std::min(column_tile_, column_.extent - at.column));
  }
}

template <class From, class To>
void StridedCopy::copy(const void* from, void* to) const {
  const int64_t cost = row_tile_ * column_tile_ * (move_ == Move::pairs ? 2 : 1);
  parallel_for(tiles_, cost, [=, this](int64_t begin, int64_t end) {
    copy_tiles(static_cast<const From*>(from), static_cast<To*>(to), begin, end);
  });
}

void StridedCopy::operator()(const void* from, void* to) const {
  if (narrows_)
    return element_size_ == sizeof(float) ? copy<float, BFloat16>(from, to) : copy<FloatPair, BFloat16Pair>(from, to);
  switch (element_size_) {
    case 1: return copy<uint8_t, uint8_t>(from, to);
    case 2: return copy<uint16_t, uint16_t>(from, to);
    case 4: return copy<uint32_t, uint32_t>(from, to);
    case 8: return copy<uint64_t, uint64_t>(from, to);
    default: throw UsageError("elements of ", element_size_, " bytes cannot be copied");
  }
}

std::vector<CopyAxis> copy_axes(const Dims& dims, const Dims& from_strides, const Dims& to_strides) {
  std::vector<CopyAxis> axes;
  for (size_t d = 0; d < dims.size(); ++d) axes.push_back({dims[d], from_strides[d], to_strides[d]});
  return axes;
}

}  // namespace graft
