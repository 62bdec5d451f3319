#include "ops/product.h"

#include <algorithm>

#include "runtime/device/cpu/dnnl.h"

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

// Joins all axes before the last `kept` ones; they must lie densely.
void join_leading(Dims& dims, Dims& strides, size_t kept) {
  size_t last = dims.size() - kept - 1;
  int64_t joined = element_count({dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(last + 1)});
  int64_t stride = strides[last];
  dims.erase(dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(last));
  strides.erase(strides.begin(), strides.begin() + static_cast<std::ptrdiff_t>(last));
  dims[0] = joined;
  strides[0] = stride;
}

// Products that oneDNN sees as fewer axes are quicker: activations times one matrix is a single 2-D product.
void simplify(Product& p, bool transposed_a) {
  size_t rank = p.y.size();
  if (rank == 2) return;
  auto batch_end = static_cast<std::ptrdiff_t>(rank) - 2;
  bool one_matrix = std::all_of(p.b.begin(), p.b.begin() + batch_end, [](int64_t d) { return d == 1; });
  if (one_matrix && !transposed_a) {
    join_leading(p.a, p.a_strides, 1);
    join_leading(p.y, p.y_strides, 1);
    join_leading(p.b, p.b_strides, 2);
    p.b.erase(p.b.begin());
    p.b_strides.erase(p.b_strides.begin());
  } else if (rank > 3 && std::equal(p.a.begin(), p.a.begin() + batch_end, p.b.begin())) {
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
// One row added to all: oneDNN's own bias.
bool is_bias(const Product& p) {
  return p.adds && p.alpha == 1 && p.beta == 1 && p.c.back() == p.n() && element_count(p.c) == p.n();
}

struct Settled {
  dnnl::matmul::primitive_desc descriptor;
  dnnl::memory::desc a, b, y, bias;
};

Settled settled_product(const Product& p) {
  auto f32 = dnnl::memory::data_type::f32;
  Settled s;
  s.a = {p.a, f32, p.a_strides};
  s.b = {p.b, f32, p.b_strides};
  s.y = {p.y, f32, p.y_strides};
  if (is_bias(p)) {
    s.bias = {p.c, f32, dense_strides(p.c)};
    s.descriptor = {cpu_engine(), s.a, s.b, s.bias, s.y, scratch_attributes()};
  } else {
    s.descriptor = {cpu_engine(), s.a, s.b, s.y, scratch_attributes()};
  }
  return s;
}

// y = alpha y + beta c, c broadcast
void scale_and_add(const Product& p, const float* c, float* y) {
  Dims rows(p.y.begin(), p.y.end() - 1);
  Dims c_strides = p.adds ? dense_strides(p.c) : Dims(rows.size() + 1, 0);
  auto alpha = static_cast<float>(p.alpha), beta = static_cast<float>(p.beta);
  parallel_for(element_count(rows), p.n(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = c;
      float* to = y;
      int64_t rest = row;
      for (size_t d = rows.size(); d-- > 0;) {
        if (c && p.c[d] != 1) from += rest % rows[d] * c_strides[d];
        to += rest % rows[d] * p.y_strides[d];
        rest /= rows[d];
      }
      int64_t step = c && p.c.back() != 1 ? 1 : 0;
      for (int64_t n = 0; n < p.n(); ++n) to[n] = alpha * to[n] + (c ? beta * from[n * step] : 0);
    }
  });
}

}  // namespace

Product make_product(const Node& node, const Dims& a, bool transpose_a, const Dims& b, bool transpose_b) {
  if (a.size() < 2 || b.size() < 2) throw ModelError(node.where(), " wants matrices, got ", a, " and ", b);
  size_t rank = std::max(a.size(), b.size());
  Product p;
  p.a = widened(a, rank);
  p.b = widened(b, rank);
  p.a_strides = dense_strides(p.a);
  p.b_strides = dense_strides(p.b);
  if (transpose_a) transpose_last(p.a, p.a_strides);
  if (transpose_b) transpose_last(p.b, p.b_strides);
  bool fits = p.a[rank - 1] == p.b[rank - 2];
  for (size_t d = 0; d + 2 < rank; ++d) {
    fits = fits && (p.a[d] == p.b[d] || p.a[d] == 1 || p.b[d] == 1);
    p.y.push_back(p.a[d] == 1 ? p.b[d] : p.a[d]);
  }
  if (!fits) {
    throw ModelError(node.where(), " cannot multiply ", a, transpose_a ? " transposed" : "", " by ", b,
                     transpose_b ? " transposed" : "");
  }
  p.y.push_back(p.a[rank - 2]);
  p.y.push_back(p.b[rank - 1]);
  p.y_strides = dense_strides(p.y);
  simplify(p, transpose_a);
  return p;
}

Kernel prepare_product_reference(DType dtype, const Product& product, const void* a, const void* b, const void* c,
                                 void* y) {
  auto bind = [&]<class T>(T) -> Kernel {
    return ReferenceProduct<T>{product, static_cast<const T*>(a), static_cast<const T*>(b), static_cast<const T*>(c),
                               static_cast<T*>(y)};
  };
  return dtype == DType::f32 ? bind(float{}) : bind(double{});
}

Settlement settle_product(const Node& node, const Product& product) {
  Settlement settlement;
  if (is_empty(product)) return settlement;
  Settled settled = with_dnnl_errors(node, [&] { return settled_product(product); });
  settlement.scratch_bytes = static_cast<int64_t>(settled.descriptor.scratchpad_desc().get_size());
  settlement.descriptor = settled;
  return settlement;
}

Kernel prepare_product(const Node& node, const Product& product, const Binding& binding) {
  const auto* c = product.adds ? binding.in<float>(2) : nullptr;
  auto* y = binding.out<float>(0);
  if (is_empty(product))
    return prepare_product_reference(DType::f32, product, binding.in<float>(0), binding.in<float>(1), c, y);
  const auto& settled = std::any_cast<const Settled&>(binding.settlement->descriptor);
  BoundPrimitive::Operands operands = {
      {DNNL_ARG_SRC, dnnl_memory(settled.a, binding.in<float>(0))},
      {DNNL_ARG_WEIGHTS, dnnl_memory(settled.b, binding.in<float>(1))},
      {DNNL_ARG_DST, dnnl_memory(settled.y, y)},
      {DNNL_ARG_SCRATCHPAD, dnnl_memory(settled.descriptor.scratchpad_desc(), binding.scratch)}};
  if (is_bias(product)) operands.emplace_back(DNNL_ARG_BIAS, dnnl_memory(settled.bias, c));
  auto multiply = with_dnnl_errors(node, [&] { return BoundPrimitive(settled.descriptor, operands); });
  if (is_bias(product) || (!c && product.alpha == 1)) return multiply;
  return [=](Stream& stream) {
    multiply(stream);
    scale_and_add(product, c, y);
  };
}

}  // namespace graft
