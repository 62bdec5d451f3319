// Concat: operands side by side along an axis. Split: the reverse.
#include <algorithm>

#include "ops/axes.h"
#include "ops/gradient.h"
#include "ops/part.h"
#include "ops/slice.h"

namespace graft {
namespace {

using Parts = std::vector<Part>;

// One part of `whole` for each of the lengths along an axis.
Parts parts_of(const Dims& whole, size_t axis, const std::vector<int64_t>& lengths) {
  Parts parts;
  int64_t start = 0;
  for (int64_t length : lengths) {
    parts.push_back(Part::range(whole, axis, start, length));
    start += length;
  }
  return parts;
}

// All operands as `like` lies, where every part is made of whole blocks of the whole tensor; plain otherwise.
std::vector<Candidate> propose_parts(const Node& node, const Parts& parts, const Dims& whole, const Value* like) {
  auto candidates = propose_plain(node);
  if (!like) return candidates;
  for (const Part& part : parts) {
    if (!has_whole_blocks(part, whole, like->layout)) return candidates;
  }
  Candidate as_it_lies = candidates[0];
  // Split's sizes, which are read when it is planned, stay as they are.
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i]->dims.size() == whole.size())
      as_it_lies.inputs[i] = layout_like(like->layout, node.inputs[i]->dims);
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i]) as_it_lies.outputs[i] = layout_like(like->layout, node.outputs[i]->dims);
  }
  candidates.insert(candidates.begin(), as_it_lies);
  return candidates;
}

// --- Concat ---

size_t concat_axis(const Node& node) {
  if (!node.has("axis")) throw ModelError(node.where(), " wants the attribute axis");
  return checked_axis(node, node.integer("axis", 0), node.inputs[0]->dims.size());
}

Parts concat_parts(const Node& node) {
  size_t axis = concat_axis(node);
  std::vector<int64_t> lengths;
  for (const Value* x : node.inputs) lengths.push_back(x->dims[axis]);
  return parts_of(node.outputs[0]->dims, axis, lengths);
}

std::vector<Candidate> propose_concat(const Node& node) {
  auto found =
      std::find_if(node.inputs.begin(), node.inputs.end(), [](const Value* x) { return !x->layout.is_plain(x->dims); });
  return propose_parts(node, concat_parts(node), node.outputs[0]->dims, found == node.inputs.end() ? nullptr : *found);
}

Kernel prepare_concat(const Node& node, const Binding& binding) {
  std::vector<std::pair<Move, const void*>> moves;
  Parts parts = concat_parts(node);
  for (size_t i = 0; i < parts.size(); ++i)
    moves.emplace_back(put_part(node, parts[i], *node.inputs[i], *node.outputs[0]), binding.inputs[i]);
  return [=, y = binding.outputs[0]](Stream&) {
    for (const auto& [move, x] : moves) move(x, y);
  };
}

Vals concat_rule(Gradient& g) {
  Vals gradients(g.input_count());
  auto axis = static_cast<int64_t>(concat_axis(g.node()));
  int64_t start = 0;
  for (size_t i = 0; i < g.input_count(); ++i) {
    const int64_t end = start + g.x(i).dim(axis);
    if (g.needs(i)) gradients[i] = slice(g.dy(0), axis, start, end);
    start = end;
  }
  return gradients;
}

// --- Split ---

size_t split_axis(const Node& node) { return checked_axis(node, node.integer("axis", 0), node.inputs[0]->dims.size()); }

// As the second operand says, or in equal parts of which the last may be smaller.
std::vector<int64_t> split_lengths(const Node& node) {
  const int64_t extent = node.inputs[0]->dims[split_axis(node)];
  auto count = static_cast<int64_t>(node.outputs.size());
  std::vector<int64_t> lengths;
  if (node.input(1)) {
    lengths = constant_integers(node, 1);
  } else {
    const int64_t length = (extent + count - 1) / count;
    for (int64_t i = 0; i < count; ++i) lengths.push_back(std::clamp<int64_t>(extent - i * length, 0, length));
  }
  int64_t sum = 0;
  for (int64_t length : lengths) sum = checked_add(sum, std::max<int64_t>(length, 0));
  bool positive = std::all_of(lengths.begin(), lengths.end(), [](int64_t length) { return length >= 0; });
  if (static_cast<int64_t>(lengths.size()) != count || sum != extent || !positive) {
    throw ModelError(node.where(), " cannot split ", extent, " elements into ", count, " parts of lengths ", lengths);
  }
  return lengths;
}

void infer_split(Node& node) {
  const Value* x = node.input(0);
  if (node.inputs.empty() || node.inputs.size() > 2 || !x || node.outputs.empty())
    throw ModelError(node.where(), " wants data, sizes and at least one result");
  if (node.has("num_outputs") &&
      (node.input(1) || node.integer("num_outputs", 0) != static_cast<int64_t>(node.outputs.size()))) {
    throw ModelError(node.where(), " has num_outputs ", node.integer("num_outputs", 0),
                     ": allowed is the number of results, where no sizes are given");
  }
  bool known = x->shaped() && (!node.input(1) || node.inputs[1]->is_constant());
  size_t axis = x->ranked ? split_axis(node) : 0;
  auto lengths = known ? split_lengths(node) : std::vector<int64_t>(node.outputs.size(), -1);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    Value* y = node.outputs[i];
    if (!y) continue;
    y->dtype = x->dtype;
    y->ranked = x->ranked;
    y->dims = x->dims;
    if (x->ranked) y->dims[axis] = lengths[i];
  }
}

Parts split_parts(const Node& node) { return parts_of(node.inputs[0]->dims, split_axis(node), split_lengths(node)); }

std::vector<Candidate> propose_split(const Node& node) {
  const Value* x = node.inputs[0];
  return propose_parts(node, split_parts(node), x->dims, x->layout.is_plain(x->dims) ? nullptr : x);
}

Kernel prepare_split(const Node& node, const Binding& binding) {
  std::vector<std::pair<Move, void*>> moves;
  Parts parts = split_parts(node);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (node.outputs[i])
      moves.emplace_back(take_part(node, parts[i], *node.inputs[0], *node.outputs[i]), binding.outputs[i]);
  }
  return [=, x = binding.inputs[0]](Stream&) {
    for (const auto& [move, y] : moves) move(x, y);
  };
}

Vals split_rule(Gradient& g) {
  Vals gradients(g.input_count()), parts;
  Val some;
  for (size_t i = 0; !some; ++i) some = g.dy(i);
  for (const Part& part : split_parts(g.node())) {
    Val dy = g.dy(parts.size());
    parts.push_back(dy ? dy : expand(constant_like(some, 0), part.counts));
  }
  gradients[0] = call("Concat", parts, {{"axis", static_cast<int64_t>(split_axis(g.node()))}});
  return gradients;
}

}  // namespace

std::vector<Op> concat_ops() {
  return {{.type = "Concat",
           .cpu = {{DTypes::any, {propose_concat, settle_nothing, prepare_concat}}},
           .differentiate = concat_rule,
           .mixed_precision = moves_elements},
          {.type = "Split",
           .infer = infer_split,
           .cpu = {{DTypes::any, {propose_split, settle_nothing, prepare_split}}},
           .differentiate = split_rule,
           .mixed_precision = moves_elements}};
}

}  // namespace graft
