// Pad: x with a border of one value, of its edge, of its mirror image or of its other end. Negative pads cut off.
// PadGrad: every element of dy is added to the one that Pad took it from.
#include <algorithm>
#include <array>

#include "ops/axes.h"
#include "ops/broadcast.h"
#include "ops/element_size.h"
#include "ops/gradient.h"
#include "ops/part.h"

namespace graft {
namespace {

// Elements before and after each axis.
struct Pads {
  Dims before, after;
};

Pads pads_of(const Node& node, const std::vector<int64_t>& pads, const std::vector<int64_t>& axes, const Dims& dims) {
  if (pads.size() != 2 * axes.size())
    throw ModelError(node.where(), " has ", pads.size(), " pads for ", axes.size(), " axes: allowed are two for each");
  checked_axes(node, axes, dims.size());
  Pads result{Dims(dims.size(), 0), Dims(dims.size(), 0)};
  for (size_t i = 0; i < axes.size(); ++i) {
    size_t axis = checked_axis(node, axes[i], dims.size());
    result.before[axis] = pads[i];
    result.after[axis] = pads[i + axes.size()];
    if (std::min(pads[i], pads[i + axes.size()]) < -dims[axis])
      throw ModelError(node.where(), " cuts more off axis ", axis, " than its ", dims[axis], " elements");
  }
  return result;
}

std::vector<int64_t> all_axes(size_t rank) {
  std::vector<int64_t> axes;
  for (size_t d = 0; d < rank; ++d) axes.push_back(static_cast<int64_t>(d));
  return axes;
}

// Inputs of Pad: data, pads, value, axes
Pads given_pads(const Node& node) {
  const Dims& dims = node.inputs[0]->dims;
  auto axes = node.input(3) ? constant_integers(node, 3) : all_axes(dims.size());
  return pads_of(node, constant_integers(node, 1), axes, dims);
}

Dims padded_dims(const Node& node, const Dims& dims, const Pads& pads) {
  Dims padded;
  for (size_t d = 0; d < dims.size(); ++d) {
    padded.push_back(checked_add(dims[d], checked_add(pads.before[d], pads.after[d])));
    if (padded[d] < 0)
      throw ModelError(node.where(), " cuts ", pads.before[d], " and ", pads.after[d], " off ", dims[d], " elements");
  }
  return padded;
}

std::string mode_of(const Node& node) {
  std::string mode = node.text("mode", "constant");
  constexpr std::array allowed = {"constant", "edge", "reflect", "wrap"};
  if (std::find(allowed.begin(), allowed.end(), mode) == allowed.end())
    throw ModelError(node.where(), " has mode \"", mode, "\": allowed are constant, edge, reflect and wrap");
  return mode;
}

// The element of x for each of y along an axis; -1 where that is a border of one value.
std::vector<int64_t> sources(const Node& node, int64_t extent, int64_t before, int64_t count) {
  const std::string mode = mode_of(node);
  if (mode != "constant" && extent == 0 && count > 0)
    throw ModelError(node.where(), " has no element to take a border from");
  auto wrapped = [](int64_t at, int64_t period) { return (at % period + period) % period; };
  std::vector<int64_t> from;
  for (int64_t i = 0; i < count; ++i) {
    int64_t at = i - before;
    if (at >= 0 && at < extent) {
      from.push_back(at);
    } else if (mode == "constant") {
      from.push_back(-1);
    } else if (mode == "edge" || extent == 1) {
      from.push_back(at < 0 ? 0 : extent - 1);
    } else if (mode == "wrap") {
      from.push_back(wrapped(at, extent));
    } else {  // there and back again, the ends once
      const int64_t there = wrapped(at, 2 * extent - 2);
      from.push_back(std::min(there, 2 * extent - 2 - there));
    }
  }
  return from;
}

// An axis of storage.
struct PadAxis {
  int64_t extent() const { return static_cast<int64_t>(from.size()); }
  int64_t source(int64_t i) const { return from[static_cast<size_t>(i)]; }

