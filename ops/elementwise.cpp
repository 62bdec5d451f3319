// Element-wise regions: (operands...) -> (results...), computed by the nodes of the graph in the attribute `body`,
// whose inputs and outputs stand for those of the node. All values between the nodes have one shape and one layout;
// operands may be broadcast to it, and one result may be a sum over some of its axes. The nodes run one after another
// on tiles of a few hundred elements: what lies between them stays in the first cache and takes no memory. Tiles are
// float32; operands and results may be bfloat16. After the way in which NumExpr evaluates expressions
// (github.com/pydata/numexpr).
#include "ops/elementwise.h"

#include <algorithm>
#include <array>

#include "ops/bfloat16_loops.h"
#include "ops/broadcast.h"
#include "ops/reduce_loops.h"

namespace graft {
namespace {

constexpr int64_t tile_floats = 8192;  // of all values between steps: the first cache
constexpr int64_t largest_tile = 2048;
constexpr int64_t most_parts = 16;  // of a sum to which all tiles add; fixed, whatever the threads

const Graph& body_of(const Node& node) {
  auto found = node.attributes.find("body");
  const auto* body = found == node.attributes.end() ? nullptr : std::get_if<std::shared_ptr<Graph>>(&found->second);
  if (!body || (*body)->inputs.size() != node.inputs.size() || (*body)->outputs.size() != node.outputs.size() ||
      node.outputs.empty() || (*body)->nodes().empty())
    throw ModelError(node.where(), " wants a graph 'body' with its ", node.inputs.size(), " inputs and ",
                     node.outputs.size(), " outputs");
  return **body;
}

void infer_region(Node& node) {
  const Graph& body = body_of(node);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    node.outputs[i]->dtype = body.outputs[i]->dtype;
    node.outputs[i]->dims = body.outputs[i]->dims;
    node.outputs[i]->ranked = true;
  }
}

bool is_region(const Node& node) { return node.domain == "graft" && node.type == "Elementwise"; }

bool is_low(const Value& value) { return value.dtype == DType::bf16; }

// One that has no function copies its operand.
struct Step {
  ElementwiseStep how;
  std::vector<size_t> operands;
};

// A body as a list of steps over numbered values: the inputs, then its constants, then the results of the steps. First
// come steps that load what is bfloat16.
struct Plan {
  explicit Plan(const Node& node) {
    if (is_region(node)) add_body(node);
    else add_alone(node);
    for (const Value* output : node.outputs) stores_low.push_back(is_low(*output));
    load_low(node);
  }

  // A node by itself.
  void add_alone(const Node& node) {
    const Op* op = find_op(node);
    Step step;
    if (!op || !op->elementwise || !op->elementwise(node, &step.how) || step.how.sum)
      throw UnsupportedError(node.where(), " is no element-wise step");
    inputs = given = step.how.tiles(node);
    full = node.outputs[0];
    for (size_t i = 0; i < inputs; ++i) step.operands.push_back(i);
    steps.push_back(std::move(step));
    outputs = {given};
  }

  void add_body(const Node& node) {
    const Graph& body = body_of(node);
    inputs = body.inputs.size();
    std::unordered_map<const Value*, size_t> numbers;
    for (const Value* input : body.inputs) numbers.emplace(input, numbers.size());
    for (const auto& value : body.values()) {
      if (!value->is_constant() || value->dtype != DType::f32) continue;
      if (value->data.count() != 1)
        throw ModelError(node.where(), " has a constant of shape ", value->dims, " in its body: allowed is a number");
      numbers.emplace(value.get(), numbers.size());
      constants.push_back(value->data);
    }
    given = numbers.size();
    full = body.nodes().front()->outputs[0];
    for (const auto& inner : body.nodes()) {
      const Op* op = find_op(*inner);
      Step step;
      if (!op || !op->elementwise || !op->elementwise(*inner, &step.how))
        throw ModelError(node.where(), " has ", inner->where(), " in its body, which is no element-wise step");
      for (size_t i = 0; i < step.how.tiles(*inner); ++i) step.operands.push_back(numbers.at(inner->inputs[i]));
      if (step.how.sum) sum = inner.get();
      steps.push_back(std::move(step));
      numbers.emplace(inner->outputs[0], numbers.size());
    }
    for (const Value* output : body.outputs) outputs.push_back(numbers.at(output));
  }

