// Sliding windows of convolutions and pooling: kernel, strides, dilations and padding, one entry a spatial axis.
#pragma once

#include "graph/graph.h"

namespace graft {

struct Window {
  Dims kernel, strides, dilations;
  Dims begin, end;  // padding before and after

  size_t rank() const { return kernel.size(); }
  // Extent that one window covers, dilation included.
  int64_t extent(size_t axis) const { return (kernel[axis] - 1) * dilations[axis] + 1; }
  // Output size of an input size, last partial window left out; 0 where no window fits.
  int64_t output(size_t axis, int64_t input) const;
  Dims output(const Dims& input) const;
};

// The window of a Conv or pooling node on an input of spatial dims `input`, auto_pad resolved.
// ModelError where attributes do not fit.
Window window_of(const Node& node, const Dims& input, const Dims& kernel);
// Explicit strides, dilations and pads: what private operators carry.
Attributes window_attributes(const Window& window);

// Dims after batch and channel.
Dims spatial_dims(const Dims& dims);

}  // namespace graft
