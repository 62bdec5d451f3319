// y = reduce over axes of x. The axes of x's storage are kept (the result moves along) or reduced (it stands still);
// what is innermost decides between reducing contiguous runs and joining columns. Large reductions to few results are
// cut into a fixed number of parts, so that results do not depend on the number of threads.
#include <cmath>
#include <limits>

#include "ops/axes.h"
#include "ops/bfloat16_loops.h"
#include "ops/broadcast.h"
#include "ops/elementwise.h"
#include "ops/gradient.h"
#include "ops/reduce_loops.h"

namespace graft {
namespace {

struct Reduction {
  const char* type;
  const char* kind;                                // what ReduceLoops does
  bool ignores_zeros;                              // padding may be reduced over
  double (*finish)(double reduced, double count);  // nullptr: nothing
  GradientFunction differentiate;
};

// Sorted; all axes where none is given, unless the node then does nothing.
std::vector<size_t> reduced_axes(const Node& node) {
  const size_t rank = node.inputs[0]->dims.size();
  std::vector<int64_t> axes;
  if (node.input(1)) axes = constant_integers(node, 1);
  if (!axes.empty()) return checked_axes(node, axes, rank);
  std::vector<size_t> all;
  if (node.integer("noop_with_empty_axes", 0) != 0) return all;
  for (size_t d = 0; d < rank; ++d) all.push_back(d);
  return all;
}

Dims kept_dims(const Node& node) {
  Dims dims = node.inputs[0]->dims;
  for (size_t axis : reduced_axes(node)) dims[axis] = 1;
  return dims;
}

int64_t reduced_count(const Node& node) {
  int64_t count = 1;
  for (size_t axis : reduced_axes(node)) count *= node.inputs[0]->dims[axis];
  return count;
}

// --- Gradients ---

Val keep(const Gradient& g, const Val& v) { return reshape(v, kept_dims(const_cast<Gradient&>(g).node())); }
Val dy_kept(Gradient& g) { return keep(g, g.dy(0)); }

Vals sum_rule(Gradient& g) { return {expand(dy_kept(g), g.x(0).dims())}; }
Vals mean_rule(Gradient& g) {
  auto count = static_cast<double>(std::max<int64_t>(reduced_count(g.node()), 1));
  return {expand(dy_kept(g) / count, g.x(0).dims())};
}
// Elements that tie share the gradient evenly.
Vals extremum_rule(Gradient& g) {
  Val chosen = cast(equal(g.x(0), keep(g, g.y(0))), g.x(0).dtype());
  std::vector<int64_t> axes;
  for (size_t axis : reduced_axes(g.node())) axes.push_back(static_cast<int64_t>(axis));
  if (axes.empty()) return {g.dy(0)};
  return {chosen * (dy_kept(g) / sum(chosen, axes, true))};
}
// The product of all others, also where one of them is zero.
Vals product_rule(Gradient& g) {
  std::vector<int64_t> axes;
  for (size_t axis : reduced_axes(g.node())) axes.push_back(static_cast<int64_t>(axis));
  if (axes.empty()) return {g.dy(0)};
  Val x = g.x(0);
  Val zero = constant_like(x, 0);
  Val one = constant_like(x, 1);
  Val is_zero = equal(x, zero);
  Val rest = where(is_zero, one, x);
  Val product = call("ReduceProd", {rest, indices(g.graph(), axes)});
  Val zeros = sum(cast(is_zero, x.dtype()), axes, true);
  Val others_zero = zeros - cast(is_zero, x.dtype());  // how many of the others are
  return {dy_kept(g) * where(greater(others_zero, zero), zero, product / rest)};
}
Vals l1_rule(Gradient& g) { return {dy_kept(g) * sign(g.x(0))}; }
// x / y; 0 where all of x is 0
Vals l2_rule(Gradient& g) {
  Val y = keep(g, g.y(0));
  Val zero = constant_like(y, 0);
  Val at_zero = equal(y, zero);
  return {where(at_zero, zero, dy_kept(g) / where(at_zero, constant_like(y, 1), y)) * g.x(0)};
}
Vals sum_square_rule(Gradient& g) { return {dy_kept(g) * 2.0 * g.x(0)}; }
Vals log_sum_rule(Gradient& g) { return {expand(dy_kept(g) / exp(keep(g, g.y(0))), g.x(0).dims())}; }
Vals log_sum_exp_rule(Gradient& g) { return {dy_kept(g) * exp(g.x(0) - keep(g, g.y(0)))}; }

const Reduction rows[] = {
    {"ReduceSum", "sum", true, nullptr, sum_rule},
    {"ReduceMean", "sum", true, [](double s, double n) { return s / n; }, mean_rule},
    {"ReduceMax", "max", false, nullptr, extremum_rule},
    {"ReduceMin", "min", false, nullptr, extremum_rule},
    {"ReduceProd", "product", false, nullptr, product_rule},
    {"ReduceL1", "absolute", true, nullptr, l1_rule},
    {"ReduceL2", "square", true, [](double s, double) { return std::sqrt(s); }, l2_rule},
    {"ReduceSumSquare", "square", true, nullptr, sum_square_rule},
    {"ReduceLogSum", "sum", true, [](double s, double) { return std::log(s); }, log_sum_rule},
    {"ReduceLogSumExp", "log_sum_exp", false, nullptr, log_sum_exp_rule},
};

const Reduction& row_of(const Node& node) {
  for (const Reduction& row : rows) {
    if (row.type == node.type) return row;
  }
  throw UsageError(node.where(), " is no reduction");
}

// --- Loops for other types than float32 ---

template <class T, class Join, class Merge>
ReduceLoops<T> scalar_loops(T identity, Join, Merge) {
  return {identity,
          [](const T* x, int64_t n) {
            T acc = x[0];
            acc = Join{}(Join::template identity<T>(), acc);
            for (int64_t i = 1; i < n; ++i) acc = Join{}(acc, x[i]);
            return acc;
          },
          [](const T* x, int64_t rows, int64_t stride, int64_t n, T* acc) {
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t j = 0; j < n; ++j) acc[j] = Join{}(acc[j], x[r * stride + j]);
            }
          },
          [](T a, T b) { return Merge{}(a, b); }};
}

