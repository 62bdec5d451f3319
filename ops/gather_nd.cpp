// GatherND: y[t, ..] = data[indices[t, 0], indices[t, 1], .., ..]. ScatterND: y = data, but there y[..] = updates[t,
// ..].
#include <algorithm>
#include <atomic>

#include "ops/gradient.h"
#include "ops/reduction.h"

namespace graft {
namespace {

// data (batches, extents.., inner), indices (batches, per_batch, extents.size())
struct Tuples {
  Tuples(const Node& node, const Dims& data, const Dims& indices, size_t batch_dims) {
    const size_t width = indices.empty() ? 0 : static_cast<size_t>(indices.back());
    bool fits = !indices.empty() && batch_dims < indices.size() && batch_dims + width <= data.size();
    for (size_t d = 0; fits && d < batch_dims; ++d) fits = data[d] == indices[d];
    if (!fits || indices.back() < 0) {
      throw ModelError(node.where(), " has indices of shape ", indices, " for data of shape ", data, " with ",
                       batch_dims, " batch dims");
    }
    auto at = [](const Dims& dims, size_t d) { return dims.begin() + static_cast<std::ptrdiff_t>(d); };
    batches = element_count({data.begin(), at(data, batch_dims)});
    per_batch = element_count({at(indices, batch_dims), indices.end() - 1});
    extents = {at(data, batch_dims), at(data, batch_dims + width)};
    rest = {at(data, batch_dims + width), data.end()};
    inner = element_count(rest);
    strides = Dims(width);
    batch_stride = inner;
    for (size_t d = width; d-- > 0; batch_stride *= extents[d]) strides[d] = batch_stride;
  }

  int64_t count() const { return batches * per_batch; }

  // offsets[t] = the first element of data that tuple t names, each index counted from the front.
  void resolve(const std::string& where, const int64_t* indices, int64_t* offsets) const {
    std::atomic<int64_t> first_bad{count()};  // kernels throw from one thread only
    const auto width = static_cast<int64_t>(extents.size());
    parallel_for(count(), width, [&](int64_t begin, int64_t end) {
      int64_t bad = count();
      for (int64_t t = end; t-- > begin;) {
        offsets[t] = t / per_batch * batch_stride;
        for (int64_t d = 0; d < width; ++d) {
          const int64_t extent = extents[static_cast<size_t>(d)];
          int64_t index = indices[t * width + d];
          if (index < -extent || index >= extent) bad = t, index = 0;
          offsets[t] += (index < 0 ? index + extent : index) * strides[static_cast<size_t>(d)];
        }
      }
      int64_t known = first_bad;
      while (bad < known && !first_bad.compare_exchange_weak(known, bad)) {
      }
    });
    if (first_bad == count()) return;
    const int64_t* tuple = indices + first_bad * width;
    throw DataError(where, " indices ", Dims(tuple, tuple + width), " at position ", first_bad.load(),
                    " are out of range for dims ", extents);
  }

