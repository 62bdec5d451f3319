// Products with the gradient of tokens. What is padding, or behind a loss that reads one token alone, has a gradient of
// zero: its rows give rows of zeros, and add nothing to the gradient of a weight. They are looked for in every step,
// and the others are brought together, some at a time.
#include <algorithm>
#include <bit>

#include "ops/gemm_loops.h"
#include "ops/product.h"
#include "ops/slices.h"

namespace graft {
namespace {

using ZeroRows = Product::ZeroRows;

// Rows brought together at a time: of a gradient, for which b is packed every time, and along k.
constexpr int64_t rows_at_a_time = 1024, k_at_a_time = 512;

// A matrix by the rows that are skipped or not: those of the gradient, and for a weight's gradient those of the other
// operand with them.
struct Rows {
  const float* data = nullptr;
  int64_t columns = 0, stride = 0;

  const float* at(int64_t row) const { return data + row * stride; }
  // Most rows with values begin with one: no more than that is brought into the cache.
  bool is_zero(int64_t row) const {
    if (*at(row) != 0) return false;
    constexpr int64_t piece = 64;
    for (int64_t begin = 0; begin < columns; begin += piece) {
      const float* x = at(row) + begin;
      const int64_t count = std::min(piece, columns - begin);
      uint32_t bits = 0;
#pragma omp simd reduction(| : bits)
      for (int64_t i = 0; i < count; ++i) bits |= std::bit_cast<uint32_t>(x[i]) << 1;  // without the sign
      if (bits != 0) return false;
    }
    return true;
  }
};

// y = alpha a b on gemm(), each thread with its own part of the columns or rows of y.
class RaggedProduct {
 public:
  RaggedProduct(const Product& p, int64_t threads, const float* a, const float* b, float* y, void* scratch)
      : along_k_(p.zero_rows != ZeroRows::a), threads_(threads) {
    whole_ = {.m = p.m(),
              .n = p.n(),
              .k = p.k(),
              .a = {a, p.a_strides[0], p.a_strides[1]},
              .b = {b, p.b_strides[0], p.b_strides[1]},
              .y = y,
              .y_row = p.y_strides[0],
              .alpha = static_cast<float>(p.alpha),
              .whole_m = p.m(),
              .whole_n = p.n()};
    if (along_k_) {
      a_ = {a, p.m(), p.a_strides[1]};
      b_ = {b, p.n(), p.b_strides[0]};
    } else {
      a_ = {a, p.k(), p.a_strides[0]};
    }
    gradient_ = p.zero_rows == ZeroRows::b ? b_ : a_;
    count_ = count_of(p);
    scratch_of_thread_ = gemm_scratch(p.m(), p.n(), p.k());
    together_ = together(p);
    kept_ = static_cast<int64_t*>(scratch);
    near_a_ = reinterpret_cast<float*>(kept_ + count_);
    near_b_ = near_a_ + together_ * a_.columns;
    of_threads_ = near_b_ + together_ * b_.columns;
  }

  static int64_t count_of(const Product& p) { return p.zero_rows == ZeroRows::a ? p.m() : p.k(); }
  static int64_t together(const Product& p) {
    return std::min(count_of(p), p.zero_rows == ZeroRows::a ? rows_at_a_time : k_at_a_time);
  }
  static int64_t scratch_bytes(const Product& p, int64_t threads) {
    const int64_t columns = p.zero_rows == ZeroRows::a ? p.k() : checked_add(p.m(), p.n());
    const int64_t floats =
        checked_add(checked_mul(together(p), columns), checked_mul(threads, gemm_scratch(p.m(), p.n(), p.k())));
    return checked_add(checked_mul(count_of(p), int64_t{sizeof(int64_t)}), checked_mul(floats, int64_t{sizeof(float)}));
  }

  void operator()(Stream&) const {
    const int64_t kept = find_rows();
    // To bring most of them together takes as long as to skip the rest saves.
    constexpr int64_t few = 16;
    if (count_ - kept < count_ / few) return multiply(whole_);
    for (int64_t from = 0; from < kept; from += together_) {
      const int64_t rows = std::min(together_, kept - from);
      GemmBlock block = whole_;
      gather(a_, from, rows, near_a_);
      if (along_k_) {
        gather(b_, from, rows, near_b_);
        block.k = rows;
        block.a = {near_a_, 1, a_.columns};
        block.b = {near_b_, b_.columns, 1};
        if (from > 0) block.start = {block.y, block.y_row, 1};
        multiply(block);
      } else {
        block.m = rows;
        block.a = {near_a_, a_.columns, 1};
        block.y = y(kept_[from]);
        multiply(block);
        spread(from, rows, from + rows < kept ? kept_[from + rows] : count_);
      }
    }
    if (kept == 0) clear(0, whole_.m, 0, whole_.n);
    else if (!along_k_) clear(0, kept_[0], 0, whole_.n);
  }

