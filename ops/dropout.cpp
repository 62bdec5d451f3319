// Dropout whose mask is a function of seed, name, step and logical index: fusion, layout and threads do not change it,
// and backward computes it again instead of keeping it.
#include <cmath>

#include "graph/philox.h"
#include "ops/gradient.h"

namespace graft {
namespace {

// y = x mask / (1 - ratio), mask_i = [u_i >= ratio], u_i from Philox(seed, name) at (i, step)
struct Mask {
  explicit Mask(const Node& node)
      : numbers(static_cast<uint64_t>(node.integer("seed", 0)), node.text("key", "")), ratio(node.real("ratio", 0.5)) {
    constexpr double range = 4294967296.0;
    threshold = static_cast<uint64_t>(std::llround(ratio * range));
    scale = ratio < 1 ? 1 / (1 - ratio) : 0;
  }

  template <class T>
  void apply(const T* x, T* y, bool* mask, uint64_t step, int64_t begin, int64_t end) const {
    for (int64_t block = begin / 4; block * 4 < end; ++block) {
      auto random = numbers(static_cast<uint64_t>(block), step);
      int64_t first = std::max(begin, block * 4);
      for (int64_t i = first; i < std::min(end, block * 4 + 4); ++i) {
        bool kept = random[static_cast<size_t>(i % 4)] >= threshold;
        if (y) y[i] = kept ? static_cast<T>(static_cast<double>(x[i]) * scale) : T{0};
        if (mask) mask[i] = kept;
      }
    }
  }

  Philox numbers;
  double ratio;
  uint64_t threshold = 0;
  double scale = 1;
};

// (x, step) -> (y, mask?)
void infer_dropout(Node& node) {
  const Value* x = node.input(0);
  const Value* step = node.input(1);
  if (node.inputs.size() != 2 || !x || !is_float(x->dtype) || !step || step->dtype != DType::i64 ||
      !step->dims.empty()) {
    throw ModelError(node.where(), " wants floating-point values and an int64 scalar step");
  }
  double ratio = node.real("ratio", 0.5);
  if (!(ratio >= 0 && ratio <= 1)) throw ModelError(node.where(), " ratio is ", ratio, ", allowed is 0 to 1");
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (!node.outputs[i]) continue;
    node.outputs[i]->dtype = i == 0 ? x->dtype : DType::boolean;
    node.outputs[i]->ranked = x->ranked;
    node.outputs[i]->dims = x->dims;
  }
}

template <class T>
Kernel prepare_dropout(const Node& node, const Binding& b) {
  return [mask = Mask(node), x = b.in<T>(0), step = b.in<int64_t>(1), y = b.out<T>(0), kept = b.out<bool>(1),
          count = node.inputs[0]->count()](Stream&) {
    constexpr int64_t cost = 16;
    auto now = static_cast<uint64_t>(*step);
    parallel_for(count, cost, [&](int64_t begin, int64_t end) { mask.apply(x, y, kept, now, begin, end); });
  };
}

// Linear in x: the gradient is the same mask on dy.
Vals differentiate_dropout(Gradient& g) {
  if (!g.dy(0)) return {};
  return {call("graft", "Dropout", {g.dy(0), g.x(1)}, 1, g.node().attributes)[0]};
}

// ONNX's own Dropout (x, ratio?, training_mode?) -> (y, mask?), as a file keeps it for inference: y = x.
template <class T>
Kernel prepare_inference(const Node& node, const Binding& b) {
  return [x = b.in<T>(0), training = b.in<bool>(2), y = b.out<T>(0), mask = b.out<bool>(1),
          count = node.inputs[0]->count(), where = node.where()](Stream&) {
    if (training && *training) throw UnsupportedError(where, " is in training mode, but has no random numbers");
    if (y && y != x) std::copy(x, x + count, y);
    if (mask) std::fill(mask, mask + count, true);
  };
}

Vals differentiate_inference(Gradient& g) { return {g.dy(0)}; }

}  // namespace

std::vector<Op> dropout_ops() {
  return {
      {.type = "Dropout",
       .cpu = {{DTypes::f32, plain_in_place_kernel(prepare_inference<float>)},
               {DTypes::f64, plain_in_place_kernel(prepare_inference<double>)}},
       .differentiate = differentiate_inference},
      {.type = "Dropout",
       .domain = "graft",
       .infer = infer_dropout,
       .cpu = {{DTypes::f32, plain_in_place_kernel(prepare_dropout<float>)},
               {DTypes::f64, plain_in_place_kernel(prepare_dropout<double>)}},
       .differentiate = differentiate_dropout},
  };
}

}  // namespace graft