  int64_t batches, per_batch, inner, batch_stride;
  Dims extents, strides, rest;
};

size_t batch_dims(const Node& node) {
  int64_t given = node.integer("batch_dims", 0);
  if (given < 0) throw ModelError(node.where(), " has batch_dims ", given, ": allowed is 0 and more");
  return static_cast<size_t>(given);
}

Settlement settle_offsets(const Node& node, const Settlement*) {
  if (node.inputs[1]->dims.empty()) throw ModelError(node.where(), " has a scalar for indices");
  Dims tuples(node.inputs[1]->dims.begin(), node.inputs[1]->dims.end() - 1);
  return {.scratch_bytes = byte_count(DType::i64, tuples)};
}

Kernel prepare_gather(const Node& node, const Binding& b) {
  return with_element_size(node, node.inputs[0]->dtype, [&]<class T>(T) -> Kernel {
    return [tuples = Tuples(node, node.inputs[0]->dims, node.inputs[1]->dims, batch_dims(node)), where = node.where(),
            data = b.in<T>(0), indices = b.in<int64_t>(1), offsets = static_cast<int64_t*>(b.scratch),
            y = b.out<T>(0)](Stream&) {
      tuples.resolve(where, indices, offsets);
      const int64_t inner = tuples.inner;
      parallel_for(tuples.count() * inner, 1, [=](int64_t begin, int64_t end) {
        while (begin < end) {
          const int64_t t = begin / inner, first = begin % inner, width = std::min(end - begin, inner - first);
          std::copy_n(data + offsets[t] + first, width, y + begin);
          begin += width;
        }
      });
    };
  });
}

Vals gather_rule(Gradient& g) {
  Vals gradients(2);
  if (!g.needs(0)) return gradients;
  const Dims& data = g.x(0).dims();
  Tuples tuples(g.node(), data, g.x(1).dims(), batch_dims(g.node()));
  Val indices = g.x(1), dy = g.dy(0);
  Dims scattered = data;
  if (tuples.batches != 1 || batch_dims(g.node()) > 0) {
    // ScatterND knows no batches: they become an index of their own.
    std::vector<int64_t> batch(static_cast<size_t>(tuples.count()));
    for (size_t t = 0; t < batch.size(); ++t) batch[t] = static_cast<int64_t>(t) / tuples.per_batch;
    Val of_batch = constant(g.graph(), Tensor::of<int64_t>({tuples.count(), 1}, batch));
    const auto width = static_cast<int64_t>(tuples.extents.size());
    indices = call("Concat", {of_batch, reshape(indices, {tuples.count(), width})}, {{"axis", int64_t{1}}});
    Dims updates = {tuples.count()};
    scattered = {tuples.batches};
    scattered.insert(scattered.end(), tuples.extents.begin(), tuples.extents.end());
    for (Dims* dims : {&updates, &scattered}) dims->insert(dims->end(), tuples.rest.begin(), tuples.rest.end());
    dy = reshape(dy, updates);
  }
  Val zeros = expand(constant_like(dy, 0), scattered);
  gradients[0] = reshape(call("ScatterND", {zeros, indices, dy}, {{"reduction", std::string("add")}}), data);
  return gradients;
}

void infer_scatter(Node& node) {
  const Value *data = node.input(0), *indices = node.input(1), *updates = node.input(2);
  if (node.inputs.size() != 3 || !data || !indices || !updates || data->dtype != updates->dtype ||
      indices->dtype != DType::i64) {
    throw ModelError(node.where(), " wants data, int64 indices and updates of the type of data");
  }
  if (data->shaped() && indices->shaped() && updates->shaped()) {
    Tuples tuples(node, data->dims, indices->dims, 0);
    Dims wanted(indices->dims.begin(), indices->dims.end() - 1);
    wanted.insert(wanted.end(), tuples.rest.begin(), tuples.rest.end());
    if (updates->dims != wanted)
      throw ModelError(node.where(), " has updates of shape ", updates->dims, ", wanted is ", wanted);
  }
  Value* y = node.outputs.at(0);
  y->dtype = data->dtype;
  y->ranked = data->ranked;
  y->dims = data->dims;
}

Settlement settle_scatter(const Node& node, const Settlement* forward) {
  Settlement settlement = settle_offsets(node, forward);
  settlement.in_place = {{0, 0}};
  return settlement;
}

// Threads share the columns, so that elements that meet are reduced in one order.
Kernel prepare_scatter(const Node& node, const Binding& b) {
  return with_reduction(node, node.inputs[0]->dtype, [&]<class T, class Reduce>(T, Reduce reduce) -> Kernel {
    return [tuples = Tuples(node, node.inputs[0]->dims, node.inputs[1]->dims, 0), where = node.where(), reduce,
            size = node.outputs[0]->count(), data = b.in<T>(0), indices = b.in<int64_t>(1), updates = b.in<T>(2),
            offsets = static_cast<int64_t*>(b.scratch), y = b.out<T>(0)](Stream&) {
      tuples.resolve(where, indices, offsets);
      if (y != data)
        parallel_for(size, 1, [=](int64_t begin, int64_t end) { std::copy(data + begin, data + end, y + begin); });
      constexpr int64_t line = 64 / sizeof(T);
      const int64_t inner = tuples.inner, count = tuples.count();
      parallel_for((inner + line - 1) / line, count * line, [=](int64_t begin, int64_t end) {
        const int64_t last = std::min(end * line, inner);
        for (int64_t t = 0; t < count; ++t) {
          for (int64_t i = begin * line; i < last; ++i) reduce(y[offsets[t] + i], updates[t * inner + i]);
        }
      });
    };
  });
}

Vals scatter_rule(Gradient& g) {
  const std::string reduction = g.node().text("reduction", "none");
  if (reduction != "none" && reduction != "add")
    throw UnsupportedError(g.node().where(), " has no gradient for reduction \"", reduction, "\"");
  Vals gradients(3);
  if (g.needs(0) && reduction == "add") gradients[0] = g.dy(0);
  if (g.needs(0) && reduction == "none")
    gradients[0] = call("ScatterND", {g.dy(0), g.x(1), expand(constant_like(g.dy(0), 0), g.x(2).dims())});
  if (g.needs(2)) gradients[2] = call("GatherND", {g.dy(0), g.x(1)});
  return gradients;
}

}  // namespace

std::vector<Op> gather_nd_ops() {
  return {{.type = "GatherND",
           .cpu = {{DTypes::any, {propose_plain, settle_offsets, prepare_gather}}},
           .differentiate = gather_rule},
          {.type = "ScatterND",
           .infer = infer_scatter,
           .cpu = {{DTypes::any, {propose_plain, settle_scatter, prepare_scatter}}},
           .differentiate = scatter_rule}};
}

}  // namespace graft