// Integers wrap.
template <class T>
T plus(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a + b;
  else return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
template <class T>
T times(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a * b;
  else return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}

struct Sum {
  template <class T>
  static constexpr T identity() {
    return T{};
  }
  template <class T>
  T operator()(T acc, T x) const {
    return plus(acc, x);
  }
};
struct Square : Sum {
  template <class T>
  T operator()(T acc, T x) const {
    return plus(acc, times(x, x));
  }
};
struct Absolute : Sum {
  template <class T>
  T operator()(T acc, T x) const {
    return plus(acc, x < T{} ? times(x, static_cast<T>(-1)) : x);
  }
};
struct Product {
  template <class T>
  static constexpr T identity() {
    return T{1};
  }
  template <class T>
  T operator()(T acc, T x) const {
    return times(acc, x);
  }
};
struct Max {
  template <class T>
  static constexpr T identity() {
    return std::numeric_limits<T>::has_infinity ? static_cast<T>(-std::numeric_limits<T>::infinity())
                                                : std::numeric_limits<T>::lowest();
  }
  template <class T>
  T operator()(T acc, T x) const {
    return acc >= x || acc != acc ? acc : x;
  }
};
struct Min {
  template <class T>
  static constexpr T identity() {
    return std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();
  }
  template <class T>
  T operator()(T acc, T x) const {
    return acc <= x || acc != acc ? acc : x;
  }
};

template <class T>
ReduceLoops<T> loops_of(const std::string& kind) {
  if constexpr (std::is_same_v<T, float>) {
    if (const auto* loops = vector_reduce_loops(kind)) return *loops;
  }
  auto make = [](auto join, auto merge) {
    return scalar_loops<T>(decltype(join)::template identity<T>(), join, merge);
  };
  if (kind == "square") return make(Square{}, Sum{});
  if (kind == "absolute") return make(Absolute{}, Sum{});
  if (kind == "product") return make(Product{}, Product{});
  if (kind == "max") return make(Max{}, Max{});
  if (kind == "min") return make(Min{}, Min{});
  return make(Sum{}, Sum{});
}

// --- The walk over x ---

struct Axis {
  int64_t extent;
  int64_t x;
  int64_t y;
};

struct Walk {
  std::vector<Axis> kept;     // outer axes of results, without the columns
  std::vector<Axis> reduced;  // the last one in runs
  int64_t results = 1;        // product of kept
  int64_t elements = 1;       // product of reduced
  int64_t columns = 1;        // of x and y alike contiguous; 1 where the innermost axis is reduced
};

// Dims and layout of the result with the reduced axes kept as 1.
Value result_with_all_axes(const Node& node) {
  Value y;
  y.dims = kept_dims(node);
  const Value& x = *node.inputs[0];
  y.layout = x.layout.is_plain(x.dims) ? Layout::plain(y.dims) : broadcast_layout(x.layout, x.dims, y.dims);
  return y;
}

Walk plan_walk(const Node& node) {
  const Value y = result_with_all_axes(node);
  Walk walk;
  auto axes = storage_axes({node.inputs[0], &y});
  for (size_t a = 0; a < axes.size(); ++a) {
    Axis axis{axes[a].extent, axes[a].strides[0], axes[a].strides[1]};
    if (axis.extent == 1) continue;
    if (axis.y == 0) walk.reduced.push_back(axis);
    else if (a + 1 == axes.size()) walk.columns = axis.extent;
    else walk.kept.push_back(axis);
  }
  for (const Axis& axis : walk.kept) walk.results *= axis.extent;
  for (const Axis& axis : walk.reduced) walk.elements *= axis.extent;
  if (walk.reduced.empty()) walk.reduced.push_back({1, walk.columns, 0});
  return walk;
}

// Offsets of flat index i of kept axes.
std::pair<int64_t, int64_t> offsets_of(const std::vector<Axis>& axes, int64_t i) {
  int64_t x = 0, y = 0;
  for (size_t a = axes.size(); a-- > 0;) {
    x += i % axes[a].extent * axes[a].x;
    y += i % axes[a].extent * axes[a].y;
    i /= axes[a].extent;
  }
  return {x, y};
}

// Calls f(offset, length) for runs along the last reduced axis that cover flat indices [begin, end).
template <class F>
void for_each_run(const std::vector<Axis>& reduced, int64_t begin, int64_t end, F&& f) {
  constexpr int64_t longest = 4096;  // partial sums keep float32 accurate
  const int64_t extent = reduced.back().extent;
  for (int64_t at = begin; at < end;) {
    int64_t length = std::min({extent - at % extent, end - at, longest});
    f(offsets_of(reduced, at).first, length);
    at += length;
  }
}

// Reduces elements [begin, end) of one result (`columns` of them) into acc.
template <class T, class X>
void reduce_range(const Walk& walk, const ReduceLoops<T, X>& loops, const X* x, int64_t begin, int64_t end, T* acc) {
  const int64_t stride = walk.reduced.back().x;
  const bool contiguous = walk.columns == 1 && stride == 1;
  std::fill(acc, acc + walk.columns, loops.identity);
  for_each_run(walk.reduced, begin, end, [&](int64_t offset, int64_t length) {
    if (contiguous) *acc = loops.merge(*acc, loops.row(x + offset, length));
    else loops.columns(x + offset, length, stride, walk.columns, acc);
  });
}

template <class T, class X>
void reduce_all(const Walk& walk, const ReduceLoops<T, X>& loops, const X* x, T* y, T* partial, int64_t parts) {
  const int64_t cost = walk.elements / parts * walk.columns;
  parallel_for(walk.results * parts, cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      auto [from, to] = offsets_of(walk.kept, i / parts);
      int64_t part = i % parts;
      T* acc = parts == 1 ? y + to : partial + i * walk.columns;
      reduce_range(walk, loops, x + from, walk.elements * part / parts, walk.elements * (part + 1) / parts, acc);
    }
  });
  if (parts == 1) return;
  for (int64_t result = 0; result < walk.results; ++result) {
    T* to = y + offsets_of(walk.kept, result).second;
    const T* part = partial + result * parts * walk.columns;
    std::copy(part, part + walk.columns, to);
    for (int64_t p = 1; p < parts; ++p) {
      for (int64_t j = 0; j < walk.columns; ++j) to[j] = loops.merge(to[j], part[p * walk.columns + j]);
    }
  }
}

