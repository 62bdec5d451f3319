// GatherElements: y[.., k, ..] = data[.., indices[.., k, ..], ..], all of one rank.
// ScatterElements: y = data, but y[.., indices[.., k, ..], ..] = updates[.., k, ..].
#include <algorithm>

#include "ops/axes.h"
#include "ops/gradient.h"
#include "ops/indices.h"
#include "ops/reduction.h"

namespace graft {
namespace {

// Lines of elements along the axis, by their place in the other axes of `indices`. Different lines meet different
// elements of data, so that threads share them.
struct Lines {
  Lines(const Node& node, const Dims& data, const Dims& indices) {
    if (indices.size() != data.size())
      throw ModelError(node.where(), " has indices of shape ", indices, " for data of shape ", data,
                       ": allowed is the same rank");
    const size_t axis = checked_axis(node, node.integer("axis", 0), data.size());
    const Dims data_strides = Layout::plain(data).strides, index_strides = Layout::plain(indices).strides;
    rows = data[axis];
    length = indices[axis];
    data_step = data_strides[axis];
    index_step = index_strides[axis];
    for (size_t d = 0; d < data.size(); ++d) {
      if (d == axis) continue;
      if (indices[d] > data[d]) {
        throw ModelError(node.where(), " has indices of shape ", indices, " for data of shape ", data,
                         ": allowed are smaller dims only, but for the axis");
      }
      others.push_back({indices[d], index_strides[d], data_strides[d]});
      count *= indices[d];
    }
    if (axis + 1 == data.size()) others.push_back({1, 1, 1});
  }

  // f(i, d) for every element i of indices on lines [begin, end), where `found` has its index, and its place d in data.
  template <class F>
  void for_each(const int64_t* found, int64_t begin, int64_t end, F f) const {
    while (begin < end) {
      const int64_t first = begin % others.back().extent;
      const int64_t width = std::min(others.back().extent - first, end - begin);
      int64_t rest = begin, i = 0, d = 0;
      for (size_t k = others.size(); k-- > 0;) {
        i += rest % others[k].extent * others[k].index_stride;
        d += rest % others[k].extent * others[k].data_stride;
        rest /= others[k].extent;
      }
      for (int64_t k = 0; k < length; ++k, i += index_step) {
        for (int64_t j = 0; j < width; ++j) f(i + j, d + j + found[i + j] * data_step);
      }
      begin += width;
    }
  }

  struct Axis {
    int64_t extent, index_stride, data_stride;
  };
  std::vector<Axis> others;  // the last one is contiguous, or of extent 1
  int64_t count = 1;
  int64_t length, rows, data_step, index_step;
};

Kernel prepare_gather(const Node& node, const Binding& b) {
  return with_element_size(node, node.inputs[0]->dtype, [&]<class T>(T) -> Kernel {
    return
        [lines = Lines(node, node.inputs[0]->dims, node.inputs[1]->dims), indices = Indices(node, 1), data = b.in<T>(0),
         given = b.inputs[1], found = static_cast<int64_t*>(b.scratch), y = b.out<T>(0)](Stream&) {
          indices.resolve(given, lines.rows, found);
          parallel_for(lines.count, lines.length, [&](int64_t begin, int64_t end) {
            lines.for_each(found, begin, end, [=](int64_t i, int64_t d) { y[i] = data[d]; });
          });
        };
  });
}

Settlement settle_gather(const Node& node, const Settlement*) {
  return {.scratch_bytes = byte_count(DType::i64, node.inputs[1]->dims)};
}

Vals gather_rule(Gradient& g) {
  Vals gradients(2);
  if (!g.needs(0)) return gradients;
  Val zeros = expand(constant_like(g.dy(0), 0), g.x(0).dims());
  gradients[0] = call("ScatterElements", {zeros, g.x(1), g.dy(0)},
                      {{"axis", g.node().integer("axis", 0)}, {"reduction", std::string("add")}});
  return gradients;
}

void infer_scatter(Node& node) {
  const Value *data = node.input(0), *indices = node.input(1), *updates = node.input(2);
  if (node.inputs.size() != 3 || !data || !indices || !updates || data->dtype != updates->dtype)
    throw ModelError(node.where(), " wants data, indices and updates of the type of data");
  bool same_rank = data->dims.size() == indices->dims.size();
  if (data->shaped() && indices->shaped() && updates->shaped() && (!same_rank || indices->dims != updates->dims)) {
    throw ModelError(node.where(), " has data of shape ", data->dims, ", indices ", indices->dims, " and updates ",
                     updates->dims, ": allowed is one rank, and one shape of the last two");
  }
  Value* y = node.outputs.at(0);
  y->dtype = data->dtype;
  y->ranked = data->ranked;
  y->dims = data->dims;
}

Settlement settle_scatter(const Node& node, const Settlement* forward) {
  Settlement settlement = settle_gather(node, forward);
  settlement.in_place = {{0, 0}};
  return settlement;
}

Kernel prepare_scatter(const Node& node, const Binding& b) {
  return with_reduction(node, node.inputs[0]->dtype, [&]<class T, class Reduce>(T, Reduce reduce) -> Kernel {
    return [lines = Lines(node, node.inputs[0]->dims, node.inputs[1]->dims), indices = Indices(node, 1), reduce,
            count = node.outputs[0]->count(), data = b.in<T>(0), given = b.inputs[1], updates = b.in<T>(2),
            found = static_cast<int64_t*>(b.scratch), y = b.out<T>(0)](Stream&) {
      indices.resolve(given, lines.rows, found);
      if (y != data)
        parallel_for(count, 1, [=](int64_t begin, int64_t end) { std::copy(data + begin, data + end, y + begin); });
      parallel_for(lines.count, lines.length, [&](int64_t begin, int64_t end) {
        lines.for_each(found, begin, end, [=](int64_t i, int64_t d) { reduce(y[d], updates[i]); });
      });
    };
  });
}

Vals scatter_rule(Gradient& g) {
  const std::string reduction = g.node().text("reduction", "none");
  if (reduction != "none" && reduction != "add")
    throw UnsupportedError(g.node().where(), " has no gradient for reduction \"", reduction, "\"");
  Attributes axis = {{"axis", g.node().integer("axis", 0)}};
  Vals gradients(3);
  if (g.needs(0) && reduction == "add") gradients[0] = g.dy(0);
  if (g.needs(0) && reduction == "none") {
    Val zeros = expand(constant_like(g.dy(0), 0), g.x(2).dims());
    gradients[0] = call("ScatterElements", {g.dy(0), g.x(1), zeros}, axis);
  }
  if (g.needs(2)) gradients[2] = call("GatherElements", {g.dy(0), g.x(1)}, axis);
  return gradients;
}

}  // namespace

std::vector<Op> gather_elements_ops() {
  return {{.type = "GatherElements",
           .cpu = {{DTypes::any, {propose_plain, settle_gather, prepare_gather}}},
           .differentiate = gather_rule},
          {.type = "ScatterElements",
           .infer = infer_scatter,
           .cpu = {{DTypes::any, {propose_plain, settle_scatter, prepare_scatter}}},
           .differentiate = scatter_rule}};
}

}  // namespace graft
