#include "runtime/training/length_buckets.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "runtime/session.h"
#include "runtime/synthetic_inputs.h"

namespace graft {
namespace {

constexpr int64_t first_length = 16;

// The bucket behind: 16, 24, 32, 48, 64, ...
int64_t next_length(int64_t length) {
  bool power = (length & (length - 1)) == 0;
  return power ? length + length / 2 : length / 3 * 4;
}

// Columns of a mask up to the last that is not 0 in every row; all where a row has no token.
int64_t used_columns(const Tensor& mask) {
  int64_t rows = mask.dims()[0], columns = mask.dims()[1];
  auto size = static_cast<int64_t>(size_of(mask.dtype()));
  const auto* bytes = static_cast<const std::byte*>(mask.raw());
  int64_t used = 0;
  for (int64_t row = 0; row < rows; ++row, bytes += columns * size) {
    int64_t end = columns * size;
    while (end > 0 && bytes[end - 1] == std::byte{0}) --end;
    if (end == 0) return columns;
    used = std::max(used, (end + size - 1) / size);
  }
  return used;
}

// The first `length` entries along an axis.
Tensor head(const Tensor& x, size_t axis, int64_t length) {
  Dims dims = x.dims();
  int64_t all = dims[axis];
  dims[axis] = length;
  Tensor cut = Tensor::uninitialized(x.dtype(), dims);
  auto outer = static_cast<size_t>(element_count(Dims(dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(axis))));
  if (cut.bytes() == 0) return cut;
  size_t kept = static_cast<size_t>(cut.bytes()) / outer;
  size_t stride = kept / static_cast<size_t>(length) * static_cast<size_t>(all);
  const auto* from = static_cast<const std::byte*>(x.raw());
  auto* to = static_cast<std::byte*>(cut.raw());
  for (size_t i = 0; i < outer; ++i) std::memcpy(to + i * kept, from + i * stride, kept);
  return cut;
}

// The inputs of a graph that share the free dimension of its mask.
struct TokenInputs {
  std::string mask;
  std::map<std::string, size_t> axes;
};

std::optional<TokenInputs> find_token_inputs(const Graph& graph) {
  auto is_mask = [](const Value* input) { return input->name.ends_with("attention_mask"); };
  auto mask = std::find_if(graph.inputs.begin(), graph.inputs.end(), is_mask);
  if (mask == graph.inputs.end() || std::count_if(graph.inputs.begin(), graph.inputs.end(), is_mask) > 1) return {};
  auto names = [](const Value* input, size_t axis) {
    bool free = input->dims[axis] < 0 && axis < input->dim_names.size();
    return free ? input->dim_names[axis] : std::string();
  };
  if ((*mask)->dims.size() != 2 || names(*mask, 1).empty()) return {};
  TokenInputs found{(*mask)->name, {}};
  for (const Value* input : graph.inputs) {
    for (size_t axis = 0; axis < input->dims.size(); ++axis) {
      if (names(input, axis) != names(*mask, 1)) continue;
      if (axis == 0 || !found.axes.emplace(input->name, axis).second) return {};  // no batch first, or scores of pairs
    }
  }
  return found;
}

// Dims of a sample's inputs; none where no sample can be read.
std::map<std::string, Dims> sample_dims(const Dataset& dataset, const std::vector<int64_t>& indices) {
  std::map<std::string, Dims> dims;
  for (int64_t index : indices) {
    try {
      Sample sample = dataset.read(index);
      for (size_t i = 0; i < sample.inputs.size(); ++i) dims[dataset.input_names().at(i)] = sample.inputs[i].dims();
      return dims;
    } catch (const DataError&) {
      continue;  // said where its batch is made
    }
  }
  return dims;
}

bool agree(const Tensor& a, const Tensor& b) {
  constexpr double tolerance = 1e-4;  // of the largest: rounding is far below, padding that counts far above
  if (a.dims() != b.dims()) return false;
  Tensor x = a.cast(DType::f64), y = b.cast(DType::f64);
  double largest = 0, difference = 0;
  for (int64_t i = 0; i < x.count(); ++i) {
    double error = std::abs(x.data<double>()[i] - y.data<double>()[i]);
    if (!std::isfinite(error)) return false;
    difference = std::max(difference, error);
    largest = std::max(largest, std::abs(x.data<double>()[i]));
  }
  return difference <= tolerance * largest;
}

// All outputs of the model for these inputs.
std::vector<Tensor> outputs_for(const Compile& compile, const std::map<std::string, Tensor>& inputs) {
  std::map<std::string, Dims> dims;
  for (const auto& [name, tensor] : inputs) dims[name] = tensor.dims();
  std::shared_ptr<Program> program = compile(dims);
  for (const auto& [name, tensor] : inputs) {
    if (program->has_input(name)) program->set_input(name, tensor.cast(program->graph().find(name)->dtype));
  }
  program->run();
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < program->graph().outputs.size(); ++i) outputs.push_back(program->output(i));
  return outputs;
}

// Two rows of 9 and 13 tokens among 24, and the same cut to 16. What stands in the padding is no padding token.
bool ignores_padding(const Graph& graph, const TokenInputs& tokens, const Dims& batch_dims,
                     std::map<std::string, Dims> dims, const Compile& compile) {
  constexpr int64_t length = 24;
  constexpr std::array<int64_t, 2> used{9, 13};
  LengthBuckets buckets(tokens.mask, tokens.axes, length);
  int64_t batch = batch_dims[0] < 0 ? static_cast<int64_t>(used.size()) : batch_dims[0];
  std::map<std::string, Tensor> inputs;
  dims = with_batch(std::move(dims), batch);
  buckets.lengthen(dims);
  for (const Value* input : graph.inputs) {
    auto found = dims.find(input->name);
    if (found == dims.end()) return false;
    inputs[input->name] = synthetic_input(*input, found->second, 1);
  }
  Tensor& mask = inputs.at(tokens.mask);
  Tensor ones(DType::f32, mask.dims());
  for (int64_t row = 0; row < batch; ++row)
    std::fill_n(ones.data<float>() + row * length, used[static_cast<size_t>(row) % used.size()], 1.0F);
  mask = ones.cast(mask.dtype());
  std::vector<Tensor> whole = outputs_for(compile, inputs);
  buckets.cut(inputs);
  return std::ranges::equal(whole, outputs_for(compile, inputs), agree);
}

}  // namespace

