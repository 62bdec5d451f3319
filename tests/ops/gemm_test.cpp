// The float32 product of one thread, in vector registers and on matrix tiles.
#include "ops/gemm_loops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "ops/gemm_tiles.h"
#include "runtime/device/device.h"

namespace graft::test {
namespace {

using Way = void (*)(const GemmBlock&, float*);

void on_tiles(const GemmBlock& g, float* scratch) { gemm_on_tiles(TilesBlock(g), scratch); }

// How an operand lies.
enum class Lies : uint8_t { rows, columns, apart };

struct Matrix {
  // Of values up to 2^exponents apart.
  Matrix(int64_t rows, int64_t columns, Lies lies, int exponents, unsigned seed) {
    constexpr int64_t gap = 3;
    const int64_t step = lies == Lies::apart ? 2 : 1;
    view = lies == Lies::columns ? MatrixView{nullptr, 1, rows + gap} : MatrixView{nullptr, columns * step + gap, step};
    values.resize(static_cast<size_t>((lies == Lies::columns ? columns : rows) * std::max(view.row, view.column)));
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> exponent(-exponents / 2, exponents / 2);
    for (float& x : values) x = std::ldexp(normal(random), exponent(random));
    view.data = values.data();
  }
  float& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * view.row + j * view.column)]; }

  std::vector<float> values;
  MatrixView view;
};

struct Case {
  int64_t m, n, k;
  Lies a = Lies::rows, b = Lies::rows;
  int exponents = 0;
  float alpha = 1;
  bool starts = false, turned_y = false;
  GemmBehind behind = GemmBehind::nothing;
};

// Scratch of just what a product asks for; nothing is written behind it.
class Scratch {
 public:
  explicit Scratch(const GemmBlock& g)
      : floats_(static_cast<size_t>(std::max(gemm_scratch(g.m, g.n, g.k), gemm_tiles_scratch(g.m, g.n, g.k)))) {
    floats_.resize(floats_.size() + guard, value);
  }
  ~Scratch() {
    EXPECT_EQ(std::count(floats_.end() - guard, floats_.end(), value), guard) << "wrote behind its scratch";
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() { return floats_.data(); }

 private:
  static constexpr int64_t guard = 64;
  static constexpr float value = 0.625F;
  std::vector<float> floats_;
};

float finished(const Case& c, float sum, float beside) {
  switch (c.behind) {
    case GemmBehind::nothing: return sum;
    case GemmBehind::relu: return sum < 0 ? 0 : sum;
    case GemmBehind::add: return sum + beside;
    case GemmBehind::relu_grad: return beside > 0 ? sum : 0;
  }
  return sum;
}

// The mean square of errors, in units of half the last place of the sum of what the products are without their signs.
// Where no chain of multiply-adds could be that far off, it fails.
double check(Way way, const Case& c) {
  Matrix a(c.m, c.k, c.a, c.exponents, 1), b(c.k, c.n, c.b, c.exponents, 2);
  Matrix start(1, c.n, Lies::rows, 0, 3), beside(c.m, c.n, Lies::rows, 0, 4);
  Matrix y(c.m, c.n, c.turned_y ? Lies::columns : Lies::rows, 0, 5);
  const std::vector<float> before = y.values;
  GemmBlock g{.m = c.m, .n = c.n, .k = c.k, .a = a.view, .b = b.view};
  if (c.starts) g.start = {start.view.data, 0, 1};
  g.y = y.values.data(), g.y_row = y.view.row, g.y_column = y.view.column;
  g.alpha = c.alpha;
  g.behind = c.behind;
  if (c.behind == GemmBehind::add || c.behind == GemmBehind::relu_grad) g.beside = beside.view;
  Scratch room(g);
  way(g, room.data());
  double square = 0;
  std::vector<bool> written(before.size());
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = c.starts ? static_cast<double>(start.at(0, j)) : 0, without_sign = std::abs(sum);
      for (int64_t k = 0; k < c.k; ++k) {
        const double product = static_cast<double>(c.alpha) * a.at(i, k) * b.at(k, j);
        sum += product;
        without_sign += std::abs(product);
      }
      if (c.behind == GemmBehind::add) without_sign += std::abs(beside.at(i, j));
      // Where the sum is all but zero its sign is not known.
      const double expected = static_cast<double>(finished(c, static_cast<float>(sum), beside.at(i, j)));
      const double error = std::abs(static_cast<double>(y.at(i, j)) - expected) / (without_sign * 0x1p-24);
      square += error * error;
      if (error > static_cast<double>(c.k) + 3)
        ADD_FAILURE() << i << ", " << j << ": " << y.at(i, j) << ", not " << expected;
      written[static_cast<size_t>(i * y.view.row + j * y.view.column)] = true;
    }
  }
  for (size_t i = 0; i < before.size(); ++i) {
    if (!written[i] && before[i] != y.values[i]) ADD_FAILURE() << "wrote beside y, at " << i;
  }
  return square / static_cast<double>(c.m * c.n);
}

