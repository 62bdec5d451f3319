#include "ops/product.h"

#include <algorithm>

#include "ops/gemm_loops.h"

namespace graft {
namespace {

Dims dense_strides(const Dims& dims) { return Layout::plain(dims).strides; }

// Leading axes of size 1 up to `rank`.
Dims widened(const Dims& dims, size_t rank) {
  Dims wide(rank - dims.size(), 1);
  wide.insert(wide.end(), dims.begin(), dims.end());
  return wide;
}

void transpose_last(Dims& dims, Dims& strides) {
  std::swap(dims[dims.size() - 1], dims[dims.size() - 2]);
  std::swap(strides[strides.size() - 1], strides[strides.size() - 2]);
}

// Whether all axes before the last `kept` ones are as good as one.
bool joins_leading(const Dims& dims, const Dims& strides, size_t kept) {
  for (size_t d = 0; d + kept + 1 < dims.size(); ++d) {
    if (dims[d] != 1 && strides[d] != dims[d + 1] * strides[d + 1]) return false;
  }
  return true;
}

void join_leading(Dims& dims, Dims& strides, size_t kept) {
  size_t last = dims.size() - kept - 1;
  int64_t joined = element_count({dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(last + 1)});
  int64_t stride = strides[last];
  dims.erase(dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(last));
  strides.erase(strides.begin(), strides.begin() + static_cast<std::ptrdiff_t>(last));
  dims[0] = joined;
  strides[0] = stride;
}

// Fewer axes make larger products: activations times one matrix is a single 2-D product.
void simplify(Product& p) {
  size_t rank = p.y.size();
  if (rank == 2) return;
  auto batch_end = static_cast<std::ptrdiff_t>(rank) - 2;
  bool one_matrix = std::all_of(p.b.begin(), p.b.begin() + batch_end, [](int64_t d) { return d == 1; });
  auto all_join = [&](size_t kept, bool with_b) {
    return joins_leading(p.a, p.a_strides, kept) && joins_leading(p.y, p.y_strides, kept) &&
           (!with_b || joins_leading(p.b, p.b_strides, kept));
  };
  if (one_matrix && all_join(1, false)) {
    join_leading(p.a, p.a_strides, 1);
    join_leading(p.y, p.y_strides, 1);
    join_leading(p.b, p.b_strides, 2);
    p.b.erase(p.b.begin());
    p.b_strides.erase(p.b_strides.begin());
  } else if (rank > 3 && std::equal(p.a.begin(), p.a.begin() + batch_end, p.b.begin()) && all_join(2, true)) {
    join_leading(p.a, p.a_strides, 2);
    join_leading(p.b, p.b_strides, 2);
    join_leading(p.y, p.y_strides, 2);
  }
}

template <class T>
struct ReferenceProduct {
  Product p;
  const T* a;
  const T* b;
  const T* c;
  T* y;

  void operator()(Stream&) const {
    size_t rank = p.y.size();
    Dims batch(p.y.begin(), p.y.end() - 2);
    Dims c_strides = p.adds ? Layout::plain(p.c).strides : Dims(rank, 0);
    parallel_for(element_count(batch) * p.m(), p.n() * p.k(), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const T *row_a = a, *matrix_b = b, *row_c = c;
        T* row_y = y;
        int64_t rest = item;
        for (size_t d = rank - 1; d-- > 0;) {
          int64_t i = rest % p.y[d];
          rest /= p.y[d];
          row_y += i * p.y_strides[d];
          if (p.a[d] != 1) row_a += i * p.a_strides[d];
          if (d + 2 < rank && p.b[d] != 1) matrix_b += i * p.b_strides[d];
          if (p.adds && p.c[d] != 1) row_c += i * c_strides[d];
        }
        give_row(row_a, matrix_b, row_c, row_y);
      }
    });
  }

