#include "ops/channel_view.h"

#include <numeric>

namespace graft {
namespace {

Layout channels_last(const Dims& dims) {
  std::vector<int> order = {0};
  for (size_t d = 2; d < dims.size(); ++d) order.push_back(static_cast<int>(d));
  order.push_back(1);
  return Layout::permuted(dims, order);
}

}  // namespace

Layout blocked_axis(const Dims& dims, size_t axis, int64_t width) {
  Dims outer = dims;
  outer[axis] = (dims[axis] + width - 1) / width;
  Layout layout = Layout::plain(outer);
  for (int64_t& stride : layout.strides) stride = checked_mul(stride, width);
  layout.padded = dims;
  layout.padded[axis] = checked_mul(outer[axis], width);
  layout.blocks = {{static_cast<int>(axis), width}};
  return layout;
}

Layout blocked_channels(const Dims& dims, int64_t width) { return blocked_axis(dims, 1, width); }

std::optional<ChannelView> channel_view(const Dims& dims, const Layout& layout) {
  if (dims.size() < 2) return std::nullopt;
  ChannelView view{.batch = dims[0], .channels = dims[1]};
  view.spatial = element_count({dims.begin() + 2, dims.end()});
  if (layout.is_plain(dims)) {
    // A plain (N, C) is channels-last, too, and quicker that way.
    view.blocks = view.spatial == 1 ? 1 : dims[1];
    view.width = view.spatial == 1 ? dims[1] : 1;
  } else if (layout == channels_last(dims)) {
    view.blocks = 1;
    view.width = dims[1];
  } else if (layout.blocks.size() == 1 && layout == blocked_channels(dims, layout.blocks[0].size)) {
    view.width = layout.blocks[0].size;
    view.blocks = layout.padded[1] / view.width;
  } else {
    return std::nullopt;
  }
  return view;
}

ChannelView channel_view(const Node& node, const Value& value) {
  auto view = channel_view(value.dims, value.layout);
  if (!view) throw UnsupportedError(node.where(), " cannot work on the layout ", value.layout);
  return *view;
}

Layout layout_alike(const Layout& layout, const Dims& dims, const Dims& other) {
  if (layout.is_plain(dims)) return Layout::plain(other);
  return layout.blocks.empty() ? channels_last(other) : blocked_channels(other, layout.blocks[0].size);
}

std::vector<Candidate> propose_channelwise(const Node& node) {
  std::vector<Candidate> candidates = propose_plain(node);
  const Dims& dims = node.inputs[0]->dims;
  auto alike = [&](const Value* value) { return value && !value->opaque && value->dims == dims; };
  for (const Value* input : node.inputs) {
    if (!alike(input) || input->layout.is_plain(dims) || !channel_view(dims, input->layout)) continue;
    Candidate candidate = candidates.back();
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      if (alike(node.inputs[i])) candidate.inputs[i] = input->layout;
    }
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      if (alike(node.outputs[i])) candidate.outputs[i] = input->layout;
    }
    candidates.insert(candidates.begin(), candidate);
  }
  return candidates;
}

}  // namespace graft
