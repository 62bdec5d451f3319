#include "ops/conv.h"

#include "ops/bfloat16.h"
#include "ops/channel_view.h"
#include "ops/gradient.h"
#include "ops/winograd_loops.h"

namespace graft {

ConvSlots conv_slots(const Node& node) {
  if (node.type == "ConvGradData") return {ConvWay::data, ~0, 1, 0, 2};
  if (node.type == "ConvTranspose") return {ConvWay::data, ~0, 1, 0, 2};
  if (node.type == "ConvGradWeights") return {ConvWay::weights, 0, ~0, 1, ~1};
  return {ConvWay::forward, 0, 1, ~0, 2};
}

int64_t bias_gradient_scratch(const Node& node, const ConvProblem& p) {
  if (!p.bias || p.slots.way != ConvWay::weights) return 0;
  ChannelView view = channel_view(node, *conv_value(node, p.slots.y));
  return ChannelSums::scratch_bytes(view, ChannelSums::slices(view));
}

Kernel then_sum_bias(const Node& node, const ConvProblem& p, const Binding& binding, void* scratch, Kernel kernel) {
  if (!p.bias) return kernel;
  ChannelView view = channel_view(node, *conv_value(node, p.slots.y));
  ChannelSums sums(view, scratch, ChannelSums::slices(view));
  const void* dy = conv_address(binding, p.slots.y);
  auto* db = static_cast<float*>(conv_address(binding, p.slots.bias));
  return [=, low = p.y_dtype == DType::bf16, sums = sums](Stream& stream) mutable {
    kernel(stream);
    // In double: before a live normalisation the terms cancel, and only their own rounding should be left.
    auto sum = [&](const auto* terms) {
      sums.run<double>([terms](int64_t i, int64_t) { return std::pair<double, double>(widened(terms[i]), 0); });
    };
    if (low) sum(static_cast<const BFloat16*>(dy));
    else sum(static_cast<const float*>(dy));
    for (int64_t c = 0; c < view.channels; ++c) db[c] = static_cast<float>(sums.first(c));
  };
}

namespace {

// A normalisation that changes nothing, with what is behind it, over all that is stored: the padding stays zero.
template <class T, class S>
Kernel finish(const Value& y, const Activation& activation, void* result, const void* beside, const Kernel& kernel) {
  static constexpr T zero = 0, one = 1;
  NormalizedRows<T, S> rows{.width = 1,
                            .mean = &zero,
                            .factor = &one,
                            .bias = &zero,
                            .low = static_cast<T>(activation.low),
                            .high = static_cast<T>(activation.high),
                            .x = static_cast<const S*>(result),
                            .residual = static_cast<const S*>(beside),
                            .y = static_cast<S*>(result)};
  return [=, epilogue = activation.epilogue, count = y.layout.storage_count()](Stream& stream) {
    kernel(stream);
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      NormalizedRows<T, S> some = rows;
      some.rows = end - begin;
      some.x += begin;
      some.y += begin;
      if (some.residual) some.residual += begin;
      normalization_loops<T, S>().normalize(some, epilogue);
    });
  };
}

}  // namespace

Kernel then_finish(const Node& node, const ConvProblem& p, const Binding& binding, Kernel kernel) {
  if (!p.finishes()) return kernel;
  const Value& y = *conv_value(node, p.slots.y);
  void* result = conv_address(binding, p.slots.y);
  const void* beside = p.adds ? binding.inputs[conv_beside] : nullptr;
  switch (y.dtype) {
    case DType::bf16: return finish<float, BFloat16>(y, p.activation, result, beside, kernel);
    case DType::f64: return finish<double, double>(y, p.activation, result, beside, kernel);
    default: return finish<float, float>(y, p.activation, result, beside, kernel);
  }
}

bool ConvProblem::empty() const { return element_count(x) == 0 || element_count(w) == 0 || element_count(y) == 0; }

namespace {

bool are(const Dims& values, int64_t value) {
  return std::all_of(values.begin(), values.end(), [value](int64_t v) { return v == value; });
}

}  // namespace

bool ConvProblem::picks_pixels() const { return are(window.kernel, 1) && are(window.begin, 0) && are(window.end, 0); }
bool ConvProblem::is_pointwise() const { return picks_pixels() && are(window.strides, 1); }

void set_blocks(const ConvProblem& p, Candidate& candidate) {
  set_layout(candidate, p.slots.x, blocked_channels(p.x, channel_block()));
  set_result_layout(candidate, p, blocked_channels(p.y, channel_block()));
}

bool lies_in_blocks(const Node& node, const ConvProblem& p) {
  return conv_value(node, p.slots.x)->layout == blocked_channels(p.x, channel_block()) &&
         conv_value(node, p.slots.y)->layout == blocked_channels(p.y, channel_block());
}

int64_t ConvProblem::multiplications() const {
  return checked_mul(element_count(w), checked_mul(y[0], element_count(spatial_dims(y))));
}

