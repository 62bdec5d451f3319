// BatchNormalization, with running statistics or live ones, alone or with the addition and the activation behind it.
// Own kernels: they work on x as it lies, and all of it is bound by memory.
#include "ops/batch_normalization.h"

#include <limits>

#include "ops/bfloat16.h"
#include "ops/channel_passes.h"
#include "ops/gradient.h"
#include "ops/normalization_loops.h"

namespace graft {

Activation activation_of(const Node& node, const std::string& prefix) {
  std::string name = node.text(prefix + "activation", "none");
  if (name == "none") return {};
  if (name == "relu") return {Epilogue::clamp, 0, std::numeric_limits<double>::quiet_NaN()};
  if (name == "hard_swish") return {Epilogue::hard_swish};
  if (name != "clip")
    throw ModelError(node.where(), " has the activation \"", name, "\": allowed are none, relu, clip and hard_swish");
  Activation clip{Epilogue::clamp, node.real(prefix + "min", -HUGE_VAL), node.real(prefix + "max", HUGE_VAL)};
  // Padding channels stay zero only if f(0) = 0.
  if (!(clip.low <= 0 && !(clip.high < 0)))
    throw ModelError(node.where(), " has limits ", clip.low, ", ", clip.high, " that 0 is not between");
  return clip;
}

Slope slope_from_x(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::clamp: return Slope::clamp;
    case Epilogue::hard_swish: return Slope::hard_swish;
    case Epilogue::none: break;
  }
  return Slope::one;
}

namespace {

// Operands: x, scale, bias, mean, var, residual, and what a first run left -> y, running mean, running var, and bytes
// for backward
enum Operand : uint8_t { in_x, in_scale, in_bias, in_mean, in_var, in_residual, in_saved };
// Operands of the gradient. x is absent where neither statistics nor the slope of the activation need it; mean and var
// where live; `saved` where forward left nothing; dy + more_dy is the gradient of y.
enum GradOperand : uint8_t { of_dy, of_x, of_scale, of_bias, of_mean, of_var, of_saved, of_more_dy };
enum GradResult : uint8_t { to_dx, to_dscale, to_dbias, to_dresidual };

bool is_live(const Node& node) { return node.integer("training_mode", 0) != 0; }
double epsilon_of(const Node& node) { return node.real("epsilon", 1e-5); }
// Whether forward leaves a bit an element for backward: is the slope of the activation 1 there?
bool has_bits(const Node& node) { return node.integer("bits", 0) != 0; }

Slope slope_of(const Node& node) { return has_bits(node) ? Slope::bits : slope_from_x(activation_of(node).epilogue); }

void check_operand(const Node& node, size_t i, const Value& like, const Dims& wanted) {
  const Value* value = node.input(i);
  if (!value || value->opaque) return;
  // What may be mixed with bfloat16 was checked when the kernel was looked up.
  if (value->dtype != like.dtype && like.dtype != DType::bf16)
    throw UnsupportedError(node.where(), " mixes element types ", like.dtype, " and ", value->dtype);
  if (value->dims != wanted)
    throw ModelError(node.where(), " input ", i, " must have shape ", wanted, ", got ", value->dims);
}

void check_operands(const Node& node, const std::vector<size_t>& vectors, const std::vector<size_t>& maps) {
  const Value& x = *node.inputs[0];
  if (x.dims.size() < 2) throw ModelError(node.where(), " wants an input of rank 2 or more, got ", x.dims);
  for (size_t i : vectors) check_operand(node, i, x, {x.dims[1]});
  for (size_t i : maps) check_operand(node, i, x, x.dims);
  activation_of(node);  // refuses what makes no sense
}

// Index of the opaque result that keeps what backward needs; none when nothing is differentiated.
std::optional<size_t> saved_index(const Node& node) {
  for (size_t i = 1; i < node.outputs.size(); ++i) {
    if (node.outputs[i] && node.outputs[i]->opaque) return i;
  }
  return std::nullopt;
}

// The opaque bytes: mean, 1/sigma and what rounding took from the mean, of every channel where live, then the bits of
// every piece.
template <class T>
struct Saved {
  Saved(const Node& node, const ChannelPasses& passes, const void* base)
      : channels(is_live(node) ? passes.view().channels : 0),
        stride(normalization_loops<T>().bit_bytes(passes.rows(), passes.view().width)),
        bytes(checked_add(3 * channels * static_cast<int64_t>(sizeof(T)),
                          has_bits(node) ? checked_mul(stride, passes.count()) : 0)),
        mean(static_cast<T*>(const_cast<void*>(base))) {}

