// Which kernel computes a convolution: the one that its layouts are made for, or another that works on activations in
// the same layouts. A kernel that wants the weights otherwise than they lie copies them before it runs, or what it
// gives behind it.
#include "ops/conv.h"
#include "ops/layout_copy.h"

namespace graft {
namespace {

struct Way {
  const char* name;
  bool (*takes)(const Node& node, const ConvProblem& p);
  Layout (*weights)(const ConvProblem& p);
  Settlement (*settle)(const Node& node, const ConvProblem& p);
  Kernel (*prepare)(const Node& node, const ConvProblem& p, const Binding& binding);
  bool gives_statistics = false;
};

// Beside oneDNN's convolutions, which take all.
constexpr Way ways[] = {
    {"winograd", takes_winograd, winograd_weights_layout, settle_winograd, prepare_winograd},
    {"pointwise", takes_pointwise, pointwise_weights_layout, settle_pointwise, prepare_pointwise},
    {"narrow", takes_narrow, narrow_weights_layout, settle_narrow, prepare_narrow, true},
    {"tiles", takes_tiles, tiles_weights_layout, settle_tiles, prepare_tiles},
    {"float_tiles", takes_float_tiles, float_tiles_weights_layout, settle_float_tiles, prepare_float_tiles}};
constexpr const char* direct = "direct";

const Layout& weights_of(const Node& node, const ConvProblem& p) { return conv_value(node, p.slots.w)->layout; }

// The one that runs where none is chosen; nullptr: oneDNN's.
const Way* usual_way(const Node& node, const ConvProblem& p) {
  for (const Way& way : ways) {
    if (way.takes(node, p) && weights_of(node, p) == way.weights(p)) return &way;
  }
  return nullptr;
}

const Way* way_of(const Node& node, const ConvProblem& p) {
  if (node.kernel.empty()) return usual_way(node, p);
  for (const Way& way : ways) {
    if (node.kernel == way.name) return &way;
  }
  return nullptr;
}

struct Settled {
  const Way* way = nullptr;
  Settlement inner;
  std::optional<LayoutCopy> weights;  // that the kernel does not take as they lie
};

}  // namespace

std::vector<std::string> conv_choices(const Node& node) {
  ConvProblem p = conv_problem(node);
  if (p.empty() || (p.slots.way == ConvWay::forward && node.output(conv_statistics))) return {};
  const Way* usual = usual_way(node, p);
  std::vector<std::string> names{usual ? usual->name : direct};
  for (const Way& way : ways) {
    if (&way != usual && way.takes(node, p)) names.emplace_back(way.name);
  }
  if (usual && takes_direct(node, p)) names.emplace_back(direct);
  if (names.size() == 1) return {};
  return names;
}

bool conv_gives_statistics(const Node& node) {
  ConvProblem p = conv_problem(node);
  if (p.empty() || p.slots.way != ConvWay::forward) return false;
  const Way* way = way_of(node, p);
  return way && way->gives_statistics;
}

std::optional<Settlement> settle_conv_way(const Node& node, const ConvProblem& p) {
  Settled settled{.way = way_of(node, p)};
  if (!settled.way) return std::nullopt;
  settled.inner = settled.way->settle(node, p);
  Settlement settlement;
  settlement.scratch_bytes = settled.inner.scratch_bytes;
  settlement.opaque_bytes = settled.inner.opaque_bytes;
  settlement.in_place = settled.inner.in_place;
  const Layout lies = weights_of(node, p), wanted = settled.way->weights(p);
  if (lies != wanted) {
    const bool gives = p.slots.way == ConvWay::weights;
    settled.weights = LayoutCopy{p.w_dtype, p.w, gives ? wanted : lies, gives ? lies : wanted};
    const auto bytes =
        static_cast<size_t>(checked_mul(wanted.storage_count(), static_cast<int64_t>(size_of(p.w_dtype))));
    settlement.scratch_bytes = checked_add(aligned(static_cast<size_t>(settled.inner.scratch_bytes)), aligned(bytes));
  }
  settlement.descriptor = settled;
  return settlement;
}

Kernel prepare_conv_way(const Node& node, const ConvProblem& p, const Binding& binding) {
  const auto* settled = std::any_cast<Settled>(&binding.settlement->descriptor);
  if (!settled) return {};
  Binding inner = binding;
  inner.settlement = &settled->inner;
  if (!settled->weights) return settled->way->prepare(node, p, inner);
  const Layout wanted = settled->way->weights(p);
  auto* copied = static_cast<std::byte*>(binding.scratch) + aligned(static_cast<size_t>(settled->inner.scratch_bytes));
  void* lies = conv_address(binding, p.slots.w);
  const bool gives = p.slots.way == ConvWay::weights;
  if (gives) inner.outputs[conv_output(p.slots.w)] = copied;
  else inner.inputs[static_cast<size_t>(p.slots.w)] = copied;
  Kernel kernel = settled->way->prepare(node, p, inner);
  void *from = gives ? copied : lies, *to = gives ? lies : copied;
  Kernel copy = prepare_layout_copy(node, *settled->weights, from, to);
  if (gives) return [=](Stream& stream) { kernel(stream), copy(stream); };
  return [=](Stream& stream) { copy(stream), kernel(stream); };
}

}  // namespace graft
