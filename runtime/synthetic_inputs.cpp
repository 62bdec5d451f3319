#include "runtime/synthetic_inputs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <unordered_set>

#include "graph/philox.h"

namespace graft {
namespace {

constexpr std::array passes_through{std::string_view("Cast"),      std::string_view("CastLike"),
                                    std::string_view("Identity"),  std::string_view("Reshape"),
                                    std::string_view("Flatten"),   std::string_view("Squeeze"),
                                    std::string_view("Unsqueeze"), std::string_view("Transpose"),
                                    std::string_view("Expand"),    std::string_view("Slice")};

// The element `index` of a stream of standard normal numbers (Box and Muller).
float normal(const Philox& random, uint64_t index) {
  auto radius = std::sqrt(-2 * std::log(1 - random.uniform(2 * index)));
  return radius * std::cos(2 * std::numbers::pi_v<float> * random.uniform(2 * index + 1));
}

template <class F>
Tensor filled(DType dtype, const Dims& dims, F&& element) {
  Tensor tensor = Tensor::uninitialized(DType::f32, dims);
  auto* x = tensor.data<float>();
  for (int64_t i = 0; i < tensor.count(); ++i) x[i] = element(static_cast<uint64_t>(i));
  return dtype == DType::f32 ? tensor : tensor.cast(dtype);
}

// The size of the table that `user` picks from by `value`; nothing where it does not, or the table is unknown.
std::optional<int64_t> table_size(const Node& user, const Value* value) {
  bool picks = user.type == "Gather" || user.type == "GatherElements";
  const Value* table = user.input(0);
  if (!picks || user.input(1) != value || !table || !table->ranked || table->dims.empty()) return std::nullopt;
  auto rank = static_cast<int64_t>(table->dims.size());
  int64_t axis = user.integer("axis", 0);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank || table->dims[static_cast<size_t>(axis)] < 0) return std::nullopt;
  return table->dims[static_cast<size_t>(axis)];
}

// The smallest table that is picked from by an input.
std::optional<int64_t> index_limit(const Value& input) {
  std::optional<int64_t> limit;
  std::vector<const Value*> pending{&input};
  std::unordered_set<const Value*> seen;
  while (!pending.empty()) {
    const Value* value = pending.back();
    pending.pop_back();
    if (!seen.insert(value).second) continue;
    for (const Node* user : value->users) {
      if (auto size = table_size(*user, value)) limit = std::min(limit.value_or(*size), *size);
      bool passes = std::find(passes_through.begin(), passes_through.end(), user->type) != passes_through.end();
      if (passes && user->input(0) == value && user->output(0)) pending.push_back(user->output(0));
    }
  }
  return limit;
}

bool is_mask(const Value& input) { return input.name.find("mask") != std::string::npos; }

}  // namespace

bool is_token_mask(const Value& input, const Dims& dims) { return is_mask(input) && dims.size() == 2; }

Tensor padding_mask(DType dtype, const Dims& dims, int64_t shortest) {
  const int64_t samples = dims.at(0), tokens = dims.at(1);
  if (shortest < 1 || shortest > tokens)
    throw UsageError("samples have 1 to ", tokens, " tokens, got ", shortest, " for the shortest");
  return filled(dtype, dims, [&](uint64_t i) {
    const auto sample = static_cast<int64_t>(i) / tokens, token = static_cast<int64_t>(i) % tokens;
    const int64_t more = (tokens - shortest) * sample / std::max<int64_t>(samples - 1, 1);
    return token < shortest + more ? 1.0F : 0.0F;
  });
}

Tensor random_normal(DType dtype, const Dims& dims, const std::string& name, uint64_t seed) {
  Philox random(seed, name);
  return filled(dtype, dims, [&](uint64_t i) { return normal(random, i); });
}

Tensor random_integers(DType dtype, const Dims& dims, int64_t limit, const std::string& name, uint64_t seed) {
  Philox random(seed, name);
  auto range = static_cast<float>(limit);
  auto most = static_cast<float>(std::max<int64_t>(limit - 1, 0));  // float32 may round up to `limit`
  return filled(dtype, dims, [&](uint64_t i) { return std::min(std::floor(range * random.uniform(i)), most); });
}

Tensor synthetic_input(const Value& input, const Dims& dims, uint64_t seed) {
  if (is_float(input.dtype) && !is_mask(input)) return random_normal(input.dtype, dims, input.name, seed);
  if (!is_float(input.dtype)) {
    if (auto limit = index_limit(input)) return random_integers(input.dtype, dims, *limit, input.name, seed);
  }
  return filled(input.dtype, dims, [](uint64_t) { return 1.0F; });
}

Tensor synthetic_labels(const Value& prediction, const LossOptions& loss, uint64_t seed) {
  const std::string name = "graft.labels";
  DType dtype = label_dtype(prediction, loss);
  Dims dims = label_dims(prediction, loss);
  constexpr int64_t two = 2;
  if (loss.type == LossType::bce) return random_integers(dtype, dims, two, name, seed);
  if (is_float(dtype)) return random_normal(dtype, dims, name, seed);
  auto rank = static_cast<int64_t>(prediction.dims.size());
  int64_t classes = prediction.dims.at(static_cast<size_t>(loss.axis < 0 ? loss.axis + rank : loss.axis));
  return random_integers(dtype, dims, classes, name, seed);
}

}  // namespace graft