  T* inverse() const { return mean + channels; }
  T* rest() const { return mean + 2 * channels; }
  uint8_t* bits(int64_t piece) const { return reinterpret_cast<uint8_t*>(mean + 3 * channels) + piece * stride; }

  int64_t channels, stride, bytes;
  T* mean;
};

// Vectors of one entry a channel, padding channels included, in the scratch after that of the passes.
template <class T>
struct ChannelVectors {
  ChannelVectors(const ChannelPasses& passes, void* scratch)
      : base(reinterpret_cast<T*>(static_cast<std::byte*>(scratch) + passes.scratch_bytes())),
        channels(passes.padded_channels()) {}
  static int64_t bytes(const ChannelPasses& passes, int64_t count) {
    return checked_mul(count * static_cast<int64_t>(sizeof(T)), passes.padded_channels());
  }
  T* operator[](int64_t i) const { return base + i * channels; }

  T* base;
  int64_t channels;
};

template <class T>
T frozen_factor(T scale, T var, double epsilon) {
  return scale / std::sqrt(var + static_cast<T>(epsilon));
}

// --- Forward ---

constexpr int64_t forward_vectors = 3;

// y = f((x - mean) factor + bias + residual), factor = scale / sqrt(var + epsilon). Live: mean and population variance
// are the batch's; running' = running momentum + batch (1 - momentum).
template <class T, class S>
struct Normalization {
  ChannelPasses passes;
  ChannelVectors<T> vectors;  // mean or, in the first pass, the shift; factor; bias
  NormalizationLoops<T, S> loops;
  NormalizedRows<T, S> rows;
  Epilogue epilogue;
  bool live, has_bits, again;  // again: statistics are those that the first run saved
  const T *scale, *bias, *mean, *var;
  T *new_mean, *new_var;
  std::optional<Saved<T>> saved;
  double epsilon, momentum;

  bool sums() const { return live && !again; }
  static bool goes_on() { return true; }

  // Sums about one sample of each channel: no cancellation where the mean is large.
  void begin(int64_t block) {
    const ChannelView& view = passes.view();
    if (!sums()) return;
    for (int64_t v = 0; v < view.width; ++v)
      vectors[0][block * view.width + v] = passes.values() > 0 ? widened(rows.x[view.offset(0, block) + v]) : T{0};
  }

  NormalizedRows<T, S> rows_of(const ChannelPiece& piece) const {
    NormalizedRows<T, S> some = rows;
    some.rows = piece.rows;
    some.mean = vectors[0] + piece.channel;
    some.factor = vectors[1] + piece.channel;
    some.bias = vectors[2] + piece.channel;
    some.x += piece.offset;
    some.y += piece.offset;
    if (some.residual) some.residual += piece.offset;
    return some;
  }

  void first(const ChannelPiece& piece, int64_t, T* sums) const { loops.statistics(rows_of(piece), sums); }
  void add(const T* sums, int64_t count, double* totals) const { loops.add(sums, count, totals); }

  void middle(int64_t block, const double* totals) const {
    for (int64_t v = 0; v < rows.width; ++v) {
      int64_t c = block * rows.width + v;
      if (c >= passes.view().channels) vectors[0][c] = vectors[1][c] = vectors[2][c] = 0;
      else if (again) give(c, saved->mean[c], live_factor(scale[c], saved->inverse()[c]));
      else if (live) give_live(c, totals[v], totals[rows.width + v]);
      else give(c, mean[c], frozen_factor(scale[c], var[c], epsilon));
    }
  }