// Few results of many elements are cut into parts.
int64_t part_count(const Walk& walk) {
  constexpr int64_t parts = 16;
  bool worth_it = walk.results < 4 && walk.elements >= 16 * parts && walk.elements * walk.columns >= 65536;
  return worth_it ? parts : 1;
}

// Of partial results.
int64_t partial_count(const Walk& walk) {
  int64_t parts = part_count(walk);
  return parts > 1 ? parts * walk.results * walk.columns : 0;
}

Settlement settle_reduce(const Node& node, const Settlement*) {
  Settlement settlement;
  settlement.scratch_bytes = partial_count(plan_walk(node)) * static_cast<int64_t>(size_of(node.outputs[0]->dtype));
  return settlement;
}

template <class T>
Kernel prepare_reduce_of(const Node& node, const Binding& binding) {
  const Reduction& row = row_of(node);
  Walk walk = plan_walk(node);
  ReduceLoops<T> loops = loops_of<T>(row.kind);
  int64_t parts = part_count(walk);
  auto count = static_cast<double>(reduced_count(node));
  bool copies = reduced_axes(node).empty();
  int64_t n = node.outputs[0]->layout.storage_count();
  auto finish = copies ? nullptr : row.finish;
  if (copies) loops = loops_of<T>("sum");
  const T* x = binding.in<T>(0);
  T* y = binding.out<T>(0);
  T* partial = static_cast<T*>(binding.scratch);
  Kernel kernel = [=](Stream&) {
    reduce_all(walk, loops, x, y, partial, parts);
    if (!finish) return;
    if (!std::is_floating_point_v<T> && count == 0) return;
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(finish(static_cast<double>(y[i]), count));
  };
  return node.type == "ReduceLogSum" ? clean_padding(node, binding, kernel) : kernel;
}

