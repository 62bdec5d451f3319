// MatMul, and graft.MatMul with transA and transB: gradients read operands as they lie instead of transposing them. It
// may have a vector along the columns of the result as a third operand, which is added. Behind that the result may go
// through Relu, have an operand added or become zero where an operand is not positive, and be summed over its rows.
#include "ops/axes.h"
#include "ops/gradient.h"
#include "ops/product.h"

namespace graft {
namespace {

bool transposes(const Node& node, const char* attribute) { return node.integer(attribute, 0) != 0; }

Product product_of(const Node& node) {
  MatrixOperand a(*node.inputs[0]), b(*node.inputs[1]);
  const bool vectors = a.dims.size() == 1 || b.dims.size() == 1;
  if (a.dims.size() == 1) a.dims.insert(a.dims.begin(), 1), a.strides.insert(a.strides.begin(), 0);
  if (b.dims.size() == 1) b.dims.push_back(1), b.strides.push_back(1);
  Product product = make_product(node, a, transposes(node, "transA"), b, transposes(node, "transB"),
                                 vectors ? Layout{} : node.outputs[0]->layout);
  if (node.input(2)) add_vector(product);
  product.behind = behind_of(node);
  product.sums_rows = node.output(1) != nullptr;
  if (const int64_t operand = node.integer("zero_rows", -1); operand >= 0)
    skip_zero_rows(product, operand, transposes(node, operand == 0 ? "transA" : "transB"));
  return product;
}

// Matrices are read by strides: whatever a Transpose left of them, as long as rows or columns are whole. The result is
// written so that a Transpose behind it leaves it plain.
std::vector<Candidate> propose_matmul(const Node& node) {
  std::vector<Candidate> candidates = propose_plain(node);
  Candidate strided = candidates[0];
  for (size_t i = 0; i < 2; ++i) {
    const Value& x = *node.inputs[i];
    const size_t rank = x.dims.size();
    if (rank < 2 || !x.layout.blocks.empty() || x.layout.is_padded(x.dims)) continue;
    if (x.layout.strides[rank - 1] == 1 || x.layout.strides[rank - 2] == 1) strided.inputs[i] = x.layout;
  }
  const Value& y = *node.outputs[0];
  const size_t rank = y.dims.size();
  auto layout = rank > 2 ? layout_for_transpose(y) : std::nullopt;
  const bool rows = node.input(2) && kernel_dtype(node) == DType::bf16;  // the vector is added along them
  if (layout && (layout->strides.back() == 1 || (layout->strides[rank - 2] == 1 && !rows)))
    strided.outputs[0] = *layout;
  candidates.insert(candidates.begin(), strided);
  return candidates;
}

void infer_matmul(Node& node) {
  Dims a = node.inputs[0]->dims, b = node.inputs[1]->dims;
  if (a.size() < 2 || b.size() < 2) throw ModelError(node.where(), " wants matrices, got ", a, " and ", b);
  if (transposes(node, "transA")) std::swap(a[a.size() - 1], a[a.size() - 2]);
  if (transposes(node, "transB")) std::swap(b[b.size() - 1], b[b.size() - 2]);
  Dims dims(std::max(a.size(), b.size()) - 2, 1);
  for (const Dims* operand : {&a, &b}) {
    size_t batches = operand->size() - 2;
    for (size_t d = 0; d < batches; ++d) {
      int64_t& dim = dims[dims.size() - batches + d];
      if (dim == 1) dim = (*operand)[d];
    }
  }
  dims.push_back(a[a.size() - 2]);
  dims.push_back(b[b.size() - 1]);
  const Value* c = node.input(2);
  if (c && c->dims != Dims{dims.back()})
    throw ModelError(node.where(), " adds a vector of shape ", Dims{dims.back()}, ", got ", c->dims);
  Value* y = node.outputs[0];
  y->dtype = node.inputs[0]->dtype;
  y->ranked = true;
  y->dims = dims;
  const GemmBehind behind = behind_of(node);
  const Value* beside = node.input(beside_slot);
  const bool wants = behind == GemmBehind::add || behind == GemmBehind::relu_grad;
  if (wants != (beside != nullptr) || (beside && (beside->dims != dims || beside->dtype != y->dtype)))
    throw ModelError(node.where(), " wants ", wants ? cat("an operand of shape ", dims) : "no operand",
                     " behind the product, got ", beside ? cat(beside->dtype, beside->dims) : "none");
  if (Value* sum = node.output(1)) {
    if (behind == GemmBehind::nothing) throw ModelError(node.where(), " sums rows of nothing behind the product");
    sum->dtype = y->dtype;
    sum->ranked = true;
    sum->dims = Dims(dims.size(), 1);
    sum->dims.back() = dims.back();
  }
}

std::vector<std::string> matmul_choices(const Node& node) { return product_choices(node, product_of(node)); }
Settlement settle_matmul(const Node& node, const Settlement*) { return settle_product(node, product_of(node)); }
Kernel prepare_matmul(const Node& node, const Binding& binding) {
  return prepare_product(node, product_of(node), binding);
}
std::optional<MixedPrecision> mix_matmul(const Node& node) { return mix_product(node, product_of(node)); }
std::vector<std::string> mixed_matmul_choices(const Node& node) {
  return mixed_product_choices(node, product_of(node));
}
Settlement settle_mixed_matmul(const Node& node, const Settlement*) {
  return settle_dnnl_product(node, product_of(node));
}
Kernel prepare_mixed_matmul(const Node& node, const Binding& binding) {
  return prepare_dnnl_product(node, product_of(node), binding);
}
Kernel prepare_matmul_reference(const Node& node, const Binding& binding) {
  if (behind_of(node) != GemmBehind::nothing)
    throw UnsupportedError(node.where(), " has something behind the product: allowed in float32 only");
  return prepare_product_reference(DType::f64, product_of(node), binding.inputs[0], binding.inputs[1],
                                   binding.in<double>(2), binding.outputs[0]);
}

Val multiply(const Val& a, const Val& b, bool transpose_a, bool transpose_b) {
  return call("graft", "MatMul", {a, b}, 1, {{"transA", int64_t{transpose_a}}, {"transB", int64_t{transpose_b}}})[0];
}

// All leading axes joined: (..., K) as (rows, K).
Val as_matrix(const Val& x) { return reshape(x, {element_count({x.dims().begin(), x.dims().end() - 1}), x.dim(-1)}); }

Val as_batch(const Val& x, bool vector, bool column) {
  if (!vector) return x;
  return reshape(x, column ? Dims{x.dim(0), 1} : Dims{1, x.dim(0)});
}

// y = op(a) op(b):  d op(a) = dy op(b)^T,  d op(b) = op(a)^T dy
Vals differentiate_matmul(Gradient& g) {
  if (behind_of(g.node()) != GemmBehind::nothing)
    throw UnsupportedError(g.node().where(), " has no gradient of what is behind the product: differentiate before");
  bool ta = transposes(g.node(), "transA"), tb = transposes(g.node(), "transB");
  bool row = g.x(0).rank() == 1, column = g.x(1).rank() == 1;
  Val a = as_batch(g.x(0), row, false), b = as_batch(g.x(1), column, true);
  Dims dims = g.y(0).dims();
  if (row) dims.insert(column ? dims.end() : dims.end() - 1, 1);
  if (column) dims.push_back(1);
  Val dy = reshape(g.dy(0), dims);
  Vals result(g.input_count());
  if (g.needs(2)) result[2] = unbroadcast(g.dy(0), g.x(2).dims());
  if (g.needs(0)) {
    Val da = ta ? multiply(b, dy, tb, true) : multiply(dy, b, false, !tb);
    result[0] = reshape(unbroadcast(da, a.dims()), g.x(0).dims());
  }
  if (g.needs(1)) {
    // One matrix for all rows: a single product sums over the batch as it goes.
    bool one_matrix = b.rank() == 2 && !ta;
    if (one_matrix) a = as_matrix(a), dy = as_matrix(dy);
    Val db = tb ? multiply(dy, a, true, ta) : multiply(a, dy, !ta, false);
    result[1] = reshape(unbroadcast(db, b.dims()), g.x(1).dims());
  }
  return result;
}

std::vector<KernelEntry> kernels() {
  return {{DTypes::f32, {propose_matmul, settle_matmul, prepare_matmul, matmul_choices}},
          {DTypes::bf16, {propose_matmul, settle_mixed_matmul, prepare_mixed_matmul, mixed_matmul_choices}},
          {DTypes::f64, plain_kernel(prepare_matmul_reference)}};
}

}  // namespace

std::vector<Op> matmul_ops() {
  return {{.type = "MatMul",
           .cpu = kernels(),
           .differentiate = differentiate_matmul,
           .mixed_precision = mix_matmul,
           .parameter_slots = {0, 1}},
          {.type = "MatMul",
           .domain = "graft",
           .infer = infer_matmul,
           .cpu = kernels(),
           .differentiate = differentiate_matmul,
           .mixed_precision = mix_matmul}};
}

}  // namespace graft