  std::vector<int64_t> from;
  int64_t x_extent, x_stride, y_stride;
  bool same;  // nothing is added or cut off
};

PadAxis unchanged(int64_t extent, int64_t x_stride, int64_t y_stride) {
  return {all_axes(static_cast<size_t>(extent)), extent, x_stride, y_stride, true};
}

// `outer` and the unchanged `inner` within it as one axis.
PadAxis merged(const PadAxis& outer, const PadAxis& inner) {
  PadAxis both{{}, outer.x_extent * inner.x_extent, inner.x_stride, inner.y_stride, outer.same};
  for (int64_t from : outer.from) {
    for (int64_t i = 0; i < inner.x_extent; ++i) both.from.push_back(from < 0 ? -1 : from * inner.x_extent + i);
  }
  return both;
}

// The axes of storage, outermost first; x and y lie alike.
std::vector<PadAxis> pad_axes(const Node& node, const Pads& pads, const Value& x, const Value& y) {
  std::vector<PadAxis> axes;
  for (size_t d = 0; d < x.dims.size(); ++d) {
    const int64_t x_stride = x.layout.strides[d], y_stride = y.layout.strides[d];
    int64_t block = 1;
    for (const auto& b : x.layout.blocks) block *= b.dim == static_cast<int>(d) ? b.size : 1;
    if (pads.before[d] == 0 && pads.after[d] == 0)
      axes.push_back(unchanged(x.layout.padded[d] / block, x_stride, y_stride));
    else axes.push_back({sources(node, x.dims[d], pads.before[d], y.dims[d]), x.dims[d], x_stride, y_stride, false});
  }
  std::stable_sort(axes.begin(), axes.end(),
                   [](const PadAxis& a, const PadAxis& b) { return a.y_stride > b.y_stride; });
  int64_t stride = 1;
  for (const auto& b : x.layout.blocks) stride *= b.size;
  for (const auto& b : x.layout.blocks) {
    stride /= b.size;
    axes.push_back(unchanged(b.size, stride, stride));
  }
  std::vector<PadAxis> joined;
  for (const PadAxis& axis : axes) {
    auto within = [&](const PadAxis& outer) {
      return axis.same && outer.x_stride == axis.x_stride * axis.x_extent &&
             outer.y_stride == axis.y_stride * axis.x_extent;
    };
    if (!joined.empty() && within(joined.back())) joined.back() = merged(joined.back(), axis);
    else joined.push_back(axis);
  }
  if (joined.empty()) joined.push_back(unchanged(1, 1, 1));
  return joined;
}

// Rows along the innermost axis, of y for Pad and of x for PadGrad.
struct PadRows {
  explicit PadRows(std::vector<PadAxis> axes) : outer(std::move(axes)), row(std::move(outer.back())) {
    outer.pop_back();
    // The longest stretch of neighbours: what is copied at once.
    int64_t begin = 0;
    for (int64_t i = 0; i < width(); ++i) {
      const int64_t from = row.source(i), before = i > 0 ? row.source(i - 1) : -1;
      if (before < 0 || from != before + 1) begin = i;
      if (from >= 0 && i + 1 - begin > last - first) first = begin, last = i + 1;
    }
  }
  int64_t width() const { return row.extent(); }

  // y[r, i] = x[from(r), from(i)], rows [begin, end) of y
  template <class T>
  void pad(const T* x, T value, T* y, int64_t begin, int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      int64_t rest = r, source = 0, target = 0;
      bool border = false;
      for (size_t a = outer.size(); a-- > 0;) {
        const auto extent = outer[a].extent();
        const int64_t i = rest % extent, from = outer[a].source(i);
        rest /= extent;
        border |= from < 0;
        source += from * outer[a].x_stride;
        target += i * outer[a].y_stride;
      }
      if (border) {
        for (int64_t i = 0; i < width(); ++i) y[target + i * row.y_stride] = value;
        continue;
      }
      auto each = [&](int64_t i) {
        const int64_t from = row.source(i);
        y[target + i * row.y_stride] = from < 0 ? value : x[source + from * row.x_stride];
      };
      for (int64_t i = 0; i < first; ++i) each(i);
      if (row.x_stride == 1 && row.y_stride == 1) {
        if (first < last) std::copy_n(x + source + row.source(first), last - first, y + target + first);
      } else {
        for (int64_t i = first; i < last; ++i) each(i);
      }
      for (int64_t i = last; i < width(); ++i) each(i);
    }
  }

