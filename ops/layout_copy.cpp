#include "ops/layout_copy.h"

#include <algorithm>

#include "ops/element_size.h"
#include "ops/strided_copy.h"

namespace graft {
namespace {

// Elements with equal steps on both sides, and where the first lies.
struct Box {
  int64_t from = 0, to = 0;
  std::vector<CopyAxis> axes;
};

using Offsets = std::vector<int64_t>;

// As few boxes as index i of a dim needs, which lies at from[i] and to[i]. A run of equal steps is an axis; so are runs
// that are alike, as far as the first elements of each make boxes in their turn: blocks, and blocks of blocks.
std::vector<Box> boxes_of(const Offsets& from, const Offsets& to) {
  std::vector<Box> boxes;
  const size_t size = from.size();
  for (size_t begin = 0, run = 1, runs = 1; begin < size; begin += run * runs) {
    auto step = [&](const Offsets& at, size_t i) { return i < size ? at[i] - at[i - 1] : 0; };
    const CopyAxis axis{0, step(from, begin + 1), step(to, begin + 1)};
    auto goes_on = [&](size_t i) { return i < size && step(from, i) == axis.from && step(to, i) == axis.to; };
    for (run = 1; goes_on(begin + run);) ++run;
    auto is_run = [&](size_t first) {
      for (size_t i = 1; i < run; ++i) {
        if (!goes_on(first + i)) return false;
      }
      return first < size;
    };
    Offsets from_starts, to_starts;
    for (runs = 0; is_run(begin + runs * run); ++runs) {
      from_starts.push_back(from[begin + runs * run]);
      to_starts.push_back(to[begin + runs * run]);
    }
    std::vector<Box> starts =
        runs == 1 ? std::vector<Box>{{from[begin], to[begin], {}}} : boxes_of(from_starts, to_starts);
    for (Box& box : starts) {
      box.axes.push_back({static_cast<int64_t>(run), axis.from, axis.to});
      boxes.push_back(std::move(box));
    }
  }
  return boxes;
}

bool is_blocked(const Layout& layout, size_t d) {
  return std::any_of(layout.blocks.begin(), layout.blocks.end(),
                     [d](const Layout::Block& block) { return block.dim == static_cast<int>(d); });
}

// Indices of a tensor: [begin, end) of every dim.
struct Region {
  Dims begin, end;
};

Offsets offsets_of(const Layout& layout, const Region& region, size_t d) {
  Offsets offsets;
  Dims index(region.end.size(), 0);
  for (index[d] = region.begin[d]; index[d] < region.end[d]; ++index[d]) offsets.push_back(layout.offset(index));
  return offsets;
}

std::vector<Box> boxes_of(const Layout& from, const Layout& to, const Region& region, size_t d) {
  if (is_blocked(from, d) || is_blocked(to, d)) return boxes_of(offsets_of(from, region, d), offsets_of(to, region, d));
  const int64_t begin = region.begin[d];
  return {{begin * from.strides[d], begin * to.strides[d], {{region.end[d] - begin, from.strides[d], to.strides[d]}}}};
}

std::vector<Box> boxes_of(const Layout& from, const Layout& to, const Region& region) {
  std::vector<Box> boxes{{}};
  for (size_t d = 0; d < region.end.size(); ++d) {
    std::vector<Box> longer;
    for (const Box& more : boxes_of(from, to, region, d)) {
      for (Box box : boxes) {
        box.from += more.from;
        box.to += more.to;
        box.axes.insert(box.axes.end(), more.axes.begin(), more.axes.end());
        longer.push_back(std::move(box));
      }
    }
    boxes = std::move(longer);
  }
  return boxes;
}

class Boxes {
 public:
  explicit Boxes(const LayoutCopy& copy) : from_size_(size_of(copy.dtype)), to_size_(size_of(copy.to_dtype)) {
    // What both sides pad is zero at the source already.
    const size_t rank = copy.dims.size();
    Region region{Dims(rank, 0), {}};
    for (size_t d = 0; d < rank; ++d) region.end.push_back(std::min(copy.from.padded[d], copy.to.padded[d]));
    add(boxes_of(copy.from, copy.to, region), false);
    Layout zeros = Layout::plain(copy.dims);
    std::fill(zeros.strides.begin(), zeros.strides.end(), 0);
    for (size_t d = 0; d < rank; ++d) {
      region.begin[d] = region.end[d];
      region.end[d] = copy.to.padded[d];
      if (region.begin[d] < region.end[d]) add(boxes_of(zeros, copy.to, region), true);
      region.begin[d] = 0;
    }
  }

  void run(const std::byte* from, std::byte* to) const {
    for (const Part& part : parts_) part.copy(part.is_zero ? zero : from + part.from, to + part.to);
  }

 private:
  struct Part {
    StridedCopy copy;
    bool is_zero;
    int64_t from, to;  // bytes
  };
  alignas(sizeof(double)) static constexpr std::byte zero[sizeof(double)] = {};

  void add(std::vector<Box> boxes, bool is_zero) {
    for (Box& box : boxes) {
      const bool narrows = from_size_ != to_size_ && !is_zero;
      parts_.push_back(
          {narrows ? StridedCopy::narrowing(std::move(box.axes)) : StridedCopy(std::move(box.axes), to_size_), is_zero,
           box.from * static_cast<int64_t>(from_size_), box.to * static_cast<int64_t>(to_size_)});
    }
  }

  size_t from_size_, to_size_;
  std::vector<Part> parts_;
};

}  // namespace

Kernel prepare_layout_copy(const Node& node, const LayoutCopy& copy, const void* from, void* to) {
  if (element_count(copy.dims) == 0) return {};
  with_element_size(node, copy.dtype, [](auto) {});  // or it says why not
  const bool narrows = copy.dtype == DType::f32 && copy.to_dtype == DType::bf16;
  if (copy.dtype != copy.to_dtype && !narrows)
    throw UnsupportedError(node.where(), " has no kernel from ", copy.dtype, " to ", copy.to_dtype);
  return [=, boxes = Boxes(copy)](Stream&) {
    boxes.run(static_cast<const std::byte*>(from), static_cast<std::byte*>(to));
  };
}

}  // namespace graft
