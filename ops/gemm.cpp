// Gemm: y = alpha op(a) op(b) + beta c
#include "ops/gradient.h"
#include "ops/product.h"

namespace graft {
namespace {

struct GemmAttributes {
  explicit GemmAttributes(const Node& node)
      : alpha(node.real("alpha", 1)),
        beta(node.real("beta", 1)),
        ta(node.integer("transA", 0) != 0),
        tb(node.integer("transB", 0) != 0) {}
  double alpha, beta;
  bool ta, tb;
};

Product product_of(const Node& node) {
  GemmAttributes attributes(node);
  const Value &a = *node.inputs[0], &b = *node.inputs[1];
  if (a.dims.size() != 2 || b.dims.size() != 2)
    throw ModelError(node.where(), " wants two matrices, got ", a.dims, " and ", b.dims);
  Product product = make_product(node, MatrixOperand(a), attributes.ta, MatrixOperand(b), attributes.tb, {});
  product.alpha = attributes.alpha;
  product.beta = attributes.beta;
  if (const int64_t operand = node.integer("zero_rows", -1); operand >= 0)
    skip_zero_rows(product, operand, operand == 0 ? attributes.ta : attributes.tb);
  if (const Value* c = node.input(2)) {
    product.adds = true;
    product.c = c->dims;
    while (product.c.size() < 2) product.c.insert(product.c.begin(), 1);
    bool fits = product.c.size() == 2;
    for (size_t d = 0; fits && d < 2; ++d) fits = product.c[d] == 1 || product.c[d] == product.y[d];
    if (!fits) throw ModelError(node.where(), " cannot add ", c->dims, " to ", product.y);
  }
  return product;
}

std::vector<std::string> gemm_choices(const Node& node) { return product_choices(node, product_of(node)); }
Settlement settle_gemm(const Node& node, const Settlement*) { return settle_product(node, product_of(node)); }
Kernel prepare_gemm(const Node& node, const Binding& binding) {
  return prepare_product(node, product_of(node), binding);
}
std::optional<MixedPrecision> mix_gemm(const Node& node) { return mix_product(node, product_of(node)); }
std::vector<std::string> mixed_gemm_choices(const Node& node) { return mixed_product_choices(node, product_of(node)); }
Settlement settle_mixed_gemm(const Node& node, const Settlement*) {
  return settle_dnnl_product(node, product_of(node));
}
Kernel prepare_mixed_gemm(const Node& node, const Binding& binding) {
  return prepare_dnnl_product(node, product_of(node), binding);
}
Kernel prepare_gemm_reference(const Node& node, const Binding& binding) {
  return prepare_product_reference(DType::f64, product_of(node), binding.in<double>(0), binding.in<double>(1),
                                   binding.in<double>(2), binding.out<double>(0));
}

Val multiply(double alpha, const Val& a, const Val& b, bool ta, bool tb) {
  return call("Gemm", {a, b}, {{"alpha", alpha}, {"transA", int64_t{ta}}, {"transB", int64_t{tb}}});
}

// d op(a) = alpha dy op(b)^T,  d op(b) = alpha op(a)^T dy,  dc = beta dy
Vals differentiate_gemm(Gradient& g) {
  GemmAttributes t(g.node());
  Val a = g.x(0), b = g.x(1), dy = g.dy(0);
  Vals result(3);
  // First what becomes one pass with the activation's gradient before it.
  if (g.needs(2)) {
    Val dc = unbroadcast(dy, g.x(2).dims());
    result[2] = t.beta == 1 ? dc : dc * t.beta;
  }
  if (g.needs(0)) result[0] = t.ta ? multiply(t.alpha, b, dy, t.tb, true) : multiply(t.alpha, dy, b, false, !t.tb);
  if (g.needs(1)) result[1] = t.tb ? multiply(t.alpha, dy, a, true, t.ta) : multiply(t.alpha, a, dy, !t.ta, false);
  return result;
}

}  // namespace

std::vector<Op> gemm_ops() {
  return {{.type = "Gemm",
           .cpu = {{DTypes::f32, {propose_plain, settle_gemm, prepare_gemm, gemm_choices}},
                   {DTypes::bf16, {propose_plain, settle_mixed_gemm, prepare_mixed_gemm, mixed_gemm_choices}},
                   {DTypes::f64, plain_kernel(prepare_gemm_reference)}},
           .differentiate = differentiate_gemm,
           .mixed_precision = mix_gemm,
           .parameter_slots = {1, 2}}};
}

}  // namespace graft
