#include "ops/layout_copy.h"

#include <algorithm>
#include <numeric>
#include <string_view>

#include "ops/bfloat16_loops.h"
#include "ops/element_size.h"
#include "ops/strided_copy.h"
#include "runtime/device/cpu/dnnl.h"

namespace graft {
namespace {

struct Settled {
  dnnl::memory::desc from, to;
  dnnl::reorder::primitive_desc descriptor;
};

// The same copy with dims in the order in which the blocked layout lies: oneDNN has names for few other orders.
LayoutCopy in_storage_order(const LayoutCopy& copy) {
  if (copy.from.blocks.empty() && copy.to.blocks.empty()) return copy;
  const Dims& strides = (copy.from.blocks.empty() ? copy.to : copy.from).strides;
  std::vector<int64_t> order(copy.dims.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return strides[static_cast<size_t>(a)] > strides[static_cast<size_t>(b)];
  });
  Dims dims;
  for (int64_t d : order) dims.push_back(copy.dims[static_cast<size_t>(d)]);
  return {copy.dtype, dims, copy.from.transposed(order), copy.to.transposed(order), copy.to_dtype};
}

// oneDNN's reorder where it has compiled code for this pair of layouts: its general one is slower than ours.
std::optional<Settled> settled_reorder(const LayoutCopy& given) {
  if ((given.dtype != DType::f32 && given.dtype != DType::bf16) || given.dims.empty() || element_count(given.dims) == 0)
    return std::nullopt;
  LayoutCopy copy = in_storage_order(given);
  try {
    Settled settled;
    settled.from = dnnl_desc(copy.dtype, copy.dims, copy.from);
    settled.to = dnnl_desc(copy.to_dtype, copy.dims, copy.to);
    settled.descriptor = {cpu_engine(), settled.from, cpu_engine(), settled.to, scratch_attributes()};
    std::string_view name = settled.descriptor.impl_info_str();
    if (name.starts_with("ref") || name.starts_with("simple:any")) return std::nullopt;
    return settled;
  } catch (const UnsupportedError&) {  // a layout without a name there
    return std::nullopt;
  } catch (const dnnl::error&) {
    return std::nullopt;
  }
}

struct OffsetTables {
  OffsetTables(const Dims& dims, const Layout& layout) : by_dim(layout.offset_terms(dims)) {}
  // Elements between neighbours along a dim; the largest number where there are none.
  int64_t step(size_t d) const { return by_dim[d].size() < 2 ? INT64_MAX : by_dim[d][1] - by_dim[d][0]; }
  std::vector<std::vector<int64_t>> by_dim;
};

// Any two layouts. Tiles of the two dims that lie closest, one on each side, keep cache lines while they are near.
class TableCopy {
 public:
  explicit TableCopy(const LayoutCopy& copy)
      : from_(copy.dims, copy.from),
        to_(copy.dims, copy.to),
        count_(copy.to.storage_count()),
        is_padded_(copy.to.is_padded(copy.dims)) {
    const size_t rank = copy.dims.size();
    for (size_t d = 1; d < rank; ++d) {
      if (to_.step(d) < to_.step(column_)) column_ = d;
    }
    row_ = column_ == 0 ? 1 : 0;
    for (size_t d = 0; d < rank; ++d) {
      if (d != column_ && from_.step(d) < from_.step(row_)) row_ = d;
    }
    for (size_t d = 0; d < rank; ++d) {
      if (d != column_ && d != row_) outer_.push_back(d);
    }
  }

