#include "ops/binary_loops.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/binary_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace graft {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D d{};

#define GRAFT_BINARY(name, expression)                     \
  struct name {                                            \
    static HWY_INLINE V f(V a, V b) { return expression; } \
  };

// Instructions differ on NaN: here one operand that is NaN gives NaN.
HWY_INLINE V nan_or(V a, V b, V value) {
  return hn::IfThenElse(hn::Or(hn::IsNaN(a), hn::IsNaN(b)), hn::Add(a, b), value);
}

GRAFT_BINARY(Add, hn::Add(a, b))
GRAFT_BINARY(Sub, hn::Sub(a, b))
GRAFT_BINARY(Mul, hn::Mul(a, b))
GRAFT_BINARY(Div, hn::Div(a, b))
GRAFT_BINARY(Max, nan_or(a, b, hn::Max(a, b)))
GRAFT_BINARY(Min, nan_or(a, b, hn::Min(a, b)))
GRAFT_BINARY(PRelu, hn::IfThenElse(hn::Lt(a, hn::Zero(d)), hn::Mul(a, b), a))
#undef GRAFT_BINARY

// One value of an operand in every lane, or the lanes from `p` on.
template <bool kVector>
HWY_INLINE V load(const float* p) {
  if constexpr (kVector) return hn::LoadU(d, p);
  else return hn::Set(d, *p);
}

template <class F, bool kVectorA, bool kVectorB>
void row(int64_t n, const float* a, const float* b, float* y) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(F::f(load<kVectorA>(a + (kVectorA ? i : 0)), load<kVectorB>(b + (kVectorB ? i : 0))), d, y + i);
  }
  if (i == n) return;
  HWY_ALIGN float rest_a[hn::MaxLanes(d)] = {};
  HWY_ALIGN float rest_b[hn::MaxLanes(d)] = {};
  for (int64_t k = i; k < n; ++k) {
    rest_a[k - i] = kVectorA ? a[k] : *a;
    rest_b[k - i] = kVectorB ? b[k] : *b;
  }
  hn::Store(F::f(hn::Load(d, rest_a), hn::Load(d, rest_b)), d, rest_a);
  for (int64_t k = i; k < n; ++k) y[k] = rest_a[k - i];
}

template <class F, bool kVectorA, bool kVectorB>
void rows_of(int64_t rows, int64_t columns, TileOperand a, TileOperand b, float* y, int64_t y_row) {
  for (int64_t r = 0; r < rows; ++r)
    row<F, kVectorA, kVectorB>(columns, a.data + r * a.row, b.data + r * b.row, y + r * y_row);
}

// Whether the rows of an operand lie one behind the other, or are one number.
HWY_INLINE bool is_run(const TileOperand& x, int64_t columns) { return x.column ? x.row == columns : x.row == 0; }

// Rows of one vector, as blocks of channels are, with the same row of b for all.
template <class F>
void blocks(int64_t rows, const float* a, const float* b, float* y) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V same = hn::LoadU(d, b);
  for (int64_t i = 0; i < rows * lanes; i += lanes) hn::StoreU(F::f(hn::LoadU(d, a + i), same), d, y + i);
}

template <class F>
void tile(int64_t rows, int64_t columns, TileOperand a, TileOperand b, float* y, int64_t y_row) {
  if (y_row == columns && is_run(a, columns)) {
    if (is_run(b, columns)) {
      columns *= rows;
      rows = 1;
    } else if (a.column && b.column && b.row == 0 && columns == static_cast<int64_t>(hn::Lanes(d))) {
      return blocks<F>(rows, a.data, b.data, y);
    }
  }
  if (a.column && b.column) rows_of<F, true, true>(rows, columns, a, b, y, y_row);
  else if (a.column) rows_of<F, true, false>(rows, columns, a, b, y, y_row);
  else if (b.column) rows_of<F, false, true>(rows, columns, a, b, y, y_row);
  else rows_of<F, false, false>(rows, columns, a, b, y, y_row);
}

BinaryTile find_tile(std::string_view type) {
  static constexpr struct {
    std::string_view type;
    BinaryTile tile;
  } rows[] = {
      {"Add", tile<Add>}, {"Sub", tile<Sub>}, {"Mul", tile<Mul>},  {"Div", tile<Div>},     {"Max", tile<Max>},
      {"Min", tile<Min>}, {"Sum", tile<Add>}, {"Mean", tile<Add>}, {"PRelu", tile<PRelu>},
  };
  for (const auto& entry : rows) {
    if (entry.type == type) return entry.tile;
  }
  return nullptr;
}

}  // namespace HWY_NAMESPACE
}  // namespace graft
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(find_tile);

BinaryTile binary_tile(std::string_view type) { return HWY_DYNAMIC_DISPATCH(find_tile)(type); }

}  // namespace graft
#endif