  void load_low(const Node& node) {
    std::vector<size_t> low;
    for (size_t i = 0; i < inputs; ++i) {
      if (is_low(*node.inputs[i])) low.push_back(i);
    }
    for (Step& step : steps) {
      for (size_t& operand : step.operands) {
        auto found = std::find(low.begin(), low.end(), operand);
        if (found != low.end()) operand = given + static_cast<size_t>(found - low.begin());
        else if (operand >= given) operand += low.size();
      }
    }
    for (size_t& output : outputs) output += low.size();
    for (size_t i = 0; i < inputs; ++i) broadcast.push_back(node.inputs[i]->dims != full->dims);
    std::vector<Step> loading;
    for (size_t i : low) loading.push_back({{.keeps_zero = true}, {i}});
    steps.insert(steps.begin(), loading.begin(), loading.end());
    loads = loading.size();
  }

  // The last step that still reads a value when its own result may be written already; -1: none reads it.
  int64_t last_read(size_t value) const {
    int64_t last = -1;
    for (size_t s = 0; s < steps.size(); ++s) {
      const auto& operands = steps[s].operands;
      for (size_t i = 0; i < operands.size(); ++i) {
        // A fold writes its result before it reads its third operand.
        if (operands[i] == value) last = std::max(last, static_cast<int64_t>(s) + (i > 1 ? 1 : 0));
      }
    }
    return last;
  }

  bool is_sum(size_t output) const { return steps[outputs[output] - given].how.sum; }

  // The output that step `s` gives; none: -1.
  int64_t output_of(size_t s) const {
    auto output = std::find(outputs.begin(), outputs.end(), given + s);
    return output == outputs.end() ? -1 : output - outputs.begin();
  }

  // Where each step's result goes: an output, or ~slot of the scratch; slots are used again.
  std::vector<int64_t> targets(int64_t* slot_count) const {
    std::vector<int64_t> targets;
    std::vector<int64_t> busy_until;  // of slots
    for (size_t s = 0; s < steps.size(); ++s) {
      const int64_t output = output_of(s);
      if (output >= 0 && !stores_low[static_cast<size_t>(output)]) {
        targets.push_back(output);
        continue;
      }
      auto now = static_cast<int64_t>(s);
      auto slot = std::find_if(busy_until.begin(), busy_until.end(), [&](int64_t until) { return until <= now; });
      if (slot == busy_until.end()) slot = busy_until.insert(slot, 0);
      // What was loaded of a broadcast operand lies closer than the results that are made of it.
      const bool close = s < loads && broadcast[steps[s].operands[0]];
      *slot = std::max(last_read(given + s) + (close ? 1 : 0), now + 1);
      targets.push_back(~(slot - busy_until.begin()));
    }
    *slot_count = static_cast<int64_t>(busy_until.size());
    return targets;
  }

  size_t inputs = 0;
  std::vector<bool> broadcast;  // of the inputs
  size_t given = 0;             // inputs and constants
  const Value* full = nullptr;
  const Node* sum = nullptr;  // in the body; nullptr: there is none
  std::vector<Tensor> constants;
  std::vector<Step> steps;
  size_t loads = 0;  // of them, at the beginning
  std::vector<size_t> outputs;
  std::vector<bool> stores_low;  // of the outputs
};

// The axes of a value between the steps, then of all inputs, then of the sum.
std::vector<StorageAxis> axes_of(const Node& node, const Plan& plan) {
  Value full = *plan.full, sum;
  std::vector<const Value*> values{&full};
  for (size_t i = 0; i < plan.inputs; ++i) values.push_back(node.inputs[i]);
  if (plan.sum) {
    sum.dims = full.dims;
    for (int64_t axis : plan.sum->inputs[1]->data.to_int64())
      sum.dims[static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(full.dims.size()) : axis)] = 1;
    sum.layout = broadcast_layout(full.layout, full.dims, sum.dims);
    values.push_back(&sum);
  }
  return storage_axes(values);
}

// How a sum is cut. Where indices of the outermost axis have results of their own, threads can share them out; else
// there are parts, each with a copy of the results.
struct Cut {
  Cut(const std::vector<StorageAxis>& axes, int64_t results)
      : outer(axes[0].extent), inner(walked_count(axes) / outer) {
    if (axes[0].strides.back() == 0)
      parts = std::clamp<int64_t>(outer * inner / (4 * results), 1, std::min(outer, most_parts));
  }
  int64_t begin(int64_t part) const { return outer * part / parts * inner; }
  int64_t outer, inner;
  int64_t parts = 0;  // 0: no copies
};

