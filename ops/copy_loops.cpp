#include "ops/copy_loops.h"

#include <algorithm>
#include <cstring>

// Compiled once for every instruction set.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/copy_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/bfloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
// A square of 16 bytes a side. Each round brings lane and row a bit nearer to each other's place.
template <class T>
HWY_INLINE void transpose_square(const T* from, int64_t from_column, T* to, int64_t to_row) {
  constexpr size_t n = 16 / sizeof(T);
  const hn::FixedTag<T, n> d;
  using V = hn::Vec<decltype(d)>;
  V x[n], y[n];
  for (size_t c = 0; c < n; ++c) x[c] = hn::LoadU(d, from + static_cast<int64_t>(c) * from_column);
  for (size_t round = 1; round < n; round *= 2) {
    for (size_t i = 0; i < n / 2; ++i) {
      y[2 * i] = hn::InterleaveLower(d, x[i], x[i + n / 2]);
      y[2 * i + 1] = hn::InterleaveUpper(d, x[i], x[i + n / 2]);
    }
    for (size_t i = 0; i < n; ++i) x[i] = y[i];
  }
  for (size_t r = 0; r < n; ++r) hn::StoreU(x[r], d, to + static_cast<int64_t>(r) * to_row);
}
#endif

template <class T>
HWY_INLINE void transpose(const T* from, int64_t from_column, T* to, int64_t to_row, int64_t rows, int64_t columns) {
  int64_t whole_rows = 0, whole_columns = 0;
#if HWY_TARGET != HWY_SCALAR
  // Whole cache lines on both sides, one after the other: more of them may fall into few sets of the cache.
  constexpr int64_t n = 16 / sizeof(T), line = 64 / sizeof(T);
  whole_rows = rows / n * n, whole_columns = columns / n * n;
  for (int64_t r0 = 0; r0 < whole_rows; r0 += line) {
    for (int64_t c0 = 0; c0 < whole_columns; c0 += line) {
      for (int64_t c = c0; c < std::min(c0 + line, whole_columns); c += n) {
        for (int64_t r = r0; r < std::min(r0 + line, whole_rows); r += n)
          transpose_square(from + r + c * from_column, from_column, to + r * to_row + c, to_row);
      }
    }
  }
#endif
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c)
      std::memcpy(to + r * to_row + c, from + r + c * from_column, sizeof(T));
  }
}

void transpose_2_bytes(const uint16_t* from, int64_t from_column, uint16_t* to, int64_t to_row, int64_t rows,
                       int64_t columns) {
  transpose(from, from_column, to, to_row, rows, columns);
}
void transpose_4_bytes(const uint32_t* from, int64_t from_column, uint32_t* to, int64_t to_row, int64_t rows,
                       int64_t columns) {
  transpose(from, from_column, to, to_row, rows, columns);
}
void transpose_8_bytes(const uint64_t* from, int64_t from_column, uint64_t* to, int64_t to_row, int64_t rows,
                       int64_t columns) {
  transpose(from, from_column, to, to_row, rows, columns);
}

// Strips of columns are narrowed into a piece of the nearest cache and transposed there, as elements of type T.
template <class T>
HWY_INLINE void transpose_narrowed(const float* from, int64_t from_column, T* to, int64_t to_row, int64_t rows,
                                   int64_t columns) {
  constexpr int64_t strip_rows = 64, strip_columns = 16, numbers = sizeof(T) / sizeof(BFloat16);
  alignas(64) BFloat16 strip[strip_columns * strip_rows * numbers];
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; r += strip_rows) {
    const int64_t high = std::min(strip_rows, rows - r);
    for (int64_t c = 0; c < columns; c += strip_columns) {
      const int64_t wide = std::min(strip_columns, columns - c);
      for (int64_t k = 0; k < wide; ++k) {
        const float* floats = from + (r + (c + k) * from_column) * numbers;
        BFloat16* low = strip + k * strip_rows * numbers;
        int64_t i = 0;
        for (; i + lanes <= high * numbers; i += lanes) store(load(d, floats + i), d, low + i);
        for (; i < high * numbers; ++i) store(load(one, floats + i), one, low + i);
      }
      transpose(reinterpret_cast<const T*>(strip), strip_rows, to + r * to_row + c, to_row, high, wide);
    }
  }
}