  // dx[r, from(i)] = sum of dy[s, i] over the rows s that were taken from r; rows [begin, end) of dx
  template <class T>
  void add(const T* dy, T* dx, const std::vector<std::vector<std::vector<int64_t>>>& taken, int64_t begin,
           int64_t end) const {
    std::vector<size_t> turn(outer.size());
    std::vector<const std::vector<int64_t>*> places(outer.size());
    for (int64_t r = begin; r < end; ++r) {
      int64_t rest = r, target = 0;
      bool any = true;
      for (size_t a = outer.size(); a-- > 0;) {
        const int64_t i = rest % outer[a].x_extent;
        rest /= outer[a].x_extent;
        target += i * outer[a].x_stride;
        places[a] = &taken[a][static_cast<size_t>(i)];
        any &= !places[a]->empty();
        turn[a] = 0;
      }
      for (int64_t i = 0; i < row.x_extent; ++i) dx[target + i * row.x_stride] = T{0};
      while (any) {
        int64_t source = 0;
        for (size_t a = 0; a < outer.size(); ++a) source += (*places[a])[turn[a]] * outer[a].y_stride;
        add_row(dy + source, dx + target);
        any = false;
        for (size_t a = outer.size(); a-- > 0 && !any;) {
          any = ++turn[a] < places[a]->size();
          if (!any) turn[a] = 0;
        }
      }
    }
  }

  template <class T>
  void add_row(const T* dy, T* dx) const {
    auto each = [&](int64_t i) {
      if (row.source(i) >= 0) dx[row.source(i) * row.x_stride] += dy[i * row.y_stride];
    };
    for (int64_t i = 0; i < first; ++i) each(i);
    if (row.x_stride == 1 && row.y_stride == 1) {
      for (int64_t i = first; i < last; ++i) dx[row.source(first) + i - first] += dy[i];
    } else {
      for (int64_t i = first; i < last; ++i) each(i);
    }
    for (int64_t i = last; i < width(); ++i) each(i);
  }