void check_all(Way way) {
  for (int64_t m : {5, 40, 97}) {
    for (int64_t n : {3, 48, 130}) {
      for (int64_t k : {1, 64, 75, 200}) {
        for (Lies a : {Lies::rows, Lies::columns, Lies::apart}) {
          for (Lies b : {Lies::rows, Lies::columns, Lies::apart}) check(way, {.m = m, .n = n, .k = k, .a = a, .b = b});
        }
      }
    }
  }
  for (GemmBehind behind : {GemmBehind::nothing, GemmBehind::relu, GemmBehind::add, GemmBehind::relu_grad}) {
    for (bool starts : {false, true}) {
      check(way, {.m = 70, .n = 100, .k = 90, .alpha = 0.3F, .starts = starts, .behind = behind});
      check(way, {.m = 70, .n = 100, .k = 90, .starts = starts, .turned_y = true, .behind = behind});
    }
  }
  // More than fits the caches at once.
  check(way, {.m = 70, .n = 1100, .k = 300, .starts = true, .behind = GemmBehind::relu});
  check(way, {.m = 40, .n = 200, .k = 2500, .starts = true, .behind = GemmBehind::add});
  check(way, {.m = 140, .n = 70, .k = 2500, .a = Lies::columns, .b = Lies::columns, .turned_y = true});
}

TEST(Gemm, InRegisters) { check_all(gemm_in_registers); }

TEST(Gemm, OnTiles) {
  if (!has_matrix_tiles()) GTEST_SKIP() << "this CPU has no tiles";
  check_all(on_tiles);
}

// Three parts of each value, and six products of them: no further from the exact sum than one multiply-add after the
// other.
TEST(Gemm, TilesAreAsExact) {
  if (!has_matrix_tiles()) GTEST_SKIP() << "this CPU has no tiles";
  for (int exponents : {0, 8, 40}) {
    for (int64_t k : {64, 384, 1536, 4096}) {
      const Case c{.m = 64, .n = 64, .k = k, .exponents = exponents};
      EXPECT_LE(check(on_tiles, c), check(gemm_in_registers, c)) << "k " << k << ", exponents " << exponents;
    }
  }
}

