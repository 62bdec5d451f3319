#include "ops/pool_window.h"

namespace graft {
namespace {

Window window_on(const Node& node, const Dims& x) {
  Dims spatial = spatial_dims(x);
  bool global = node.type.starts_with("Global");
  Dims kernel = global ? spatial : node.integers("kernel_shape");
  if (kernel.size() != spatial.size())
    throw ModelError(node.where(), " attribute 'kernel_shape' is ", kernel, ", the input is ", x);
  if (!global) {
    Window window = window_of(node, spatial, kernel);
    for (size_t d = 0; d < kernel.size(); ++d) {  // else some windows would lie in the padding alone
      if (std::max(window.begin[d], window.end[d]) >= window.extent(d))
        throw ModelError(node.where(), " pads axis ", 2 + d, " by ", window.begin[d], " and ", window.end[d],
                         ": less than its window of ", window.extent(d), " allowed");
    }
    return window;
  }
  Dims ones(kernel.size(), 1), zeros(kernel.size(), 0);
  return {kernel, ones, ones, zeros, zeros};
}

}  // namespace

PoolWindow pool_window(const Node& node, const Value& x, const Value& y) {
  size_t rank = x.dims.size();
  if (rank < 3 || y.dims.size() != rank || y.dims[0] != x.dims[0] || y.dims[1] != x.dims[1]) {
    throw ModelError(node.where(), " wants an input of rank 3 or more, got ", x.dims, " and ", y.dims);
  }
  if (rank > 5) throw UnsupportedError(node.where(), " has ", rank - 2, " spatial axes: 1 to 3 are supported");
  Window window = window_on(node, x.dims);
  for (size_t d = 2; d < rank; ++d) {
    if (x.dims[d] > 0 && y.dims[d] == 0)
      throw ModelError(node.where(), " has a window of ", window.extent(d - 2), ", larger than axis ", d, " of ",
                       x.dims, " with its padding");
  }
  PoolWindow w;
  w.x = channel_view(node, x);
  w.y = channel_view(node, y);
  // A plain (N, C, 1, 1) may be seen in two ways: both must be seen in one.
  if (w.x.width != w.y.width) {
    ChannelView& single = w.x.spatial == 1 ? w.x : w.y;
    const ChannelView& other = w.x.spatial == 1 ? w.y : w.x;
    if (single.spatial != 1 || single.blocks * single.width != other.blocks * other.width)
      throw UnsupportedError(node.where(), " cannot pool from ", x.layout, " to ", y.layout);
    single.blocks = other.blocks;
    single.width = other.width;
  }
  w.counts_padding = node.integer("count_include_pad", 0) != 0;
  for (size_t d = 0; d + 2 < rank; ++d) {
    size_t to = 5 - rank + d;
    w.in[to] = x.dims[2 + d];
    w.out[to] = y.dims[2 + d];
    w.kernel[to] = window.kernel[d];
    w.stride[to] = window.strides[d];
    w.dilation[to] = window.dilations[d];
    w.begin[to] = window.begin[d];
    w.end[to] = window.end[d];
    checked_mul(w.out[to], w.stride[to]);
  }
  return w;
}

Attributes pool_attributes(const Node& node, const Dims& x) {
  Window window = window_on(node, x);
  Attributes attributes = window_attributes(window);
  attributes["kernel_shape"] = window.kernel;
  for (const char* kept : {"ceil_mode", "count_include_pad", "p"}) {
    if (node.has(kept)) attributes[kept] = node.integer(kept, 0);
  }
  return attributes;
}

std::vector<Candidate> propose_pool(const Node& node, const Value* like) {
  std::vector<Candidate> candidates = propose_plain(node);
  auto add = [&](const Layout& layout, const Dims& dims) {
    if (layout.is_plain(dims) || !channel_view(dims, layout)) return;
    Candidate candidate = candidates.back();
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const Value* input = node.inputs[i];
      if (input && !input->opaque) candidate.inputs[i] = layout_alike(layout, dims, input->dims);
    }
    candidate.outputs[0] = layout_alike(layout, dims, node.outputs[0]->dims);
    candidates.insert(candidates.begin(), candidate);
  };
  add(node.inputs[0]->layout, node.inputs[0]->dims);
  if (like && like->layout.padded.size() == like->dims.size()) add(like->layout, like->dims);
  return candidates;
}

}  // namespace graft