int64_t sum_results(const Node& node, const Plan& plan) {
  for (size_t o = 0; o < node.outputs.size(); ++o) {
    if (plan.is_sum(o)) return node.outputs[o]->layout.storage_count();
  }
  return 0;
}

// An output may overwrite an input of its layout that no later step reads.
Settlement settle_region(const Node& node, const Settlement*) {
  Plan plan(node);
  Settlement settlement;
  for (size_t o = 0; o < node.outputs.size(); ++o) {
    const Value& y = *node.outputs[o];
    auto written = static_cast<int64_t>(plan.outputs[o] - plan.given);
    for (size_t i = 0; i < plan.inputs && !plan.is_sum(o); ++i) {
      const Value& x = *node.inputs[i];
      if (x.dims == y.dims && x.layout == y.layout && x.dtype == y.dtype && plan.last_read(i) <= written)
        settlement.in_place.emplace_back(static_cast<int>(o), static_cast<int>(i));
    }
  }
  if (plan.sum) {
    int64_t results = sum_results(node, plan);
    Cut cut(axes_of(node, plan), results);
    settlement.scratch_bytes = checked_mul(cut.parts * results, int64_t{sizeof(float)});
  }
  return settlement;
}

struct Region {
  std::vector<Step> steps;
  std::vector<int64_t> targets;
  std::vector<int64_t> stores;  // of each step: an output in bfloat16 that it gives; none: -1
  std::vector<const void*> inputs;
  std::vector<Tensor> constants;
  std::vector<void*> outputs;
  std::vector<StorageAxis> axes;
  int64_t tile = 0;
  size_t loads = 0;
  const ReduceLoops<float>* sums = nullptr;

  // Columns lie side by side in everything but what is broadcast along them.
  struct Strides {
    int64_t row, column;
  };
  Strides strides(size_t value) const {
    return {axes[axes.size() > 1 ? axes.size() - 2 : 0].strides[value], axes.back().strides[value]};
  }

  // Adds a tile to `acc`, where a sum has its results. A tile is summed on its own first, which keeps long sums
  // accurate.
  void add_sum(int64_t rows, int64_t columns, TileOperand x, float* acc, Strides to) const {
    if (to.column != 0 && to.row == 0 && rows > 1) {
      std::array<float, largest_tile> own;  // NOLINT(cppcoreguidelines-pro-type-member-init)
      std::fill_n(own.begin(), columns, 0.0F);
      sums->columns(x.data, rows, x.row, columns, own.data());
      for (int64_t c = 0; c < columns; ++c) acc[c] += own[static_cast<size_t>(c)];
      return;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = x.data + r * x.row;
      if (to.column == 0) acc[r * to.row] += sums->row(from, columns);
      else sums->columns(from, 1, x.row, columns, acc + r * to.row);
    }
  }

  // An operand in bfloat16 as it lies, as floats at `slot`.
  static void load(int64_t rows, int64_t columns, const BFloat16* x, Strides from, float* slot) {
    if (from.column == 0) columns = 1;
    if (from.row == 0) rows = 1;
    if (from.row == columns) columns *= std::exchange(rows, 1);
    for (int64_t r = 0; r < rows; ++r) to_float(x + r * from.row, slot + r * columns, columns);
  }

  static void store(int64_t rows, int64_t columns, const float* slot, BFloat16* y, int64_t row) {
    if (row == columns) columns *= std::exchange(rows, 1);
    for (int64_t r = 0; r < rows; ++r) to_bfloat16(slot + r * columns, y + r * row, columns);
  }

  static void apply(const ElementwiseStep& how, int64_t rows, int64_t columns, TileOperand x, TileOperand more,
                    float* y, int64_t y_row) {
    const bool whole = rows == 1 || (x.row == columns && more.row == columns && y_row == columns);
    const int64_t runs = whole ? 1 : rows, length = whole ? rows * columns : columns;
    for (int64_t r = 0; r < runs; ++r) {
      const float* from = x.data + r * x.row;
      if (how.unary) how.unary(from, y + r * y_row, length, how.a, how.b);
      else how.gradient(from, more.data + r * more.row, y + r * y_row, length, how.a, how.b);
    }
  }