  void give_row(const T* row_a, const T* matrix_b, const T* row_c, T* row_y) const {
    int64_t step_a = p.a_strides.back(), step_k = p.b_strides[p.b.size() - 2], step_n = p.b_strides.back();
    std::fill(row_y, row_y + p.n(), T{0});
    for (int64_t k = 0; k < p.k(); ++k) {
      T factor = row_a[k * step_a];
      const T* row_b = matrix_b + k * step_k;
      if (step_n == 1) {
        for (int64_t n = 0; n < p.n(); ++n) row_y[n] += factor * row_b[n];
      } else {
        for (int64_t n = 0; n < p.n(); ++n) row_y[n] += factor * row_b[n * step_n];
      }
    }
    auto alpha = static_cast<T>(p.alpha), beta = static_cast<T>(p.beta);
    for (int64_t n = 0; n < p.n(); ++n) {
      row_y[n] *= alpha;
      if (p.adds) row_y[n] += beta * row_c[p.c.back() == 1 ? 0 : n];
    }
  }
};

bool is_empty(const Product& p) { return element_count(p.y) == 0 || p.k() == 0; }

int64_t batch_count(const Product& p) { return element_count({p.y.begin(), p.y.end() - 2}); }

MatrixView last_two(const float* data, const Dims& strides) {
  return {data, strides[strides.size() - 2], strides.back()};
}

// Of each batch, without addresses.
GemmBlock block_of(const Product& p) {
  return {.m = p.m(),
          .n = p.n(),
          .k = p.k(),
          .a = last_two(nullptr, p.a_strides),
          .b = last_two(nullptr, p.b_strides),
          .y_row = p.y_strides[p.y_strides.size() - 2],
          .alpha = static_cast<float>(p.alpha),
          .whole_m = p.m(),
          .whole_n = p.n(),
          .behind = p.behind};
}

// What each thread has a part of.
enum class Split : uint8_t { batches, columns, rows };
constexpr const char* split_names[] = {"batches", "columns", "rows"};
const char* name_of(Split split) { return split_names[static_cast<size_t>(split)]; }

Split usual_split(const Product& p, int64_t threads) {
  const int64_t batches = batch_count(p);
  if (batches >= 4 * threads || batches % threads == 0) return Split::batches;
  return gemm_splits_columns(block_of(p), threads) ? Split::columns : Split::rows;
}

Split split_of(const Product& p, int64_t threads) {
  for (Split split : {Split::batches, Split::columns, Split::rows}) {
    if (p.kernel == name_of(split)) return split;
  }
  return usual_split(p, threads);
}

constexpr const char* onednn = "onednn";

// On gemm(), each thread with its own part of the batches, or of the columns or rows of each batch.
class ThreadedProduct {
 public:
  struct Behind {
    const float* beside = nullptr;
    float* sum = nullptr;  // over rows
  };

  ThreadedProduct(const Product& p, int64_t threads, const float* a, const float* b, const float* c, float* y,
                  const Behind& behind, float* scratch)
      : p_(p), batches_(batch_count(p)), threads_(threads), scratch_(scratch), sum_(behind.sum), whole_(block_of(p)) {
    whole_.a.data = a;
    whole_.b.data = b;
    whole_.y = y;
    if (p.adds) {
      c_strides_ = Layout::plain(p.c).strides;
      for (size_t d = 0; d < p.c.size(); ++d) {
        if (p.c[d] == 1) c_strides_[d] = 0;
      }
      // A factor of c is applied behind the product.
      if (p.beta == 1) whole_.start = last_two(c, c_strides_);
    }
    split_ = split_of(p, threads);
    if (behind.beside) whole_.beside = last_two(behind.beside, p.y_strides);
    if (p.sums_rows) whole_.sums = scratch + threads * scratch_of_thread(p);
    whole_.sums_row = p.n();
  }

  static int64_t scratch_of_thread(const Product& p) { return gemm_scratch(p.m(), p.n(), p.k()); }
  static int64_t scratch_floats(const Product& p, int64_t threads) {
    const int64_t sums = p.sums_rows ? checked_mul(batch_count(p) * row_groups(p), p.n()) : 0;
    return checked_add(checked_mul(threads, scratch_of_thread(p)), sums);
  }

