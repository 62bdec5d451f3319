#include "ops/window.h"

#include <algorithm>

namespace graft {
namespace {

constexpr int64_t largest = int64_t{1} << 31;  // of any one attribute: products of two stay in int64

Dims checked_integers(const Node& node, const char* attribute, size_t count, int64_t otherwise, int64_t least) {
  Dims values = node.integers(attribute, Dims(count, otherwise));
  if (values.size() != count) {
    throw ModelError(node.where(), " attribute '", attribute, "' has ", values.size(), " entries: ", count, " wanted");
  }
  for (int64_t v : values) {
    if (v < least || v > largest)
      throw ModelError(node.where(), " attribute '", attribute, "' is ", values, ": entries from ", least, " to ",
                       largest, " allowed");
  }
  return values;
}

// Pads so that the output has ceil(input / stride) entries; the odd one goes to the end or to the beginning.
void pad_same(Window& window, const Dims& input, bool upper) {
  for (size_t d = 0; d < window.rank(); ++d) {
    int64_t outputs = (input[d] + window.strides[d] - 1) / window.strides[d];
    int64_t total = std::max<int64_t>((outputs - 1) * window.strides[d] + window.extent(d) - input[d], 0);
    window.begin[d] = upper ? total / 2 : total - total / 2;
    window.end[d] = total - window.begin[d];
  }
}

}  // namespace

int64_t Window::output(size_t axis, int64_t input) const {
  int64_t room = input + begin[axis] + end[axis] - extent(axis);
  return room < 0 ? 0 : room / strides[axis] + 1;
}

Dims Window::output(const Dims& input) const {
  Dims result;
  for (size_t d = 0; d < rank(); ++d) result.push_back(output(d, input[d]));
  return result;
}

Window window_of(const Node& node, const Dims& input, const Dims& kernel) {
  size_t rank = kernel.size();
  Window window;
  window.kernel = kernel;
  for (int64_t k : kernel) {
    if (k < 1 || k > largest)
      throw ModelError(node.where(), " kernel ", kernel, ": sizes from 1 to ", largest, " allowed");
  }
  window.strides = checked_integers(node, "strides", rank, 1, 1);
  window.dilations = checked_integers(node, "dilations", rank, 1, 1);
  for (size_t d = 0; d < rank; ++d) checked_mul(window.kernel[d], window.dilations[d]);
  Dims pads = checked_integers(node, "pads", 2 * rank, 0, 0);
  auto half = pads.begin() + static_cast<std::ptrdiff_t>(rank);
  window.begin.assign(pads.begin(), half);
  window.end.assign(half, pads.end());
  std::string auto_pad = node.text("auto_pad", "NOTSET");
  if (auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER") {
    pad_same(window, input, auto_pad == "SAME_UPPER");
  } else if (auto_pad == "VALID") {
    window.begin.assign(rank, 0);
    window.end.assign(rank, 0);
  } else if (auto_pad != "NOTSET") {
    throw ModelError(node.where(), " attribute 'auto_pad' is \"", auto_pad,
                     "\": NOTSET, SAME_UPPER, SAME_LOWER, VALID allowed");
  }
  return window;
}

Attributes window_attributes(const Window& window) {
  Dims pads = window.begin;
  pads.insert(pads.end(), window.end.begin(), window.end.end());
  return {{"strides", window.strides}, {"dilations", window.dilations}, {"pads", pads}};
}

Dims spatial_dims(const Dims& dims) {
  return {dims.begin() + std::min<std::ptrdiff_t>(2, static_cast<std::ptrdiff_t>(dims.size())), dims.end()};
}

}  // namespace graft