namespace {

void check_dtype(const Node& node, const Value* value, DType dtype) {
  if (value && value->dtype != dtype) {
    throw ModelError(node.where(), " mixes element types ", dtype, " and ", value->dtype);
  }
}

// Pads of a ConvTranspose follow from its output size where output_shape or auto_pad fixes that.
Window transpose_window(const Node& node, const ConvProblem& p, const Dims& kernel) {
  size_t rank = kernel.size();
  std::string auto_pad = node.text("auto_pad", "NOTSET");
  bool same = auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER";
  Window window = window_of(node, Dims(rank, 1), kernel);
  if (!same && !node.has("output_shape")) return window;
  Dims extra = node.integers("output_padding", Dims(rank, 0));
  if (extra.size() != rank)
    throw ModelError(node.where(), " attribute 'output_padding' has ", extra.size(), " entries: ", rank, " wanted");
  for (size_t d = 0; d < rank; ++d) {
    int64_t full = checked_add(checked_mul(window.strides[d], p.y[2 + d] - 1), checked_add(extra[d], window.extent(d)));
    int64_t total = std::max<int64_t>(full - p.x[2 + d], 0);
    window.begin[d] = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
    window.end[d] = total - window.begin[d];
  }
  return window;
}

bool is_finished(const Node& node) { return node.domain == "graft" && node.type == "Conv"; }

}  // namespace

ConvProblem conv_problem(const Node& node) {
  ConvProblem p;
  p.slots = conv_slots(node);
  const Value* x = conv_value(node, p.slots.x);
  const Value* w = conv_value(node, p.slots.w);
  const Value* y = conv_value(node, p.slots.y);
  const Value* bias = conv_value(node, p.slots.bias);
  p.dtype = kernel_dtype(node);
  p.x_dtype = x->dtype;
  p.w_dtype = w ? w->dtype : p.dtype;
  p.y_dtype = y->dtype;
  // What may be mixed with bfloat16 was checked when the kernel was looked up.
  for (const Value* value : {x, w, y, bias}) {
    if (p.dtype != DType::bf16) check_dtype(node, value, p.dtype);
  }
  p.x = x->dims;
  p.w = w ? w->dims : node.integers("w_shape");
  p.y = y->dims;
  p.bias = bias != nullptr;
  p.group = node.integer("group", 1);
  size_t rank = p.x.size();
  if (rank < 3 || p.w.size() != rank || p.y.size() != rank)
    throw ModelError(node.where(), " wants an input of rank 3 or more and weights of the same rank, got ", p.x, " and ",
                     p.w);
  if (rank > 5) throw UnsupportedError(node.where(), " has ", rank - 2, " spatial axes: 1 to 3 are supported");
  if (p.group < 1 || p.w[0] % p.group != 0 || p.x[1] != checked_mul(p.w[1], p.group)) {
    throw ModelError(node.where(), " input ", p.x, " and weights ", p.w, " do not fit ", p.group, " group(s)");
  }
  Dims kernel = spatial_dims(p.w);
  if (node.integers("kernel_shape", kernel) != kernel)
    throw ModelError(node.where(), " attribute 'kernel_shape' is ", node.integers("kernel_shape"), ", the weights are ",
                     p.w);
  p.window =
      node.type == "ConvTranspose" ? transpose_window(node, p, kernel) : window_of(node, spatial_dims(p.x), kernel);
  Dims wanted = {p.x[0], p.w[0]};
  for (size_t d = 0; d + 2 < rank; ++d) wanted.push_back(p.window.output(d, p.x[2 + d]));
  if (p.y != wanted)
    throw ModelError(node.where(), " input ", p.x, " and weights ", p.w, " give ", wanted, ", not ", p.y);
  for (size_t d = 2; p.slots.way == ConvWay::forward && d < rank; ++d) {
    if (p.x[d] > 0 && p.y[d] == 0)
      throw ModelError(node.where(), " weights ", p.w, " cover ", p.window.extent(d - 2), " along axis ", d,
                       ", more than the input ", p.x, " with its padding");
  }
  if (is_finished(node)) {
    p.activation = activation_of(node);
    const Value* beside = node.input(conv_beside);
    p.adds = beside != nullptr;
    if (beside && (beside->dims != p.y || beside->dtype != p.y_dtype))
      throw ModelError(node.where(), " adds ", p.y_dtype, p.y, " to its result, got ", beside->dtype, beside->dims);
  }
  int64_t biases = p.slots.way == ConvWay::data ? p.x[1] : p.w[0];
  if (bias && bias->dims != Dims{biases})
    throw ModelError(node.where(), " bias must have shape ", Dims{biases}, ", got ", bias->dims);
  return p;
}

