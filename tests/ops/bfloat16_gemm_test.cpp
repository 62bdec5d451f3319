#include "ops/bfloat16_gemm.h"

#include <gtest/gtest.h>

#include "runtime/device/device.h"
#include "tests/support/check_op.h"

namespace graft::test {
namespace {

using Way = void (*)(const LowGemmBlock&, float*);

struct Case {
  int64_t m, n, k;
  bool turned_a, turned_b, adds;
};

Tensor low(const Dims& dims, unsigned seed) { return random_feed(DType::f32, dims, -1, 1, seed).cast(DType::bf16); }

// With gaps between the rows of operands and result, which stay as they are.
void check(Way way, const Case& c) {
  constexpr int64_t gap = 3;
  SCOPED_TRACE(cat(c.m, " x ", c.k, " x ", c.n, c.turned_a ? ", a turned" : "", c.turned_b ? ", b turned" : ""));
  auto dims = [&](int64_t rows, int64_t columns, bool turned) {
    return turned ? Dims{columns, rows + gap} : Dims{rows, columns + gap};
  };
  Tensor a = low(dims(c.m, c.k, c.turned_a), 1), b = low(dims(c.k, c.n, c.turned_b), 2);
  auto view = [](const Tensor& t, bool turned) {
    LowMatrix matrix{t.data<BFloat16>(), t.dims()[1], 1};
    return turned ? matrix.transposed() : matrix;
  };
  LowGemmBlock g{c.m, c.n, c.k, view(a, c.turned_a), view(b, c.turned_b)};
  Tensor y = random_feed(DType::f32, {c.m, c.n + gap}, -1, 1, 3), expected = y.clone();
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      float& to = expected.data<float>()[i * (c.n + gap) + j];
      double sum = c.adds ? to : 0;
      for (int64_t k = 0; k < c.k; ++k)
        sum += static_cast<double>(from_bf16(g.a.data[i * g.a.row + k * g.a.column].bits)) *
               static_cast<double>(from_bf16(g.b.data[k * g.b.row + j * g.b.column].bits));
      to = static_cast<float>(sum);
    }
  }
  g.y = y.data<float>();
  g.y_row = c.n + gap;
  g.adds = c.adds;
  std::vector<float> scratch(
      static_cast<size_t>(std::max(low_gemm_scratch(c.m, c.n, c.k), (c.m + c.n) * c.k + 1000000)));
  way(g, scratch.data());
  // Products of bfloat16 are exact in float32; sums of a few hundred of them are not.
  expect_close(y, expected, 1e-4, "y");
}

void check_all(Way way) {
  for (int64_t m : {1, 37, 48}) {
    for (int64_t n : {1, 50, 80}) {
      for (int64_t k : {1, 64, 75}) {
        for (unsigned flags = 0; flags < 8; ++flags)
          check(way, {m, n, k, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0});
      }
    }
  }
}

// Rows of a and columns of b in panels of 16, as blocks of channels lie.
void check_panels(Way way) {
  constexpr int64_t m = 40, n = 23, k = 75;
  Tensor a = low({3, k, tile_side}, 1), b = low({2, k, tile_side}, 2), y(DType::f32, {m, n}),
         expected(DType::f32, {m, n});
  auto at = [](const Tensor& t, int64_t side, int64_t i) {
    return static_cast<double>(
        from_bf16(t.data<BFloat16>()[(side / tile_side * k + i) * tile_side + side % tile_side].bits));
  };
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += at(a, i, c) * at(b, j, c);
      expected.data<float>()[i * n + j] = static_cast<float>(sum);
    }
  }
  const LowMatrix across{b.data<BFloat16>(), tile_side, 1, k * tile_side};
  const LowMatrix along{a.data<BFloat16>(), tile_side, 1, k * tile_side};
  std::vector<float> scratch(static_cast<size_t>(std::max(low_gemm_scratch(m, n, k), (m + n) * k + 1000000)));
  way({.m = m, .n = n, .k = k, .a = along.transposed(), .b = across, .y = y.data<float>(), .y_row = n}, scratch.data());
  expect_close(y, expected, 1e-4, "y");  // as above
}

TEST(LowGemm, OnTiles) {
  if (!has_matrix_tiles()) GTEST_SKIP() << "this CPU has no tiles";
  check_all(low_gemm_on_tiles);
  check_panels(low_gemm_on_tiles);
}

TEST(LowGemm, InFloats) {
  check_all(low_gemm_in_floats);
  check_panels(low_gemm_in_floats);
}

}  // namespace
}  // namespace graft::test