void transpose_floats(const float* from, int64_t from_column, BFloat16* to, int64_t to_row, int64_t rows,
                      int64_t columns) {
  transpose_narrowed(from, from_column, reinterpret_cast<uint16_t*>(to), to_row, rows, columns);
}

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
// Four columns of as many pairs as a vector of floats has, without a detour through memory.
template <class D>
HWY_INLINE void transpose_pairs_of(D d, const float* from, int64_t from_column, uint32_t* to, int64_t to_row) {
  const hn::Repartition<uint32_t, hn::Rebind<uint16_t, D>> pairs;
  auto column = [&](int64_t c) {
    return hn::BitCast(pairs, rounded_to_bfloat16(d, hn::LoadU(d, from + c * from_column)));
  };
  const auto a = column(0), b = column(1), c = column(2), e = column(3);
  const auto ac_low = hn::InterleaveLower(pairs, a, c), ac_high = hn::InterleaveUpper(pairs, a, c);
  const auto be_low = hn::InterleaveLower(pairs, b, e), be_high = hn::InterleaveUpper(pairs, b, e);
  auto put = [&](auto x, int64_t r) {
    const hn::FixedTag<uint32_t, 4> four;
#if HWY_TARGET == HWY_AVX3
    hn::StoreU(hn::UpperHalf(four, x), four, to + (r + 4) * to_row);
    hn::StoreU(hn::LowerHalf(four, x), four, to + r * to_row);
#else
    hn::StoreU(x, four, to + r * to_row);
#endif
  };
  put(hn::InterleaveLower(pairs, ac_low, be_low), 0);
  put(hn::InterleaveUpper(pairs, ac_low, be_low), 1);
  put(hn::InterleaveLower(pairs, ac_high, be_high), 2);
  put(hn::InterleaveUpper(pairs, ac_high, be_high), 3);
}
#endif

void transpose_pairs(const FloatPair* from, int64_t from_column, BFloat16Pair* to, int64_t to_row, int64_t rows,
                     int64_t columns) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  const hn::ScalableTag<float> d;
  constexpr int64_t high = hn::MaxLanes(d) / 2, wide = 4;
  if (rows % high == 0 && columns % wide == 0) {
    for (int64_t r = 0; r < rows; r += high) {
      for (int64_t c = 0; c < columns; c += wide)
        transpose_pairs_of(d, &from[r + c * from_column].first, 2 * from_column,
                           reinterpret_cast<uint32_t*>(to + r * to_row + c), to_row);
    }
    return;
  }
#endif
  transpose_narrowed(&from->first, from_column, reinterpret_cast<uint32_t*>(to), to_row, rows, columns);
}

template <class D>
HWY_INLINE void interleave_lanes(D d, const float* even, const float* odd, BFloat16* to) {
  const hn::RebindToUnsigned<D> wide;
  const auto low = hn::PromoteTo(wide, rounded_to_bfloat16(d, hn::LoadU(d, even)));
  const auto high = hn::PromoteTo(wide, rounded_to_bfloat16(d, hn::LoadU(d, odd)));
  hn::StoreU(hn::Or(low, hn::ShiftLeft<16>(high)), wide, reinterpret_cast<uint32_t*>(to));
}

void interleave_narrow(const float* from, int64_t from_row, int64_t odd, BFloat16* to, int64_t to_row, int64_t rows,
                       int64_t columns) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; ++r) {
    const float* even = from + r * from_row;
    BFloat16* pairs = to + r * to_row;
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) interleave_lanes(d, even + c, even + odd + c, pairs + 2 * c);
    for (; c < columns; ++c) interleave_lanes(one, even + c, even + odd + c, pairs + 2 * c);
  }
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(transpose_2_bytes);
HWY_EXPORT(transpose_4_bytes);
HWY_EXPORT(transpose_8_bytes);
HWY_EXPORT(transpose_floats);
HWY_EXPORT(transpose_pairs);
HWY_EXPORT(interleave_narrow);

void transpose_tile(const uint16_t* from, int64_t from_column, uint16_t* to, int64_t to_row, int64_t rows,
                    int64_t columns) {
  HWY_DYNAMIC_DISPATCH(transpose_2_bytes)(from, from_column, to, to_row, rows, columns);
}
void transpose_tile(const uint32_t* from, int64_t from_column, uint32_t* to, int64_t to_row, int64_t rows,
                    int64_t columns) {
  HWY_DYNAMIC_DISPATCH(transpose_4_bytes)(from, from_column, to, to_row, rows, columns);
}
void transpose_tile(const uint64_t* from, int64_t from_column, uint64_t* to, int64_t to_row, int64_t rows,
                    int64_t columns) {
  HWY_DYNAMIC_DISPATCH(transpose_8_bytes)(from, from_column, to, to_row, rows, columns);
}
void transpose_tile(const FloatPair* from, int64_t from_column, BFloat16Pair* to, int64_t to_row, int64_t rows,
                    int64_t columns) {
  HWY_DYNAMIC_DISPATCH(transpose_pairs)(from, from_column, to, to_row, rows, columns);
}
void transpose_tile(const float* from, int64_t from_column, BFloat16* to, int64_t to_row, int64_t rows,
                    int64_t columns) {
  HWY_DYNAMIC_DISPATCH(transpose_floats)(from, from_column, to, to_row, rows, columns);
}
void interleave_tile(const float* from, int64_t from_row, int64_t odd, BFloat16* to, int64_t to_row, int64_t rows,
                     int64_t columns) {
  HWY_DYNAMIC_DISPATCH(interleave_narrow)(from, from_row, odd, to, to_row, rows, columns);
}

}  // namespace graft
#endif  // HWY_ONCE
