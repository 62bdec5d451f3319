// Gather: slices of data along an axis, in the order of the indices. GatherGrad adds them back.
#include "ops/axes.h"
#include "ops/element_size.h"
#include "ops/gradient.h"
#include "ops/indices.h"
#include "ops/part.h"

namespace graft {
namespace {

// data (outer, rows, inner) -> y (outer, count, inner)
struct Shape {
  Shape(const Node& node, const Dims& data, const Value& indices) : count(indices.count()) {
    size_t axis = checked_axis(node, node.integer("axis", 0), data.size());
    rows = data[axis];
    for (size_t d = 0; d < data.size(); ++d) (d < axis ? outer : inner) *= d == axis ? 1 : data[d];
  }
  int64_t outer = 1, rows = 0, inner = 1, count = 0;
};

Settlement settle_indices(const Node& node, const Settlement*) {
  return {.scratch_bytes = byte_count(DType::i64, node.inputs[1]->dims)};
}

// y[o, k, i] = data[o, rows[k], i], elements [begin, end) of y
template <class T>
void take_rows(const Shape& shape, const T* data, const int64_t* rows, T* y, int64_t begin, int64_t end) {
  while (begin < end) {
    const int64_t row = begin / shape.inner, first = begin % shape.inner;
    const int64_t o = row / shape.count, k = row % shape.count;
    const T* from = data + o * shape.rows * shape.inner;
    if (shape.inner == 1) {
      const int64_t last = std::min(shape.count, k + end - begin);
      for (int64_t j = k; j < last; ++j) y[begin++] = from[rows[j]];
      continue;
    }
    const int64_t width = std::min(end - begin, shape.inner - first);
    std::copy_n(from + rows[k] * shape.inner + first, width, y + begin);
    begin += width;
  }
}

Kernel prepare_gather(const Node& node, const Binding& b) {
  return with_element_size(node, node.inputs[0]->dtype, [&]<class T>(T) -> Kernel {
    Shape shape(node, node.inputs[0]->dims, *node.inputs[1]);
    return [shape, indices = Indices(node, 1), given = b.inputs[1], rows = static_cast<int64_t*>(b.scratch),
            data = b.in<T>(0), y = b.out<T>(0)](Stream&) {
      indices.resolve(given, shape.rows, rows);
      parallel_for(shape.outer * shape.count * shape.inner, 1,
                   [=](int64_t begin, int64_t end) { take_rows(shape, data, rows, y, begin, end); });
    };
  });
}

Vals gather_rule(Gradient& g) {
  Vals gradients(2);
  if (g.needs(0)) {
    Attributes attributes = {{"axis", g.node().integer("axis", 0)}, {"dims", g.x(0).dims()}};
    gradients[0] = call("graft", "GatherGrad", {g.dy(0), g.x(1)}, 1, attributes)[0];
  }
  return gradients;
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
  auto axis = static_cast<std::ptrdiff_t>(checked_axis(node, node.integer("axis", 0), dims.size()));
  Dims gathered(dims.begin(), dims.begin() + axis);
  gathered.insert(gathered.end(), indices->dims.begin(), indices->dims.end());
  gathered.insert(gathered.end(), dims.begin() + axis + 1, dims.end());
  if (dy->dims != gathered) throw ModelError(node.where(), " dy has shape ", dy->dims, ", wanted is ", gathered);
  node.outputs[0]->dtype = dy->dtype;
  node.outputs[0]->ranked = true;
  node.outputs[0]->dims = dims;
}

// dx[o, rows[k], i] += dy[o, k, i] for i in [first, last). Every sum has one order, however threads share the columns.
template <class T>
void add_rows(const Shape& shape, const T* dy, const int64_t* rows, T* dx, int64_t o, int64_t first, int64_t last) {
  for (int64_t k = 0; k < shape.count; ++k) {
    const T* from = dy + (o * shape.count + k) * shape.inner;
    T* to = dx + (o * shape.rows + rows[k]) * shape.inner;
    for (int64_t i = first; i < last; ++i) to[i] += from[i];
  }
}

template <class T>
Kernel prepare_gather_grad(const Node& node, const Binding& b) {
  Shape shape(node, node.outputs[0]->dims, *node.inputs[1]);
  return [shape, indices = Indices(node, 1), dy = b.in<T>(0), given = b.inputs[1],
          rows = static_cast<int64_t*>(b.scratch), dx = b.out<T>(0), bytes = storage_bytes(*node.outputs[0])](Stream&) {
    indices.resolve(given, shape.rows, rows);
    fill_zero(dx, bytes);
    // Columns by cache lines: threads must not write to the same one.
    constexpr int64_t width = 64 / sizeof(T);
    const int64_t strips = (shape.inner + width - 1) / width;
    parallel_for(shape.outer * strips, shape.count * width, [=](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t o = begin / strips, strip = begin % strips;
        const int64_t take = std::min(end - begin, strips - strip);
        add_rows(shape, dy, rows, dx, o, strip * width, std::min((strip + take) * width, shape.inner));
        begin += take;
      }
    });
  };
}

// Linear: what flows back to dy is gathered from where it was added.
Vals gather_grad_rule(Gradient& g) {
  Vals gradients(2);
  if (g.needs(0)) gradients[0] = call("Gather", {g.dy(0), g.x(1)}, {{"axis", g.node().integer("axis", 0)}});
  return gradients;
}

}  // namespace

std::vector<Op> gather_ops() {
  return {{.type = "Gather",
           .cpu = {{DTypes::any, {propose_plain, settle_indices, prepare_gather}}},
           .differentiate = gather_rule,
           .mixed_precision = moves_elements},
          {.type = "GatherGrad",
           .domain = "graft",
           .infer = infer_gather_grad,
           .cpu = {{DTypes::f32, {propose_plain, settle_indices, prepare_gather_grad<float>}},
                   {DTypes::f64, {propose_plain, settle_indices, prepare_gather_grad<double>}}},
           .differentiate = gather_grad_rule}};
}

}  // namespace graft