  template <class T>
  void run(const T* src, T* dst) const {
    if (is_padded_) {
      parallel_for(count_, 1, [=](int64_t begin, int64_t end) { std::fill(dst + begin, dst + end, T{0}); });
    }
    const int64_t columns = size(column_), rows = size(row_);
    const int64_t column_tiles = (columns + tile - 1) / tile, row_tiles = (rows + tile - 1) / tile;
    int64_t tiles = column_tiles * row_tiles;
    for (size_t d : outer_) tiles *= size(d);
    parallel_for(tiles, tile * tile, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t rest = i / column_tiles / row_tiles, source = 0, target = 0;
        for (size_t k = outer_.size(); k-- > 0;) {
          auto index = static_cast<size_t>(rest % size(outer_[k]));
          rest /= size(outer_[k]);
          source += from_.by_dim[outer_[k]][index];
          target += to_.by_dim[outer_[k]][index];
        }
        copy_tile(src + source, dst + target, i / column_tiles % row_tiles * tile, i % column_tiles * tile);
      }
    });
  }

 private:
  static constexpr int64_t tile = 32;
  int64_t size(size_t d) const { return static_cast<int64_t>(from_.by_dim[d].size()); }

  template <class T>
  void copy_tile(const T* src, T* dst, int64_t first_row, int64_t first_column) const {
    const int64_t* from_row = from_.by_dim[row_].data();
    const int64_t* from_column = from_.by_dim[column_].data();
    const int64_t* to_row = to_.by_dim[row_].data();
    const int64_t* to_column = to_.by_dim[column_].data();
    const int64_t last_row = std::min(first_row + tile, size(row_));
    const int64_t last_column = std::min(first_column + tile, size(column_));
    for (int64_t r = first_row; r < last_row; ++r) {
      for (int64_t c = first_column; c < last_column; ++c)
        dst[to_row[r] + to_column[c]] = src[from_row[r] + from_column[c]];
    }
  }

  OffsetTables from_, to_;
  int64_t count_;
  bool is_padded_;
  size_t row_ = 0, column_ = 0;
  std::vector<size_t> outer_;
};

// A dim of size 1 in front, of which there may be several.
void widen(Dims& dims, Layout& from, Layout& to) {
  dims.insert(dims.begin(), 1);
  for (Layout* layout : {&from, &to}) {
    layout->padded.insert(layout->padded.begin(), 1);
    layout->strides.insert(layout->strides.begin(), 0);
    for (auto& block : layout->blocks) ++block.dim;
  }
}

// In the layout that it has first.
Kernel narrow_and_copy(const Node& node, const LayoutCopy& given, const Binding& binding) {
  const auto* from = static_cast<const float*>(binding.inputs[0]);
  auto* narrow = static_cast<BFloat16*>(binding.scratch);
  LayoutCopy copy = given;
  copy.dtype = given.to_dtype;
  Settlement none;
  Kernel move = prepare_layout_copy(node, copy, {{narrow}, binding.outputs, nullptr, &none});
  return [=, count = given.from.storage_count()](Stream& stream) {
    parallel_for(count, 1, [=](int64_t begin, int64_t end) { to_bfloat16(from + begin, narrow + begin, end - begin); });
    move(stream);
  };
}

}  // namespace

Settlement settle_layout_copy(const LayoutCopy& copy) {
  Settlement settlement;
  if (auto settled = settled_reorder(copy)) {
    settlement.scratch_bytes = static_cast<int64_t>(settled->descriptor.scratchpad_desc().get_size());
    settlement.descriptor = *settled;
  } else if (copy.to_dtype != copy.dtype) {
    settlement.scratch_bytes = checked_mul(copy.from.storage_count(), static_cast<int64_t>(size_of(copy.to_dtype)));
  }
  return settlement;
}

Kernel prepare_layout_copy(const Node& node, const LayoutCopy& given, const Binding& binding) {
  const void* from = binding.inputs[0];
  void* to = binding.outputs[0];
  if (element_count(given.dims) == 0) return {};
  if (const auto* settled = std::any_cast<Settled>(&binding.settlement->descriptor)) {
    BoundPrimitive::Operands operands = {
        {DNNL_ARG_FROM, dnnl_memory(settled->from, from)},
        {DNNL_ARG_TO, dnnl_memory(settled->to, to)},
        {DNNL_ARG_SCRATCHPAD, dnnl_memory(settled->descriptor.scratchpad_desc(), binding.scratch)}};
    return with_dnnl_errors(node, [&] { return BoundPrimitive(settled->descriptor, operands); });
  }
  if (given.to_dtype != given.dtype) return narrow_and_copy(node, given, binding);
  LayoutCopy copy = given;
  if (copy.from.blocks.empty() && copy.to.blocks.empty()) {
    StridedCopy strided(copy_axes(copy.dims, copy.from.strides, copy.to.strides), size_of(copy.dtype));
    return [=](Stream&) { strided(from, to); };
  }
  while (copy.dims.size() < 2) widen(copy.dims, copy.from, copy.to);
  return with_element_size(node, copy.dtype, [&]<class T>(T) -> Kernel {
    return [table = TableCopy(copy), from = static_cast<const T*>(from), to = static_cast<T*>(to)](Stream&) {
      table.run(from, to);
    };
  });
}

}  // namespace graft