// --- bfloat16: sums are float32, results either ---

std::optional<MixedPrecision> mix(const Node& node) {
  const bool vectors = vector_reduce_loops_bf16(row_of(node).kind) != nullptr;
  return vectors ? std::optional(MixedPrecision{.follows = true, .mixes = true}) : std::nullopt;
}

// Results that are to be rounded come first.
Settlement settle_mixed(const Node& node, const Settlement*) {
  const Value& y = *node.outputs[0];
  const int64_t results = y.dtype == DType::bf16 ? y.layout.storage_count() : 0;
  Settlement settlement;
  settlement.scratch_bytes = (partial_count(plan_walk(node)) + results) * static_cast<int64_t>(sizeof(float));
  return settlement;
}

Kernel prepare_mixed(const Node& node, const Binding& binding) {
  const Reduction& row = row_of(node);
  const bool copies = reduced_axes(node).empty(), rounds = node.outputs[0]->dtype == DType::bf16;
  const int64_t n = node.outputs[0]->layout.storage_count();
  auto* scratch = static_cast<float*>(binding.scratch);
  float* sums = rounds ? scratch : binding.out<float>(0);
  Kernel kernel = [=, walk = plan_walk(node), loops = *vector_reduce_loops_bf16(copies ? "sum" : row.kind),
                   x = binding.in<BFloat16>(0), low = rounds ? binding.out<BFloat16>(0) : nullptr,
                   partial = rounds ? scratch + n : scratch, finish = copies ? nullptr : row.finish,
                   count = static_cast<double>(reduced_count(node))](Stream&) {
    reduce_all(walk, loops, x, sums, partial, part_count(walk));
    for (int64_t i = 0; finish && i < n; ++i) sums[i] = static_cast<float>(finish(static_cast<double>(sums[i]), count));
    if (low) to_bfloat16(sums, low, n);
  };
  return node.type == "ReduceLogSum" ? clean_padding(node, binding, kernel) : kernel;
}