namespace {

Attributes conv_attributes(const ConvProblem& p) {
  Attributes attributes = window_attributes(p.window);
  attributes["group"] = p.group;
  return attributes;
}

Attributes conv_attributes(const ConvProblem& p, const char* shape_name, const Dims& shape) {
  Attributes attributes = conv_attributes(p);
  attributes[shape_name] = shape;
  return attributes;
}

void infer_result(Node& node, size_t index, const Dims& dims) {
  Value* result = node.output(index);
  if (!result) return;
  result->dtype = node.inputs[0]->dtype;
  result->ranked = true;
  result->dims = dims;
}

void infer_finished(Node& node) {
  const Dims &x = node.inputs[0]->dims, &w = node.inputs[1]->dims;
  if (x.size() < 3 || w.size() != x.size())
    throw ModelError(node.where(), " wants an input of rank 3 or more and weights of the same rank, got ", x, " and ",
                     w);
  Dims y = {x[0], w[0]};
  const Dims places = window_of(node, spatial_dims(x), spatial_dims(w)).output(spatial_dims(x));
  y.insert(y.end(), places.begin(), places.end());
  infer_result(node, 0, y);
  conv_problem(node);  // refuses what makes no sense
}

void infer_grad_data(Node& node) { infer_result(node, 0, node.integers("x_shape")); }

void infer_grad_weights(Node& node) {
  Dims w = node.integers("w_shape");
  infer_result(node, 0, w);
  infer_result(node, 1, {w.empty() ? 0 : w[0]});
}

Val grad_data(const ConvProblem& p, const Val& dy, const Val& w) {
  return call("graft", "ConvGradData", {dy, w}, 1, conv_attributes(p, "x_shape", p.x))[0];
}

std::vector<Val> grad_weights(Gradient& g, const ConvProblem& p, const Val& x, const Val& dy, bool db) {
  return g.grad_node("ConvGradWeights", {x, dy}, std::vector<bool>{true, db}, conv_attributes(p, "w_shape", p.w));
}

Val channel_sum(const Val& dy) { return call("graft", "ChannelSum", {dy}, 1)[0]; }

Val forward(const ConvProblem& p, const Val& x, const Val& w, const Val& bias) {
  std::vector<Val> operands = {x, w};
  if (bias) operands.push_back(bias);
  return call("Conv", operands, conv_attributes(p));
}

Vals differentiate_conv(Gradient& g) {
  ConvProblem p = conv_problem(g.node());
  Vals result(3);
  if (g.needs(0)) result[0] = grad_data(p, g.dy(0), g.x(1));
  if (g.needs(1)) {
    auto grads = grad_weights(g, p, g.x(0), g.dy(0), g.needs(2));
    result[1] = grads[0];
    result[2] = grads[1];
  } else if (g.needs(2)) {
    result[2] = channel_sum(g.dy(0));
  }
  return result;
}

// dx is linear in dy and in w.
Vals differentiate_grad_data(Gradient& g) {
  ConvProblem p = conv_problem(g.node());
  Vals result(2);
  if (g.needs(0)) result[0] = forward(p, g.dy(0), g.x(1), {});
  if (g.needs(1)) result[1] = grad_weights(g, p, g.dy(0), g.x(0), false)[0];
  return result;
}

// dw is linear in x and in dy; db in dy.
Vals differentiate_grad_weights(Gradient& g) {
  ConvProblem p = conv_problem(g.node());
  Vals result(2);
  if (g.needs(0) && g.dy(0)) result[0] = grad_data(p, g.x(1), g.dy(0));
  if (!g.needs(1)) return result;
  if (g.dy(0)) {
    result[1] = forward(p, g.x(0), g.dy(0), g.dy(1));
  } else {
    Dims column(p.y.size(), 1);
    column[1] = p.y[1];
    result[1] = expand(reshape(g.dy(1), column), p.y);
  }
  return result;
}

// The map from y to x with a bias: its derivatives are the other two ways of the same problem.
Vals differentiate_conv_transpose(Gradient& g) {
  ConvProblem p = conv_problem(g.node());
  Vals result(3);
  if (g.needs(0)) result[0] = forward(p, g.dy(0), g.x(1), {});
  if (g.needs(1)) result[1] = grad_weights(g, p, g.dy(0), g.x(0), false)[0];
  if (g.needs(2)) result[2] = channel_sum(g.dy(0));
  return result;
}

std::vector<KernelEntry> kernels() {
  KernelFunctions dnnl = {propose_conv, settle_conv, prepare_conv, conv_choices};
  return {{DTypes::f32, dnnl}, {DTypes::bf16, dnnl}, {DTypes::f64, plain_kernel(prepare_conv_reference)}};
}

}  // namespace

std::vector<Op> conv_ops() {
  return {{.type = "Conv",
           .cpu = kernels(),
           .differentiate = differentiate_conv,
           .mixed_precision = mix_conv,
           .parameter_slots = {1, 2},
           .gives_statistics = conv_gives_statistics},
          // No gradient: it stands where none flows.
          {.type = "Conv", .domain = "graft", .infer = infer_finished, .cpu = kernels(), .mixed_precision = mix_conv},
          {.type = "ConvTranspose",
           .cpu = kernels(),
           .differentiate = differentiate_conv_transpose,
           .mixed_precision = mix_conv,
           .parameter_slots = {1, 2}},
          {.type = "ConvGradData",
           .domain = "graft",
           .infer = infer_grad_data,
           .cpu = kernels(),
           .differentiate = differentiate_grad_data,
           .mixed_precision = mix_conv},
          {.type = "ConvGradWeights",
           .domain = "graft",
           .infer = infer_grad_weights,
           .cpu = kernels(),
           .differentiate = differentiate_grad_weights,
           .mixed_precision = mix_conv}};
}

}  // namespace graft