  void operator()(Stream&) const {
    const int64_t cost = batches_ * whole_.m * whole_.n * whole_.k / (16 * threads_);
    parallel_for(threads_, cost, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) run(t);
    });
    if (sum_) add_up();
  }

 private:
  // Of which gemm() gives sums.
  static int64_t row_groups(const Product& p) {
    const int64_t rows = gemm_steps(block_of(p)).rows;
    return (p.m() + rows - 1) / rows;
  }

  void add_up() const {
    const int64_t n = p_.n(), groups = batches_ * row_groups(p_);
    parallel_for(n, groups, [&](int64_t begin, int64_t end) {
      std::copy(whole_.sums + begin, whole_.sums + end, sum_ + begin);
      for (int64_t group = 1; group < groups; ++group) {
        for (int64_t j = begin; j < end; ++j) sum_[j] += whole_.sums[group * n + j];
      }
    });
  }

  void run(int64_t thread) const {
    float* scratch = scratch_ + thread * scratch_of_thread(p_);
    if (split_ == Split::batches) {
      for (int64_t i = batches_ * thread / threads_; i < batches_ * (thread + 1) / threads_; ++i)
        gemm(batch(i), scratch);
      return;
    }
    for (int64_t i = 0; i < batches_; ++i) {
      const GemmBlock part = gemm_part(batch(i), split_ == Split::columns, thread, threads_);
      if (part.m > 0 && part.n > 0) gemm(part, scratch);
    }
  }

  GemmBlock batch(int64_t index) const {
    GemmBlock block = whole_;
    if (block.sums) block.sums += index * row_groups(p_) * block.sums_row;
    for (size_t d = p_.y.size() - 2; d-- > 0;) {
      const int64_t i = index % p_.y[d];
      index /= p_.y[d];
      if (p_.a[d] != 1) block.a.data += i * p_.a_strides[d];
      if (p_.b[d] != 1) block.b.data += i * p_.b_strides[d];
      if (block.start.data) block.start.data += i * c_strides_[d];
      block.y += i * p_.y_strides[d];
      if (block.beside.data) block.beside.data += i * p_.y_strides[d];
    }
    return block;
  }

  Product p_;
  int64_t batches_, threads_;
  float* scratch_;
  float* sum_;
  GemmBlock whole_;
  Dims c_strides_;
  Split split_ = Split::batches;
};

// y += beta c, c broadcast
void add_scaled(const Product& p, const float* c, float* y) {
  Dims rows(p.y.begin(), p.y.end() - 1);
  Dims c_strides = dense_strides(p.c);
  auto beta = static_cast<float>(p.beta);
  parallel_for(element_count(rows), p.n(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = c;
      float* to = y;
      int64_t rest = row;
      for (size_t d = rows.size(); d-- > 0;) {
        if (p.c[d] != 1) from += rest % rows[d] * c_strides[d];
        to += rest % rows[d] * p.y_strides[d];
        rest /= rows[d];
      }
      int64_t step = p.c.back() != 1 ? 1 : 0;
      for (int64_t n = 0; n < p.n(); ++n) to[n] += beta * from[n * step];
    }
  });
}

}  // namespace

MatrixOperand::MatrixOperand(const Value& value) : dims(value.dims), strides(value.layout.strides) {
  // Before layouts are chosen there is none.
  if (strides.size() != dims.size() || !value.layout.blocks.empty()) strides = dense_strides(dims);
}

Product make_product(const Node& node, MatrixOperand a, bool transpose_a, MatrixOperand b, bool transpose_b,
                     const Layout& y) {
  if (a.dims.size() < 2 || b.dims.size() < 2)
    throw ModelError(node.where(), " wants matrices, got ", a.dims, " and ", b.dims);
  const size_t rank = std::max(a.dims.size(), b.dims.size());
  Product p;
  p.kernel = node.kernel;
  p.a = widened(a.dims, rank);
  p.b = widened(b.dims, rank);
  p.a_strides = widened(a.strides, rank);
  p.b_strides = widened(b.strides, rank);
  if (transpose_a) transpose_last(p.a, p.a_strides);
  if (transpose_b) transpose_last(p.b, p.b_strides);
  bool fits = p.a[rank - 1] == p.b[rank - 2];
  for (size_t d = 0; d + 2 < rank; ++d) {
    fits = fits && (p.a[d] == p.b[d] || p.a[d] == 1 || p.b[d] == 1);
    p.y.push_back(p.a[d] == 1 ? p.b[d] : p.a[d]);
  }
  if (!fits) {
    throw ModelError(node.where(), " cannot multiply ", a.dims, transpose_a ? " transposed" : "", " by ", b.dims,
                     transpose_b ? " transposed" : "");
  }
  p.y.push_back(p.a[rank - 2]);
  p.y.push_back(p.b[rank - 1]);
  p.y_strides = y.strides.size() == rank && y.blocks.empty() ? y.strides : dense_strides(p.y);
  if (p.y_strides[rank - 1] != 1) {
    // y^T = b^T a^T
    for (auto* operand : {&p.a, &p.b, &p.y}) std::swap((*operand)[rank - 1], (*operand)[rank - 2]);
    for (auto* strides : {&p.a_strides, &p.b_strides, &p.y_strides})
      std::swap((*strides)[rank - 1], (*strides)[rank - 2]);
    std::swap(p.a, p.b);
    std::swap(p.a_strides, p.b_strides);
    p.swapped = true;
  }
  simplify(p);
  return p;
}