  void give(int64_t c, T center, T factor) const {
    vectors[0][c] = center;
    vectors[1][c] = factor;
    vectors[2][c] = bias[c];
  }

  void give_live(int64_t c, double sum, double sum_of_squares) const {
    auto count = static_cast<double>(passes.values());
    auto found = live_statistics<T>(static_cast<double>(vectors[0][c]), sum, sum_of_squares, count, epsilon);
    if (new_mean) new_mean[c] = running_statistic(mean[c], found.batch_mean, momentum);
    if (new_var) new_var[c] = running_statistic(var[c], found.batch_var, momentum);
    give(c, found.mean, live_factor(scale[c], found.inverse));
    if (!saved) return;
    saved->mean[c] = found.mean;
    saved->inverse()[c] = found.inverse;
    saved->rest()[c] = found.rest;
  }

  void second(const ChannelPiece& piece, int64_t number) const {
    NormalizedRows<T, S> some = rows_of(piece);
    if (has_bits) some.bits = saved->bits(number);
    loops.normalize(some, epilogue);
  }
};

template <class T, class S>
Settlement settle_normalization(const Node& node, const Settlement*) {
  check_operands(node, {in_scale, in_bias, in_mean, in_var}, {in_residual});
  ChannelPasses passes(channel_view(node, *node.inputs[in_x]), sizeof(S), sizeof(T), 1);
  check_workspace(node, in_saved, Saved<T>(node, passes, nullptr).bytes);
  Settlement settlement;
  settlement.scratch_bytes = checked_add(passes.scratch_bytes(), ChannelVectors<T>::bytes(passes, forward_vectors));
  settlement.opaque_bytes.assign(node.outputs.size(), Saved<T>(node, passes, nullptr).bytes);
  settlement.in_place = {{0, in_x}, {0, in_residual}};
  settlement.descriptor = passes;
  return settlement;
}

template <class T, class S>
Kernel prepare_normalization(const Node& node, const Binding& binding) {
  auto passes = std::any_cast<ChannelPasses>(binding.settlement->descriptor);
  auto index = saved_index(node);
  const T* left = binding.in<T>(in_saved);
  if (!left && index) left = binding.out<T>(*index);
  auto saved = left ? std::optional(Saved<T>(node, passes, left)) : std::nullopt;
  bool live = is_live(node);
  auto statistic = [&](size_t i) {
    return live && node.output(i) && !node.outputs[i]->opaque ? binding.out<T>(i) : nullptr;
  };
  Activation activation = activation_of(node);
  NormalizedRows<T, S> rows{.width = passes.view().width,
                            .low = static_cast<T>(activation.low),
                            .high = static_cast<T>(activation.high),
                            .x = binding.in<S>(in_x),
                            .residual = binding.in<S>(in_residual),
                            .y = binding.out<S>(0)};
  Normalization<T, S> work{.passes = passes,
                           .vectors = {passes, binding.scratch},
                           .loops = normalization_loops<T, S>(),
                           .rows = rows,
                           .epilogue = activation.epilogue,
                           .live = live,
                           .has_bits = has_bits(node) && saved,
                           .again = binding.in<T>(in_saved) != nullptr,
                           .scale = binding.in<T>(in_scale),
                           .bias = binding.in<T>(in_bias),
                           .mean = binding.in<T>(in_mean),
                           .var = binding.in<T>(in_var),
                           .new_mean = statistic(1),
                           .new_var = statistic(2),
                           .saved = saved,
                           .epsilon = epsilon_of(node),
                           .momentum = node.real("momentum", 0.9)};
  return [work, scratch = binding.scratch](Stream&) mutable { work.passes.template run<T>(scratch, work); };
}

// --- Backward ---

constexpr int64_t grad_vectors = 6;

// h = (x - mean)/sigma, dt = dy f'(t):  dbias = sum dt,  dscale = sum dt h,  dresidual = dt
//   frozen: dx = scale/sigma dt       live: dx = scale/sigma (dt - dbias/count - h dscale/count)
template <class T, class S>
struct NormalizationGrad {
  ChannelPasses passes;
  ChannelVectors<T> vectors;  // mean, factor, bias, then what dx is made of: slope, slope of x, offset
  NormalizationLoops<T, S> loops;
  NormalizedRowsGrad<T, S> rows;
  Slope slope;
  bool live;
  const T *scale, *bias, *mean, *var;
  T *dscale, *dbias;
  std::optional<Saved<T>> saved;
  double epsilon;