// What cannot be told in parts, or whose parts are too small, is multiplied in registers.
TEST(Gemm, TilesGiveWayToValuesWithoutParts) {
  if (!has_matrix_tiles()) GTEST_SKIP() << "this CPU has no tiles";
  constexpr float infinite = std::numeric_limits<float>::infinity();
  for (float odd :
       {infinite, -infinite, std::nanf(""), std::bit_cast<float>(0x7fffffffU), 3.4e38F, 0x1p-100F, 0x1p-140F}) {
    for (bool in_b : {false, true}) {
      for (int64_t k : {70, 2500}) {
        Matrix a(70, k, Lies::rows, 0, 1), b(k, 90, Lies::rows, 0, 2), y(70, 90, Lies::rows, 0, 3), expected = y;
        const bool small = std::abs(odd) < 1;
        if (small) {  // all of them
          for (float& x : in_b ? b.values : a.values) x *= odd;
        } else {
          (in_b ? b.at(k - 1, 40) : a.at(40, k - 1)) = odd;
        }
        GemmBlock g{.m = 70, .n = 90, .k = k, .a = a.view, .b = b.view, .y = y.values.data(), .y_row = y.view.row};
        Scratch room(g);
        on_tiles(g, room.data());
        g.y = expected.values.data();
        gemm_in_registers(g, room.data());
        for (int64_t i = 0; i < g.m; ++i) {
          for (int64_t j = 0; j < g.n; ++j) {
            const float x = y.at(i, j), wanted = expected.at(i, j);
            const bool alike = std::isfinite(wanted) ? std::abs(x - wanted) <= 1e-4F * std::max(std::abs(wanted), 1.0F)
                               : std::isnan(wanted)  ? std::isnan(x)
                                                     : x == wanted;
            if (small) EXPECT_NEAR(x, wanted, 3e-4F * std::abs(odd) + 0x1p-148F);
            else EXPECT_TRUE(alike) << odd << " at " << i << ", " << j << ": " << x << ", not " << wanted;
          }
        }
      }
    }
  }
}

// Sums of rows, and parts of a product: all as in the whole, bit by bit.
TEST(Gemm, PartsAreAsTheWhole) {
  for (Case c :
       {Case{.m = 300, .n = 200, .k = 100}, Case{.m = 150, .n = 1500, .k = 600}, Case{.m = 100, .n = 40, .k = 70}}) {
    Matrix a(c.m, c.k, Lies::rows, 0, 1), b(c.k, c.n, Lies::columns, 0, 2), beside(c.m, c.n, Lies::rows, 0, 3);
    a.at(c.m / 2, 0) = std::numeric_limits<float>::infinity();
    Scratch room(GemmBlock{.m = c.m, .n = c.n, .k = c.k});
    std::vector<float> whole_y, whole_sums;
    for (int64_t threads : {1, 2, 3}) {
      for (bool splits_columns : {false, true}) {
        std::vector<float> y(static_cast<size_t>(c.m * c.n));
        GemmBlock g{.m = c.m,
                    .n = c.n,
                    .k = c.k,
                    .a = a.view,
                    .b = b.view,
                    .y = y.data(),
                    .y_row = c.n,
                    .whole_m = c.m,
                    .whole_n = c.n,
                    .behind = GemmBehind::relu_grad,
                    .beside = beside.view};
        const int64_t groups = (c.m + gemm_steps(g).rows - 1) / gemm_steps(g).rows;
        std::vector<float> sums(static_cast<size_t>(groups * c.n));
        g.sums = sums.data(), g.sums_row = c.n;
        for (int64_t t = 0; t < threads; ++t) {
          const GemmBlock part = gemm_part(g, splits_columns, t, threads);
          if (part.m > 0 && part.n > 0) gemm(part, room.data());
        }
        if (whole_y.empty()) whole_y = y, whole_sums = sums;
        EXPECT_TRUE(std::equal(y.begin(), y.end(), whole_y.begin(), [](float x, float z) {
          return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(z);
        }));
        double off = 0;
        for (int64_t j = 0; j < c.n; ++j) {
          double expected = 0, sum = 0;
          for (int64_t i = 0; i < c.m; ++i)
            expected += i == c.m / 2 ? 0 : static_cast<double>(y[static_cast<size_t>(i * c.n + j)]);
          for (int64_t i = 0; i < groups; ++i) sum += static_cast<double>(sums[static_cast<size_t>(i * c.n + j)]);
          if (std::isfinite(sum))
            off = std::max(off,
                           std::abs(sum - expected - static_cast<double>(y[static_cast<size_t>(c.m / 2 * c.n + j)])));
        }
        EXPECT_LT(off, 1e-2);
      }
    }
  }
}

}  // namespace
}  // namespace graft::test