  std::vector<PadAxis> outer;
  PadAxis row;
  int64_t first = 0, last = 0;
};

// As input 0 lies, where no axis that changes is in blocks.
std::vector<Candidate> propose_padded(const Node& node, const Pads& pads) {
  auto candidates = propose_plain(node);
  const Value& x = *node.inputs[0];
  if (x.layout.is_plain(x.dims)) return candidates;
  for (const auto& block : x.layout.blocks) {
    auto d = static_cast<size_t>(block.dim);
    if (pads.before[d] != 0 || pads.after[d] != 0) return candidates;
  }
  Candidate as_it_lies = candidates[0];
  as_it_lies.inputs[0] = x.layout;
  as_it_lies.outputs[0] = layout_like(x.layout, node.outputs[0]->dims);
  candidates.insert(candidates.begin(), as_it_lies);
  return candidates;
}

// --- Pad ---

void infer_pad(Node& node) {
  const Value *x = node.input(0), *value = node.input(2);
  if (node.inputs.size() < 2 || node.inputs.size() > 4 || !x || !node.inputs[1])
    throw ModelError(node.where(), " wants data, pads and at most a value and axes");
  if (value && (value->dtype != x->dtype || (value->shaped() && value->count() != 1)))
    throw ModelError(node.where(), " has a value ", value->dtype, value->dims, ": allowed is a scalar of ", x->dtype);
  mode_of(node);
  Value* y = node.outputs.at(0);
  y->dtype = x->dtype;
  y->ranked = x->ranked;
  bool known = x->shaped() && node.inputs[1]->is_constant() && (!node.input(3) || node.inputs[3]->is_constant());
  y->dims = known ? padded_dims(node, x->dims, given_pads(node)) : Dims(x->dims.size(), -1);
}

std::vector<Candidate> propose_pad(const Node& node) { return propose_padded(node, given_pads(node)); }

Kernel prepare_pad(const Node& node, const Binding& binding) {
  if (node.outputs[0]->count() == 0) return {};
  return with_element_size(node, node.outputs[0]->dtype, [&]<class T>(T) -> Kernel {
    PadRows rows(pad_axes(node, given_pads(node), *node.inputs[0], *node.outputs[0]));
    int64_t count = 1;
    for (const PadAxis& axis : rows.outer) count *= axis.extent();
    auto pad = [=, x = binding.in<T>(0), value = binding.in<T>(2), y = binding.out<T>(0)](Stream&) {
      parallel_for(count, rows.width(),
                   [&](int64_t begin, int64_t end) { rows.pad(x, value ? *value : T{0}, y, begin, end); });
    };
    return clean_padding(node, binding, pad);
  });
}

std::vector<int64_t> both_sides(const Pads& pads) {
  std::vector<int64_t> both = pads.before;
  both.insert(both.end(), pads.after.begin(), pads.after.end());
  return both;
}

Val sum_all(const Val& x, const Dims& dims) {
  return reshape(x.rank() ? sum(x, all_axes(static_cast<size_t>(x.rank())), false) : x, dims);
}

// The value receives what no element of x does.
Vals pad_rule(Gradient& g) {
  Vals gradients(g.input_count());
  Attributes attributes = {
      {"dims", g.x(0).dims()}, {"pads", both_sides(given_pads(g.node()))}, {"mode", mode_of(g.node())}};
  Val dx = call("graft", "PadGrad", {g.dy(0)}, 1, attributes)[0];
  if (g.needs(0)) gradients[0] = dx;
  if (g.needs(2)) gradients[2] = sum_all(g.dy(0), g.x(2).dims()) - sum_all(dx, g.x(2).dims());
  return gradients;
}

// --- PadGrad: dy -> dx of attribute `dims`, padded by `pads` ---

Pads attribute_pads(const Node& node) {
  Dims dims = node.integers("dims");
  return pads_of(node, node.integers("pads"), all_axes(dims.size()), dims);
}

void infer_pad_grad(Node& node) {
  const Value* dy = node.input(0);
  if (node.inputs.size() != 1 || !dy || !is_float(dy->dtype))
    throw ModelError(node.where(), " wants one floating-point operand");
  Dims dims = node.integers("dims");
  element_count(dims);
  mode_of(node);
  Dims padded = padded_dims(node, dims, attribute_pads(node));
  if (dy->dims != padded) throw ModelError(node.where(), " dy has shape ", dy->dims, ", wanted is ", padded);
  node.outputs.at(0)->dtype = dy->dtype;
  node.outputs[0]->ranked = true;
  node.outputs[0]->dims = dims;
}

std::vector<Candidate> propose_pad_grad(const Node& node) { return propose_padded(node, attribute_pads(node)); }

template <class T>
Kernel prepare_pad_grad(const Node& node, const Binding& binding) {
  if (node.outputs[0]->count() == 0) return {};
  PadRows rows(pad_axes(node, attribute_pads(node), *node.outputs[0], *node.inputs[0]));
  // For each outer axis, by element of x: the elements of y that were taken from it.
  std::vector<std::vector<std::vector<int64_t>>> taken;
  int64_t count = 1;
  for (const PadAxis& axis : rows.outer) {
    auto& places = taken.emplace_back(static_cast<size_t>(axis.x_extent));
    for (int64_t i = 0; i < axis.extent(); ++i) {
      if (axis.source(i) >= 0) places[static_cast<size_t>(axis.source(i))].push_back(i);
    }
    count *= axis.x_extent;
  }
  return [=, dy = binding.in<T>(0), dx = binding.out<T>(0)](Stream&) {
    parallel_for(count, rows.width(), [&](int64_t begin, int64_t end) { rows.add(dy, dx, taken, begin, end); });
  };
}

// Linear: what flows back to dy is padded as x was, but for a border of zeros.
Vals pad_grad_rule(Gradient& g) {
  Val pads = indices(g.graph(), g.node().integers("pads"));
  return {call("Pad", {g.dy(0), pads}, {{"mode", mode_of(g.node())}})};
}

}  // namespace

std::vector<Op> pad_ops() {
  return {{.type = "Pad",
           .infer = infer_pad,
           .cpu = {{DTypes::any, {propose_pad, settle_nothing, prepare_pad}}},
           .differentiate = pad_rule},
          {.type = "PadGrad",
           .domain = "graft",
           .infer = infer_pad_grad,
           .cpu = {{DTypes::f32, {propose_pad_grad, settle_nothing, prepare_pad_grad<float>}},
                   {DTypes::f64, {propose_pad_grad, settle_nothing, prepare_pad_grad<double>}}},
           .differentiate = pad_grad_rule}};
}

}  // namespace graft