  bool sums() const { return (live && rows.dx) || dscale || dbias || rows.dt; }
  bool goes_on() const { return rows.dx; }

  void begin(int64_t block) const {
    for (int64_t v = 0; v < rows.width; ++v) {
      int64_t c = block * rows.width + v;
      bool real = c < passes.view().channels;
      vectors[0][c] = !real ? T{0} : live ? saved->mean[c] : mean[c];
      vectors[1][c] = !real  ? T{0}
                      : live ? live_factor(scale[c], saved->inverse()[c])
                             : frozen_factor(scale[c], var[c], epsilon);
      vectors[2][c] = real && bias ? bias[c] : T{0};
    }
  }

  NormalizedRowsGrad<T, S> rows_of(const ChannelPiece& piece, int64_t number) const {
    NormalizedRowsGrad<T, S> some = rows;
    some.rows = piece.rows;
    some.mean = vectors[0] + piece.channel;
    some.factor = vectors[1] + piece.channel;
    some.bias = vectors[2] + piece.channel;
    for (const S** operand : {&some.x, &some.dy, &some.more_dy}) {
      if (*operand) *operand += piece.offset;
    }
    if (some.dt) some.dt += piece.offset;
    if (some.dx) some.dx += piece.offset;
    if (slope == Slope::bits) some.bits = saved->bits(number);
    return some;
  }

  void first(const ChannelPiece& piece, int64_t number, T* sums) const {
    loops.grad_sums(rows_of(piece, number), slope, sums);
  }
  void add(const T* sums, int64_t count, double* totals) const { loops.add(sums, count, totals); }

  void middle(int64_t block, const double* totals) const {
    for (int64_t v = 0; v < rows.width; ++v) {
      int64_t c = block * rows.width + v;
      if (c < passes.view().channels) give(c, totals[v], totals[rows.width + v]);
      else vectors[3][c] = vectors[4][c] = vectors[5][c] = 0;
    }
  }

  void give(int64_t c, double sum, double sum_x) const {
    double inverse =
        live ? static_cast<double>(saved->inverse()[c]) : 1 / std::sqrt(static_cast<double>(var[c]) + epsilon);
    if (dscale) dscale[c] = static_cast<T>(sum_x * inverse);
    if (dbias) dbias[c] = static_cast<T>(sum);
    double rest = live ? static_cast<double>(saved->rest()[c]) : 0;
    auto factors = grad_factors(scale[c], inverse, rest, sum, sum_x, static_cast<double>(passes.values()));
    vectors[3][c] = factors.slope;
    vectors[4][c] = factors.slope_x;
    vectors[5][c] = factors.offset;
  }