LengthBuckets::LengthBuckets(std::string mask, std::map<std::string, size_t> axes, int64_t longest)
    : mask_(std::move(mask)), axes_(std::move(axes)) {
  for (int64_t length = first_length; length < longest; length = next_length(length)) lengths_.push_back(length);
  lengths_.push_back(longest);
}

void LengthBuckets::cut(std::map<std::string, Tensor>& inputs) const {
  auto mask = inputs.find(mask_);
  if (mask == inputs.end() || mask->second.dims().size() != 2) return;
  int64_t padded = mask->second.dims()[1], used = used_columns(mask->second), length = first_length;
  while (length < used) length = next_length(length);
  if (length >= padded) return;
  for (const auto& [name, axis] : axes_) {
    auto found = inputs.find(name);
    if (found == inputs.end() || found->second.dims().size() <= axis || found->second.dims()[axis] != padded) return;
  }
  for (const auto& [name, axis] : axes_) inputs[name] = head(inputs[name], axis, length);
}

void LengthBuckets::lengthen(std::map<std::string, Dims>& dims) const {
  for (const auto& [name, axis] : axes_) {
    auto found = dims.find(name);
    if (found != dims.end() && found->second.size() > axis) found->second[axis] = lengths_.back();
  }
}

std::optional<LengthBuckets> find_length_buckets(Session& session, const Dataset& dataset,
                                                 const std::vector<int64_t>& indices, const Compile& compile) {
  const Graph& graph = session.graph();
  auto tokens = find_token_inputs(graph);
  // Features in place of inputs are as long as they were computed.
  bool of_model = std::ranges::all_of(dataset.input_names(), [&](const std::string& name) {
    const Value* value = graph.find(name);
    return value && value->role == Role::input;
  });
  if (!tokens || !of_model) return {};
  std::map<std::string, Dims> dims = sample_dims(dataset, indices);
  std::optional<int64_t> longest;
  for (const auto& [name, axis] : tokens->axes) {
    auto sample = dims.find(name);
    if (sample == dims.end() || sample->second.size() < axis) return {};
    int64_t length = sample->second[axis - 1];  // a sample has no batch
    if (longest.value_or(length) != length) return {};
    longest = length;
  }
  if (*longest <= first_length) return {};
  bool same = false;
  try {
    same = ignores_padding(graph, *tokens, graph.find(tokens->mask)->dims, std::move(dims), compile);
  } catch (const Error&) {
    same = false;  // what is wrong with the model is said where the run compiles it
  }
  session.forget_programs();
  return same ? std::optional<LengthBuckets>({tokens->mask, tokens->axes, *longest}) : std::nullopt;
}

}  // namespace graft
