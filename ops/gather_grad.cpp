// The gradient of Gather: rows are added to the rows they were taken from.
#include "ops/gradient.h"
#include "ops/op.h"

namespace graft {
namespace {

int64_t axis_of(const Node& node, const Dims& dims) {
  auto rank = static_cast<int64_t>(dims.size());
  int64_t axis = node.integer("axis", 0);
  if (axis < -rank || axis >= rank)
    throw ModelError(node.where(), " axis ", axis, " out of range for shape ", dims, ": allowed ", -rank, " to ",
                     rank - 1);
  return axis < 0 ? axis + rank : axis;
}

// (dy, indices) -> dx; attributes `axis` of Gather and `dims` of its data
void infer_gather_grad(Node& node) {
  const Value* dy = node.input(0);
  const Value* indices = node.input(1);
  if (node.inputs.size() != 2 || !dy || !indices || !is_float(dy->dtype) ||
      (indices->dtype != DType::i64 && indices->dtype != DType::i32)) {
    throw ModelError(node.where(), " wants floating-point gradients and int64 or int32 indices");
  }
  Dims dims = node.integers("dims");
  element_count(dims);
  int64_t axis = axis_of(node, dims);
  Dims gathered(dims.begin(), dims.begin() + axis);
  gathered.insert(gathered.end(), indices->dims.begin(), indices->dims.end());
  gathered.insert(gathered.end(), dims.begin() + axis + 1, dims.end());
  if (dy->dims != gathered) throw ModelError(node.where(), " dy has shape ", dy->dims, ", wanted is ", gathered);
  node.outputs[0]->dtype = dy->dtype;
  node.outputs[0]->ranked = true;
  node.outputs[0]->dims = dims;
}

struct Shape {
  explicit Shape(const Node& node) : count(node.inputs[1]->count()) {
    Dims dims = node.integers("dims");
    auto axis = static_cast<size_t>(axis_of(node, dims));
    rows = dims[axis];
    for (size_t d = 0; d < dims.size(); ++d) (d < axis ? outer : inner) *= d == axis ? 1 : dims[d];
  }
  int64_t outer = 1, rows = 0, inner = 1, count = 0;
};

// Settles every index in [0, rows): kernels throw from one thread only.
template <class Index>
void check_indices(const std::string& where, const Index* indices, const Shape& shape, int64_t* rows) {
  for (int64_t k = 0; k < shape.count; ++k) {
    auto row = static_cast<int64_t>(indices[k]);
    if (row < -shape.rows || row >= shape.rows) {
      throw DataError(where, " index ", row, " at position ", k, " is out of range: allowed ", -shape.rows, " to ",
                      shape.rows - 1);
    }
    rows[k] = row < 0 ? row + shape.rows : row;
  }
}

// dx[o, rows[k], i] += dy[o, k, i]. Threads split (o, i), so that sums have one order.
template <class T>
void add_rows(const Shape& shape, const T* dy, const int64_t* rows, T* dx, int64_t begin, int64_t end) {
  while (begin < end) {
    int64_t o = begin / shape.inner;
    int64_t first = begin % shape.inner;
    int64_t width = std::min(end - begin, shape.inner - first);
    const T* from = dy + o * shape.count * shape.inner + first;
    T* to = dx + o * shape.rows * shape.inner + first;
    for (int64_t k = 0; k < shape.count; ++k) {
      const T* source = from + k * shape.inner;
      T* target = to + rows[k] * shape.inner;
      for (int64_t i = 0; i < width; ++i) target[i] += source[i];
    }
    begin += width;
  }
}

Settlement settle_gather_grad(const Node& node, const Settlement*) {
  Settlement settlement;
  settlement.scratch_bytes = byte_count(DType::i64, node.inputs[1]->dims);
  return settlement;
}

template <class T>
Kernel prepare_gather_grad(const Node& node, const Binding& b) {
  return [shape = Shape(node), where = node.where(), narrow = node.inputs[1]->dtype == DType::i32, dy = b.in<T>(0),
          indices = b.inputs[1], rows = static_cast<int64_t*>(b.scratch), dx = b.out<T>(0)](Stream&) {
    if (narrow) check_indices(where, static_cast<const int32_t*>(indices), shape, rows);
    else check_indices(where, static_cast<const int64_t*>(indices), shape, rows);
    parallel_for(shape.outer * shape.rows * shape.inner, 1,
                 [=](int64_t begin, int64_t end) { std::fill(dx + begin, dx + end, T{0}); });
    parallel_for(shape.outer * shape.inner, shape.count,
                 [&](int64_t begin, int64_t end) { add_rows(shape, dy, rows, dx, begin, end); });
  };
}

// Linear: what flows back to dy is gathered from where it was added.
Vals differentiate_gather_grad(Gradient& g) {
  Vals gradients(2);
  if (g.needs(0)) gradients[0] = call("Gather", {g.dy(0), g.x(1)}, {{"axis", g.node().integer("axis", 0)}});
  return gradients;
}

template <class T>
KernelFunctions gather_grad_kernel() {
  return {propose_plain, settle_gather_grad, prepare_gather_grad<T>};
}

}  // namespace

std::vector<Op> gather_grad_ops() {
  return {{.type = "GatherGrad",
           .domain = "graft",
           .infer = infer_gather_grad,
           .cpu = {{DTypes::f32, gather_grad_kernel<float>()}, {DTypes::f64, gather_grad_kernel<double>()}},
           .differentiate = differentiate_gather_grad}};
}

}  // namespace graft