void add_vector(Product& product) {
  product.adds = true;
  product.c = Dims(product.y.size(), 1);
  const size_t axis = product.y.size() - (product.swapped ? 2 : 1);
  product.c[axis] = product.y[axis];
}

GemmBehind behind_of(const Node& node) {
  const std::string name = node.text("behind", "");
  if (name.empty()) return GemmBehind::nothing;
  if (name == "Relu") return GemmBehind::relu;
  if (name == "Add") return GemmBehind::add;
  if (name == "ReluGrad") return GemmBehind::relu_grad;
  throw ModelError(node.where(), " has \"", name, "\" behind the product: allowed are Relu, Add and ReluGrad");
}

Kernel prepare_product_reference(DType dtype, const Product& product, const void* a, const void* b, const void* c,
                                 void* y) {
  auto bind = [&]<class T>(T) -> Kernel {
    return ReferenceProduct<T>{product, static_cast<const T*>(a), static_cast<const T*>(b), static_cast<const T*>(c),
                               static_cast<T*>(y)};
  };
  return dtype == DType::f32 ? bind(float{}) : bind(double{});
}

std::vector<std::string> product_choices(const Node& node, const Product& product) {
  if (is_empty(product) || product.zero_rows != Product::ZeroRows::none) return {};
  const int64_t threads = thread_count();
  const Split usual = usual_split(product, threads);
  std::vector<std::string> names{name_of(usual)};
  auto add = [&](Split split, int64_t parts) {
    if (threads > 1 && parts > 1 && split != usual) names.emplace_back(name_of(split));
  };
  add(Split::batches, batch_count(product));
  const GemmSteps steps = gemm_steps(block_of(product));
  add(Split::columns, product.n() / steps.columns);
  add(Split::rows, product.m() / steps.rows);
  if (product.behind == GemmBehind::nothing && dnnl_fits(node, product)) names.emplace_back(onednn);
  if (names.size() == 1) return {};
  return names;
}

Settlement settle_product(const Node& node, const Product& product) {
  if (product.kernel == onednn) return settle_dnnl_product(node, product);
  if (product.zero_rows != Product::ZeroRows::none) return settle_ragged_product(product);
  Settlement settlement;
  if (is_empty(product)) return settlement;
  const int64_t threads = thread_count();
  settlement.scratch_bytes = checked_mul(ThreadedProduct::scratch_floats(product, threads), int64_t{sizeof(float)});
  settlement.descriptor = threads;
  return settlement;
}

Kernel prepare_product(const Node& node, const Product& product, const Binding& binding) {
  if (product.kernel == onednn) return prepare_dnnl_product(node, product, binding);
  if (product.zero_rows != Product::ZeroRows::none) return prepare_ragged_product(product, binding);
  const auto *a = binding.in<float>(0), *b = binding.in<float>(1), *c = product.adds ? binding.in<float>(2) : nullptr;
  auto* y = binding.out<float>(0);
  if (is_empty(product)) return prepare_product_reference(DType::f32, product, a, b, c, y);
  const auto threads = std::any_cast<int64_t>(binding.settlement->descriptor);
  ThreadedProduct multiply(product, threads, product.swapped ? b : a, product.swapped ? a : b, c, y,
                           {binding.in<float>(beside_slot), binding.out<float>(1)},
                           static_cast<float*>(binding.scratch));
  if (!c || product.beta == 1) return multiply;
  return [=](Stream& stream) {
    multiply(stream);
    add_scaled(product, c, y);
  };
}

}  // namespace graft
