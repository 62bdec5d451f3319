// ConstantOfShape: one value everywhere. Range: start, start + delta, ...
#include <cmath>
#include <type_traits>

#include "ops/element_size.h"
#include "ops/gradient.h"

namespace graft {
namespace {

// One element of the attribute `value`, float 0 by default.
Tensor value_of(const Node& node) {
  auto found = node.attributes.find("value");
  if (found == node.attributes.end()) return Tensor::scalar<float>(0);
  const auto* value = std::get_if<Tensor>(&found->second);
  if (!value || value->count() != 1) throw ModelError(node.where(), " wants a value of one element");
  return *value;
}

Kernel prepare_constant(const Node& node, const Binding& binding) {
  Tensor value = value_of(node);
  return with_element_size(node, value.dtype(), [&]<class T>(T) -> Kernel {
    return [filling = *static_cast<const T*>(value.raw()), count = node.outputs[0]->count(),
            y = binding.out<T>(0)](Stream&) {
      parallel_for(count, 1, [=](int64_t begin, int64_t end) { std::fill(y + begin, y + end, filling); });
    };
  });
}

// max(0, ceil((limit - start) / delta))
template <class T>
int64_t range_count(const Node& node) {
  const T start = *node.inputs[0]->data.data<T>(), limit = *node.inputs[1]->data.data<T>(),
          delta = *node.inputs[2]->data.data<T>();
  if (!(delta > 0 || delta < 0)) throw ModelError(node.where(), " has delta ", +delta, ": allowed is any but 0");
  if constexpr (std::is_integral_v<T>) {
    if (delta > 0 ? start >= limit : start <= limit) return 0;
    auto wide = [](T number) { return static_cast<uint64_t>(number); };  // differences wrap around, and are right
    const uint64_t span = delta > 0 ? wide(limit) - wide(start) : wide(start) - wide(limit);
    const uint64_t step = delta > 0 ? wide(delta) : 0 - wide(delta);
    return static_cast<int64_t>(std::min<uint64_t>((span - 1) / step + 1, INT64_MAX));
  } else {
    const double count =
        std::ceil((static_cast<double>(limit) - static_cast<double>(start)) / static_cast<double>(delta));
    if (!(count < 0x1p62)) throw ModelError(node.where(), " from ", start, " to ", limit, " by ", delta, " has no end");
    return static_cast<int64_t>(std::max(count, 0.0));
  }
}

// Calls f with the type of the numbers, one of those that ONNX allows.
template <class F>
auto with_range_type(const Node& node, DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::i16: return f(int16_t{});
    case DType::i32: return f(int32_t{});
    case DType::i64: return f(int64_t{});
    default: throw UnsupportedError(node.where(), " has no kernel for ", dtype);
  }
}

// Start, limit and delta are scalars of one type; where they are not known, the length of the result is not either.
void infer_range(Node& node) {
  bool known = true;
  for (size_t i = 0; i < 3; ++i) {
    const Value* value = node.input(i);
    if (!value || value->dtype != node.inputs[0]->dtype || (value->shaped() && value->count() != 1))
      throw ModelError(node.where(), " wants start, limit and delta as scalars of one type");
    known = known && value->is_constant();
  }
  Value* y = node.outputs.at(0);
  y->dtype = node.inputs[0]->dtype;
  y->ranked = true;
  y->dims = {-1};
  if (known) y->dims = {with_range_type(node, y->dtype, [&]<class T>(T) { return range_count<T>(node); })};
}

// y[i] = start + i * delta
template <class T>
Kernel prepare_range_of(const Node& node, const Binding& binding) {
  return [count = node.outputs[0]->count(), start = binding.in<T>(0), delta = binding.in<T>(2),
          y = binding.out<T>(0)](Stream&) {
    for (int64_t i = 0; i < count; ++i) y[i] = static_cast<T>(*start + static_cast<T>(i) * *delta);
  };
}

Kernel prepare_range(const Node& node, const Binding& binding) {
  return with_range_type(node, node.outputs[0]->dtype, [&]<class T>(T) { return prepare_range_of<T>(node, binding); });
}

}  // namespace

std::vector<Op> constant_of_shape_ops() {
  return {{.type = "ConstantOfShape",
           .cpu = {{DTypes::any, plain_kernel(prepare_constant)}},
           .gradient = GradientStatus::zero},
          {.type = "Range",
           .infer = infer_range,
           .cpu = {{DTypes::any, plain_kernel(prepare_range)}},
           .gradient = GradientStatus::zero}};
}

}  // namespace graft