  static void copy(int64_t rows, int64_t columns, TileOperand x, float* y, int64_t y_row) {
    for (int64_t r = 0; r < rows; ++r) std::copy_n(x.data + r * x.row, columns, y + r * y_row);
  }

  // `rows` x `columns` elements, at most `tile` in all, from (row, column) of a tile of storage with the offsets `at`.
  void run(int64_t rows, int64_t columns, const int64_t* at, int64_t row, int64_t column, float* slots,
           float* sum) const {
    const Strides full = strides(0);
    auto result = [&](int64_t target) -> std::pair<float*, int64_t> {
      if (target < 0) return {slots + ~target * tile, columns};
      auto* y = static_cast<float*>(outputs[static_cast<size_t>(target)]);
      return {y + at[0] + row * full.row + column, full.row};
    };
    const size_t given = inputs.size() + constants.size();
    auto place = [&](size_t input) {
      const Strides own = strides(input + 1);
      return at[input + 1] + row * own.row + column * own.column;
    };
    auto operand = [&](size_t value) -> TileOperand {
      if (value >= given + loads) {
        auto [data, stride] = result(targets[value - given]);
        return {data, stride, 1};
      }
      if (value >= given) {
        const Strides own = strides(steps[value - given].operands[0] + 1);
        const int64_t stride = own.row == 0 ? 0 : own.column == 0 ? 1 : columns;
        return {slots + ~targets[value - given] * tile, stride, own.column};
      }
      if (value >= inputs.size()) return {constants[value - inputs.size()].data<float>(), 0, 0};
      const Strides own = strides(value + 1);
      return {static_cast<const float*>(inputs[value]) + place(value), own.row, own.column};
    };
    for (size_t s = 0; s < loads; ++s) {
      const size_t input = steps[s].operands[0];
      load(rows, columns, static_cast<const BFloat16*>(inputs[input]) + place(input), strides(input + 1),
           slots + ~targets[s] * tile);
    }
    for (size_t s = loads; s < steps.size(); ++s) {
      const ElementwiseStep& how = steps[s].how;
      const auto& operands = steps[s].operands;
      const TileOperand x = operand(operands[0]);
      if (how.sum) {
        const Strides to = strides(inputs.size() + 1);
        add_sum(rows, columns, x, sum + at[inputs.size() + 1] + row * to.row + column * to.column, to);
        continue;
      }
      auto [y, y_row] = result(targets[s]);
      if (how.binary) {
        how.binary(rows, columns, x, operand(operands[1]), y, y_row);
        for (size_t k = 2; k < operands.size(); ++k)
          how.binary(rows, columns, {y, y_row, 1}, operand(operands[k]), y, y_row);
      } else if (how.unary || how.gradient) {
        apply(how, rows, columns, x, how.gradient ? operand(operands[1]) : x, y, y_row);
      } else {
        copy(rows, columns, x, y, y_row);
      }
      if (stores[s] >= 0) {
        auto* low = static_cast<BFloat16*>(outputs[static_cast<size_t>(stores[s])]);
        store(rows, columns, y, low + at[0] + row * full.row + column, full.row);
      }
    }
  }

  // Elements [begin, end) of storage.
  void operator()(int64_t begin, int64_t end, float* sum) const {
    alignas(64) std::array<float, tile_floats> slots;  // NOLINT(cppcoreguidelines-pro-type-member-init)
    for_each_tile(axes, begin, end, [&](int64_t rows, int64_t columns, const int64_t* at) {
      const int64_t width = std::min(columns, tile), height = std::max<int64_t>(1, tile / columns);
      for (int64_t r = 0; r < rows; r += height) {
        for (int64_t c = 0; c < columns; c += width)
          run(std::min(height, rows - r), std::min(width, columns - c), at, r, c, slots.data(), sum);
      }
    });
  }
};

// Padding is zero in all operands, so that steps with f(0) = 0 keep it, unless an operand is broadcast into it.
bool keeps_zero(const Node& node, const Plan& plan) {
  return std::all_of(plan.steps.begin(), plan.steps.end(), [](const Step& s) { return s.how.keeps_zero; }) &&
         std::all_of(node.inputs.begin(), node.inputs.begin() + static_cast<std::ptrdiff_t>(plan.inputs),
                     [&](const Value* x) { return x->dims == plan.full->dims; });
}