  void second(const ChannelPiece& piece, int64_t number) const {
    NormalizedRowsGrad<T, S> some = rows_of(piece, number);
    some.slope = vectors[3] + piece.channel;
    if (live) {
      some.slope_x = vectors[4] + piece.channel;
      some.offset = vectors[5] + piece.channel;
    }
    if (!some.dt) return loops.grad(some, slope);
    some.dy = some.dt;
    some.more_dy = nullptr;
    loops.grad(some, Slope::one);
  }
};

// The bits lie as y did.
std::vector<Candidate> propose_grad(const Node& node) {
  if (!has_bits(node)) return propose_channelwise(node);
  const Node* forward = node.inputs[of_saved]->producer;
  Candidate candidate = propose_plain(node)[0];
  for (size_t i : {of_dy, of_x, of_more_dy}) {
    if (node.input(i)) candidate.inputs[i] = forward->outputs[0]->layout;
  }
  for (size_t i : {to_dx, to_dresidual}) {
    if (node.output(i)) candidate.outputs[i] = forward->outputs[0]->layout;
  }
  return {candidate};
}

template <class T, class S>
Settlement settle_grad(const Node& node, const Settlement*) {
  check_operands(node, {of_scale, of_bias, of_mean, of_var}, {of_x, of_more_dy});
  ChannelPasses passes(channel_view(node, *node.inputs[of_dy]), sizeof(S), sizeof(T), node.input(of_more_dy) ? 3 : 2);
  Settlement settlement;
  settlement.scratch_bytes = checked_add(passes.scratch_bytes(), ChannelVectors<T>::bytes(passes, grad_vectors));
  for (int result : {to_dresidual, to_dx}) {
    if (!node.output(static_cast<size_t>(result))) continue;
    for (int operand : {of_dy, of_more_dy, of_x}) {
      if (result == to_dx || operand != of_x) settlement.in_place.emplace_back(result, operand);
    }
  }
  settlement.descriptor = passes;
  return settlement;
}

template <class T, class S>
Kernel prepare_grad(const Node& node, const Binding& binding) {
  auto passes = std::any_cast<ChannelPasses>(binding.settlement->descriptor);
  const void* saved = binding.in<void>(of_saved);
  Activation activation = activation_of(node);
  NormalizedRowsGrad<T, S> rows{.width = passes.view().width,
                                .low = static_cast<T>(activation.low),
                                .high = static_cast<T>(activation.high),
                                .x = binding.in<S>(of_x),
                                .dy = binding.in<S>(of_dy),
                                .more_dy = binding.in<S>(of_more_dy),
                                .dt = binding.out<S>(to_dresidual),
                                .dx = binding.out<S>(to_dx)};
  NormalizationGrad<T, S> work{.passes = passes,
                               .vectors = {passes, binding.scratch},
                               .loops = normalization_loops<T, S>(),
                               .rows = rows,
                               .slope = slope_of(node),
                               .live = is_live(node),
                               .scale = binding.in<T>(of_scale),
                               .bias = binding.in<T>(of_bias),
                               .mean = binding.in<T>(of_mean),
                               .var = binding.in<T>(of_var),
                               .dscale = binding.out<T>(to_dscale),
                               .dbias = binding.out<T>(to_dbias),
                               .saved = saved ? std::optional(Saved<T>(node, passes, saved)) : std::nullopt,
                               .epsilon = epsilon_of(node)};
  return [work, scratch = binding.scratch](Stream&) mutable { work.passes.template run<T>(scratch, work); };
}

void infer_activated(Node& node) {
  infer_like(node.output(0), *node.inputs[in_x]);
  infer_like(node.output(1), *node.inputs[in_mean]);
  infer_like(node.output(2), *node.inputs[in_var]);
}

void infer_grad(Node& node) {
  infer_like(node.output(to_dx), *node.inputs[of_dy]);
  infer_like(node.output(to_dscale), *node.inputs[of_scale]);
  infer_like(node.output(to_dbias), *node.inputs[of_scale]);
  infer_like(node.output(to_dresidual), *node.inputs[of_dy]);
}

Vals differentiate_normalization(Gradient& g) {
  Node& node = g.node();
  if (g.dy(1) || g.dy(2)) throw UnsupportedError(node.where(), " has no gradient through its running statistics");
  const bool live = is_live(node);
  const bool dmean = !live && g.needs(in_mean), dvar = !live && g.needs(in_var);
  const Epilogue epilogue = activation_of(node).epilogue;
  Vals result(node.inputs.size());
  // Without an activation the residual's gradient is that of y.
  bool dresidual = g.needs(in_residual) && epilogue != Epilogue::none;
  if (g.needs(in_residual) && !dresidual) result[in_residual] = g.dy(0);
  bool dscale = g.needs(in_scale) || dvar, dbias = g.needs(in_bias) || dmean;
  if (!g.needs(in_x) && !dscale && !dbias && !dresidual) return result;

  // The slope of a clamp follows from x, unless there is a residual; bits save x where nothing else needs it.
  bool statistics = (live && g.needs(in_x)) || dscale;
  bool bits = epilogue == Epilogue::clamp && (node.input(in_residual) || !statistics);
  bool from_x = epilogue != Epilogue::none && !bits;
  if (bits) node.attributes["bits"] = int64_t{1};
  Attributes attributes = node.attributes;
  attributes.erase("momentum");
  auto grads =
      g.grad_node("BatchNormalizationGrad",
                  {g.dy(0), statistics || from_x ? g.x(in_x) : Val{}, g.x(in_scale), from_x ? g.x(in_bias) : Val{},
                   live ? Val{} : g.x(in_mean), live ? Val{} : g.x(in_var), live || bits ? g.workspace() : Val{}},
                  {g.needs(in_x), dscale, dbias, dresidual}, attributes);
  result[in_x] = grads[to_dx];
  if (g.needs(in_scale)) result[in_scale] = grads[to_dscale];
  if (g.needs(in_bias)) result[in_bias] = grads[to_dbias];
  if (dresidual) result[in_residual] = grads[to_dresidual];
  // t depends on mean as it does on bias, times -scale/sigma, and on var through 1/sigma.
  Val variance = dmean || dvar ? g.x(in_var) + epsilon_of(node) : Val{};
  if (dmean) result[in_mean] = -(grads[to_dbias] * g.x(in_scale) / sqrt(variance));
  if (dvar) result[in_var] = grads[to_dscale] * g.x(in_scale) / variance * -0.5;
  return result;
}

template <class T, class S = T>
KernelFunctions forward_kernel() {
  return {propose_channelwise, settle_normalization<T, S>, prepare_normalization<T, S>};
}
template <class T, class S = T>
KernelFunctions grad_kernel() {
  return {propose_grad, settle_grad<T, S>, prepare_grad<T, S>};
}

// Bits are many: a second run finds them anew, and with them all else.
std::optional<Shortcut> shortcut(const Node& node) {
  auto saved = saved_index(node);
  if (!saved || !is_live(node) || has_bits(node)) return std::nullopt;
  return Shortcut{*saved, in_saved};
}

std::optional<MixedPrecision> mix_forward(const Node&) {
  return MixedPrecision{.inputs = 1 << in_x | 1 << in_residual, .outputs = 1};
}
std::optional<MixedPrecision> mix_grad(const Node&) {
  return MixedPrecision{.inputs = 1 << of_dy | 1 << of_x | 1 << of_more_dy, .outputs = 1 << to_dx | 1 << to_dresidual};
}

}  // namespace

std::vector<Op> batch_normalization_ops() {
  std::vector<KernelEntry> forward = {{DTypes::f32, forward_kernel<float>()},
                                      {DTypes::f64, forward_kernel<double>()},
                                      {DTypes::bf16, forward_kernel<float, BFloat16>()}};
  return {{.type = "BatchNormalization",
           .cpu = forward,
           .differentiate = differentiate_normalization,
           .mixed_precision = mix_forward,
           .parameter_slots = {1, 2},
           .statistic_slots = {3, 4},
           .shortcut = shortcut},
          {.type = "BatchNormalizationActivation",
           .domain = "graft",
           .infer = infer_activated,
           .cpu = forward,
           .differentiate = differentiate_normalization,
           .mixed_precision = mix_forward,
           .shortcut = shortcut},
          {.type = "BatchNormalizationGrad",
           .domain = "graft",
           .infer = infer_grad,
           .cpu = {{DTypes::f32, grad_kernel<float>()},
                   {DTypes::f64, grad_kernel<double>()},
                   {DTypes::bf16, grad_kernel<float, BFloat16>()}},
           .mixed_precision = mix_grad}};
}

}  // namespace graft