 private:
  // How many there are; they are in kept_.
  int64_t find_rows() const {
    parallel_for(count_, gradient_.columns, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) kept_[row] = gradient_.is_zero(row) ? -1 : row;
    });
    return std::remove(kept_, kept_ + count_, -1) - kept_;
  }

  void gather(const Rows& x, int64_t from, int64_t rows, float* to) const {
    parallel_for(rows, x.columns, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) std::copy_n(x.at(kept_[from + row]), x.columns, to + row * x.columns);
    });
  }

  void multiply(const GemmBlock& whole) const {
    const bool splits_columns = gemm_splits_columns(whole, threads_);
    for_slices(threads_, threads_, [&](int64_t thread, int64_t, int64_t) {
      const GemmBlock part = gemm_part(whole, splits_columns, thread, threads_);
      if (part.m > 0 && part.n > 0) gemm(part, of_threads_ + thread * scratch_of_thread_);
    });
  }

  // Results lie together from the first of their rows on. They go where they belong, the last one first, and what is
  // between them becomes zero, up to the row `next`.
  void spread(int64_t from, int64_t rows, int64_t next) const {
    parallel_for(whole_.n, rows, [&](int64_t begin, int64_t end) {
      for (int64_t i = rows, behind = next; i-- > 0;) {
        const int64_t row = kept_[from + i], now = kept_[from] + i;
        if (row != now) std::copy_n(y(now) + begin, end - begin, y(row) + begin);
        clear(row + 1, behind, begin, end);
        behind = row;
      }
    });
  }

  float* y(int64_t row) const { return whole_.y + row * whole_.y_row; }
  void clear(int64_t row, int64_t end_row, int64_t column, int64_t end_column) const {
    for (; row < end_row; ++row) std::fill(y(row) + column, y(row) + end_column, 0.0F);
  }

  GemmBlock whole_;
  Rows a_, b_, gradient_;
  int64_t count_ = 0, together_ = 0, scratch_of_thread_ = 0;
  bool along_k_;
  int64_t threads_;
  int64_t* kept_;
  float *near_a_, *near_b_, *of_threads_;
};

}  // namespace

void skip_zero_rows(Product& p, int64_t operand, bool transposed) {
  // Below that a look at a row is no longer small beside its product.
  constexpr int64_t least_rows = 32, least_side = 16, least_product = 4096;
  struct Place {
    ZeroRows rows = ZeroRows::none;
    int64_t product = 0, stride = 0;  // what is multiplied for each, from element to element
  };
  auto place = [&]() -> Place {
    if (p.y.size() != 2 || p.adds || p.m() < least_side || p.n() < least_side || p.k() < least_side) return {};
    const bool of_a = (operand == 0) != p.swapped, along_k = (operand == 0) == transposed;
    if (along_k && of_a) return {ZeroRows::a_transposed, checked_mul(p.m(), p.n()), p.a_strides[0]};
    if (along_k) return {ZeroRows::b, checked_mul(p.m(), p.n()), p.b_strides[1]};
    if (of_a) return {ZeroRows::a, checked_mul(p.k(), p.n()), p.a_strides[1]};
    return {};  // columns of y: the products of gradients do not come so
  }();
  // Of a weight's gradient the other operand is brought together too.
  const bool lies = place.rows == ZeroRows::a || (p.a_strides[0] == 1 && p.b_strides[1] == 1);
  const int64_t rows = place.rows == ZeroRows::a ? p.m() : p.k();
  const bool pays = place.product >= least_product && place.stride == 1 && lies && rows >= least_rows;
  p.zero_rows = pays ? place.rows : ZeroRows::none;
}

Settlement settle_ragged_product(const Product& product) {
  Settlement settlement;
  const int64_t threads = thread_count();
  settlement.scratch_bytes = RaggedProduct::scratch_bytes(product, threads);
  settlement.descriptor = threads;
  return settlement;
}

Kernel prepare_ragged_product(const Product& product, const Binding& binding) {
  const auto *a = binding.in<float>(0), *b = binding.in<float>(1);
  return RaggedProduct(product, std::any_cast<int64_t>(binding.settlement->descriptor), product.swapped ? b : a,
                       product.swapped ? a : b, binding.out<float>(0), binding.scratch);
}

}  // namespace graft