// log(sum exp(x)) = m + log(sum exp(x - m)), m the largest x; one result at a time
template <class T>
Kernel prepare_log_sum_exp(const Node& node, const Binding& binding) {
  Walk walk = plan_walk(node);
  const T* x = binding.in<T>(0);
  T* y = binding.out<T>(0);
  if (reduced_axes(node).empty()) return [=](Stream&) { std::copy(x, x + walk.results * walk.columns, y); };
  return clean_padding(node, binding, [=](Stream&) {
    const int64_t stride = walk.reduced.back().x;
    for (int64_t i = 0; i < walk.results * walk.columns; ++i) {
      auto [from, to] = offsets_of(walk.kept, i / walk.columns);
      int64_t column = i % walk.columns;
      auto largest = -std::numeric_limits<double>::infinity();
      auto each = [&](auto&& f) {
        for_each_run(walk.reduced, 0, walk.elements, [&](int64_t offset, int64_t length) {
          for (int64_t k = 0; k < length; ++k) f(static_cast<double>(x[from + offset + k * stride + column]));
        });
      };
      each([&](double v) { largest = v > largest || v != v ? v : largest; });
      double sum = 0;
      double shift = std::isfinite(largest) ? largest : 0;
      each([&](double v) { sum += std::exp(v - shift); });
      y[to + column] = static_cast<T>(shift + std::log(sum));
    }
  });
}

Kernel prepare_reduce(const Node& node, const Binding& binding) {
  Kernel kernel;
  visit_dtype(node.inputs[0]->dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, bool>) {
      // Max and Min, which alone take booleans, order false before true.
      kernel = prepare_reduce_of<uint8_t>(node, binding);
    } else {
      kernel =
          node.type == "ReduceLogSumExp" ? prepare_log_sum_exp<T>(node, binding) : prepare_reduce_of<T>(node, binding);
    }
  });
  if (!kernel) throw UnsupportedError(node.where(), " has no kernel for ", node.inputs[0]->dtype);
  return kernel;
}

// The layout without the axes that are reduced away.
Layout without_axes(const Layout& layout, const std::vector<size_t>& axes) {
  Layout result;
  std::vector<int> place(layout.padded.size(), -1);
  for (size_t d = 0; d < layout.padded.size(); ++d) {
    if (std::find(axes.begin(), axes.end(), d) != axes.end()) continue;
    place[d] = static_cast<int>(result.padded.size());
    result.padded.push_back(layout.padded[d]);
    result.strides.push_back(layout.strides[d]);
  }
  for (const auto& block : layout.blocks) result.blocks.push_back({place[static_cast<size_t>(block.dim)], block.size});
  return result;
}

// Where the result lies when x is reduced as it lies.
Layout result_layout(const Node& node) {
  Layout kept = result_with_all_axes(node).layout;
  return node.integer("keepdims", 1) == 0 ? without_axes(kept, reduced_axes(node)) : kept;
}

// x as it lies, where padding is not reduced over or does not count.
std::vector<Candidate> propose_reduce(const Node& node) {
  auto candidates = propose_plain(node);
  const Value& x = *node.inputs[0];
  if (x.layout.is_plain(x.dims)) return candidates;
  auto axes = reduced_axes(node);
  for (size_t axis : axes) {
    bool padded = x.layout.padded[axis] != x.dims[axis];
    bool only_one = x.dims[axis] == 1;  // would not be told from a kept axis
    if (padded && (!row_of(node).ignores_zeros || only_one)) return candidates;
  }
  Candidate as_it_lies = candidates[0];
  as_it_lies.inputs[0] = x.layout;
  as_it_lies.outputs[0] = result_layout(node);
  candidates.insert(candidates.begin(), as_it_lies);
  return candidates;
}

// A sum of what a region computes: its result lies in step with that, and no padding is summed.
bool elementwise_sum(const Node& node, ElementwiseStep* step) {
  const Value& x = *node.inputs[0];
  if (step) *step = {.sum = true};
  std::vector<size_t> axes = reduced_axes(node);
  return node.input(1) && node.inputs[1]->count() > 0 && node.outputs[0]->dtype == DType::f32 &&
         node.outputs[0]->layout == result_layout(node) &&
         std::all_of(axes.begin(), axes.end(), [&](size_t d) { return x.layout.padded[d] == x.dims[d]; });
}

}  // namespace

std::vector<Op> reduce_ops() {
  std::vector<Op> ops;
  for (const Reduction& row : rows) {
    ops.push_back({.type = row.type,
                   .cpu = {{DTypes::bf16, {propose_reduce, settle_mixed, prepare_mixed}},
                           {DTypes::any, {propose_reduce, settle_reduce, prepare_reduce}}},
                   .differentiate = row.differentiate,
                   .elementwise = row.type == std::string_view("ReduceSum") ? elementwise_sum : nullptr,
                   .mixed_precision = mix});
  }
  return ops;
}

}  // namespace graft
