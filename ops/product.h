// The matrix product behind Gemm and MatMul: y = alpha a b + beta c over batches, any operand transposed by strides.
#pragma once

#include "ops/gemm_loops.h"
#include "ops/op.h"

namespace graft {

struct Product {
  // Of one rank, 2 or more: batch axes, then (M,K), (K,N), (M,N). Batch axes of a and b are 1 where they broadcast.
  Dims a, b, y;
  Dims a_strides, b_strides, y_strides;
  double alpha = 1, beta = 1;
  bool adds = false;     // c takes part
  bool swapped = false;  // a and b are each other's, transposed: where the columns of y are not neighbours
  Dims c;                // of y's rank, 1 where it broadcasts
  std::string kernel;    // see product_choices; "": by sizes
  // What is done to y behind that, with an operand that lies as y does. Operand 3 of the node, and result 1 where the
  // sum over the rows of all batches is wanted.
  GemmBehind behind = GemmBehind::nothing;
  bool sums_rows = false;
  // Where rows of zeros are looked for, to be left out: rows of a, or the k that are rows of a^T or of b.
  enum class ZeroRows : uint8_t { none, a, a_transposed, b } zero_rows = ZeroRows::none;

  int64_t m() const { return y[y.size() - 2]; }
  int64_t n() const { return y[y.size() - 1]; }
  int64_t k() const { return a[a.size() - 1]; }
};

// Dims and strides of an operand before any transposition.
struct MatrixOperand {
  explicit MatrixOperand(const Value& value);
  Dims dims, strides;
};

// Lets a vector along the columns take part.
void add_vector(Product& product);

// The last two axes of a and b are swapped where transposed; `y` is the layout of the result.
// ModelError where the shapes do not fit.
Product make_product(const Node& node, MatrixOperand a, bool transpose_a, MatrixOperand b, bool transpose_b,
                     const Layout& y);

// The attribute `behind` of graft.MatMul: "Relu", "Add", "ReluGrad"; without it: nothing. ModelError for others.
GemmBehind behind_of(const Node& node);
constexpr size_t beside_slot = 3;

// Skips rows of zeros in operand a (0) or b (1), before transposition, where that can be done and is worth a look.
void skip_zero_rows(Product& product, int64_t operand, bool transposed);

// Plain loops.
Kernel prepare_product_reference(DType dtype, const Product& product, const void* a, const void* b, const void* c,
                                 void* y);
// float32, on gemm_loops or oneDNN: "batches", "columns" and "rows" are what the threads of gemm_loops have parts of,
// which all give the same bits; "onednn" rounds otherwise.
std::vector<std::string> product_choices(const Node& node, const Product& product);
Settlement settle_product(const Node& node, const Product& product);
Kernel prepare_product(const Node& node, const Product& product, const Binding& binding);
// Whether oneDNN has a product of these operands, of the node's types, that is more than plain loops.
bool dnnl_fits(const Node& node, const Product& product);
// Where zero_rows wants rows of zeros left out.
Settlement settle_ragged_product(const Product& product);
Kernel prepare_ragged_product(const Product& product, const Binding& binding);
// a and b in bfloat16, c in float32, y in either; on oneDNN. nullopt where it cannot.
std::optional<MixedPrecision> mix_product(const Node& node, const Product& product);
// "matmul", "inner_product": oneDNN's primitives.
std::vector<std::string> mixed_product_choices(const Node& node, const Product& product);
Settlement settle_dnnl_product(const Node& node, const Product& product);
Kernel prepare_dnnl_product(const Node& node, const Product& product, const Binding& binding);

}  // namespace graft