struct Padding {
  void* y;
  size_t element;
  std::vector<std::pair<int64_t, int64_t>> runs;
};

std::vector<Padding> dirty_padding(const Node& node, const Plan& plan, const Binding& binding) {
  std::vector<Padding> found;
  for (size_t o = 0; o < node.outputs.size() && !keeps_zero(node, plan); ++o) {
    auto runs = padding_runs(node.outputs[o]->dims, node.outputs[o]->layout);
    if (!runs.empty()) found.push_back({binding.out<void>(o), size_of(node.outputs[o]->dtype), std::move(runs)});
  }
  return found;
}

// Runs the region and sums up: `results` of the sum, at y.
void run_with_sum(const Region& region, const Cut& cut, int64_t results, float* partial, float* y, int64_t cost) {
  if (cut.parts == 0) {
    std::fill(y, y + results, 0.0F);
    parallel_for(cut.outer, cut.inner * cost,
                 [&](int64_t begin, int64_t end) { region(begin * cut.inner, end * cut.inner, y); });
    return;
  }
  parallel_for(cut.parts, cut.outer * cut.inner / cut.parts * cost, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      float* sum = partial + part * results;
      std::fill(sum, sum + results, 0.0F);
      region(cut.begin(part), cut.begin(part + 1), sum);
    }
  });
  std::copy(partial, partial + results, y);
  for (int64_t part = 1; part < cut.parts; ++part) {
    for (int64_t i = 0; i < results; ++i) y[i] += partial[part * results + i];
  }
}

Kernel prepare_region(const Node& node, const Binding& binding) {
  Plan plan(node);
  Region region;
  int64_t slots = 0;
  region.targets = plan.targets(&slots);
  region.tile = std::min(tile_floats / std::max<int64_t>(slots, 1) / 16 * 16, largest_tile);
  if (region.tile == 0) throw UnsupportedError(node.where(), " has more values between its steps than fit a tile");
  for (size_t i = 0; i < plan.inputs; ++i) region.inputs.push_back(binding.in<void>(i));
  for (size_t o = 0; o < node.outputs.size(); ++o) region.outputs.push_back(binding.out<void>(o));
  for (size_t s = 0; s < plan.steps.size(); ++s) {
    const int64_t output = plan.output_of(s);
    region.stores.push_back(output >= 0 && plan.stores_low[static_cast<size_t>(output)] ? output : -1);
  }
  region.loads = plan.loads;
  region.axes = axes_of(node, plan);
  region.sums = vector_reduce_loops("sum");
  const int64_t count = walked_count(region.axes), results = sum_results(node, plan);
  const auto cost = static_cast<int64_t>(plan.steps.size());
  auto padding = dirty_padding(node, plan, binding);
  auto clean = [padding = std::move(padding)] {
    for (const auto& [y, element, runs] : padding) zero_padding(runs, element, y);
  };
  region.steps = plan.steps;
  region.constants = plan.constants;
  if (!plan.sum) {
    return [=](Stream&) {
      parallel_for(count, cost, [&](int64_t begin, int64_t end) { region(begin, end, nullptr); });
      clean();
    };
  }
  size_t o = 0;
  while (!plan.is_sum(o)) ++o;
  const Cut cut(region.axes, results);
  return [=, y = binding.out<float>(o), partial = static_cast<float*>(binding.scratch)](Stream&) {
    run_with_sum(region, cut, results, partial, y, cost);
    clean();
  };
}

}  // namespace

KernelEntry mixed_elementwise_kernel() { return {DTypes::bf16, {propose_broadcast, settle_region, prepare_region}}; }

std::optional<MixedPrecision> mixed_elementwise(const Node& node) {
  const Op* op = find_op(node);
  ElementwiseStep step;
  if (!op || !op->elementwise || node.outputs.size() != 1 || !op->elementwise(node, &step) || step.sum)
    return std::nullopt;
  return MixedPrecision{.follows = true, .mixes = true};
}

std::vector<Op> elementwise_ops() {
  KernelFunctions kernel = {propose_plain, settle_region, prepare_region};
  return {{.type = "Elementwise",
           .domain = "graft",
           .infer = infer_region,
           .cpu = {{DTypes::f32, kernel}, {DTypes::bf16, kernel}}}};
}

}  // namespace graft
