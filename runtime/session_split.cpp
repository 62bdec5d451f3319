// A session's model in two parts: what gives a sample the same values in every epoch, and the rest.
#include <algorithm>

#include "runtime/session.h"

namespace graft {
namespace {

int64_t batch_of(const std::map<std::string, Dims>& dims) {
  if (dims.empty() || dims.begin()->second.empty()) throw UsageError("a split wants inputs with a batch");
  int64_t batch = dims.begin()->second[0];
  for (const auto& [name, shape] : dims) {
    if (shape.empty() || shape[0] != batch)
      throw UsageError("input \"", name, "\" of ", shape, " has no batch of ", batch, " samples");
  }
  return batch;
}

std::map<std::string, Dims> without_batch(std::map<std::string, Dims> dims) {
  for (auto& [name, shape] : dims) shape.erase(shape.begin());
  return dims;
}

// Whether `graph` has a value of the same name that only the batch tells apart.
bool is_in(const Graph& graph, const Value& value, int64_t batch) {
  const Value* same = graph.find(value.name);
  if (!same || !same->shaped() || same->dtype != value.dtype || same->dims.empty() || same->dims[0] != batch)
    return false;
  return std::equal(same->dims.begin() + 1, same->dims.end(), value.dims.begin() + 1, value.dims.end());
}

// Whether the samples of a batch lie one behind the other, so that a layout is one for any number of them.
bool lies_by_sample(const Layout& layout, const Dims& dims) {
  bool outermost = std::all_of(layout.strides.begin() + 1, layout.strides.end(),
                               [&](int64_t stride) { return stride <= layout.strides[0]; });
  bool in_blocks = std::any_of(layout.blocks.begin(), layout.blocks.end(), [](const auto& b) { return b.dim == 0; });
  return outermost && !in_blocks && layout.padded[0] == dims[0];
}

std::string nothing_to_split(const Frontier& frontier) {
  if (!frontier.first) return "nothing of the model is computed from a sample and read by what is trained";
  return cat("the model has no frozen part: the first that is trained, random, live or not by sample is ",
             frontier.first->where(), ", and it reads inputs alone");
}

}  // namespace

std::map<std::string, Dims> with_batch(std::map<std::string, Dims> samples, int64_t batch) {
  for (auto& [name, shape] : samples) shape.insert(shape.begin(), batch);
  return samples;
}

int64_t FrozenPart::bytes() const {
  int64_t sum = 0;
  for (const Feature& feature : features) sum = checked_add(sum, feature.bytes());
  return sum;
}

const FrozenPart& Session::split(const std::map<std::string, Dims>& dims, const TrainingOptions& options) {
  split_.reset();
  forget_programs();
  int64_t batch = batch_of(dims);
  SplitModel split{{}, options.output, without_batch(dims)};
  std::set<std::string> trainable(options.trainable.begin(), options.trainable.end());
  std::set<std::string> live = options.batchnorm_live ? trainable : std::set<std::string>{};
  auto graph = specialised(dims, Mode::train, live, {});
  graph->outputs = {prediction_of(*graph, options.output, options.loss.type)};
  graph->prune();
  // Both modes must have the value, and its first axis must be the batch, which another one shows where the file does
  // not fix it.
  auto other_mode = specialised(dims, Mode::infer, {}, {});
  std::unique_ptr<Graph> larger;
  try {
    larger = specialised(with_batch(split.inputs, batch + 1), Mode::train, live, {});
  } catch (const Error&) {
    larger = nullptr;
  }
  Frontier frontier = find_frontier(*graph, trainable, [&](const Value& value) {
    bool plain = value.shaped() && !value.name.empty() && !value.opaque && value.dtype != DType::string;
    return plain && !value.dims.empty() && value.dims[0] == batch && is_in(*other_mode, value, batch) &&
           (!larger || is_in(*larger, value, batch + 1));
  });
  bool computes = false;
  for (const Value* value : frontier.values) {
    split.frozen.features.push_back({value->name, value->dtype, Dims(value->dims.begin() + 1, value->dims.end())});
    computes = computes || value->producer;
  }
  if (!computes) throw UsageError(nothing_to_split(frontier));
  split_ = std::move(split);
  trained_ = trainable;
  auto frozen = frozen_graph(dims);
  finish(*frozen, [](const State&) { return false; }, {}, {});
  for (const Value* output : frozen->outputs) {
    const Node* maker = output->producer;  // outputs are plain
    const Value* laid = maker && maker->domain == "graft" && maker->type == "Reorder" ? maker->inputs[0] : output;
    if (lies_by_sample(laid->layout, laid->dims)) split_->layouts[output->name] = laid->layout;
  }
  return split_->frozen;
}

std::unique_ptr<Graph> Session::frozen_graph(const std::map<std::string, Dims>& dims) {
  auto graph = specialised(dims, Mode::infer, {}, {});
  graph->outputs.clear();
  for (const auto& feature : split_->frozen.features) {
    Value* value = graph->find(feature.name);
    if (value->producer) graph->outputs.push_back(value);
  }
  graph->prune();
  fold(*graph, trained_);
  return graph;
}

std::shared_ptr<Program> Session::frozen(const std::map<std::string, Dims>& dims) {
  if (!split_) throw UsageError("the model was not split");
  std::string key = "frozen";
  for (const auto& [name, shape] : dims) key += cat(' ', name, shape);
  if (auto known = cached(key)) return known;
  return compile(key, frozen_graph(dims), [](const State&) { return false; }, {});
}

bool Session::names_features(const std::map<std::string, Dims>& dims) const {
  return split_ && dims.size() == split_->frozen.features.size() &&
         std::all_of(split_->frozen.features.begin(), split_->frozen.features.end(),
                     [&](const auto& feature) { return dims.contains(feature.name); });
}

std::map<std::string, Dims> Session::input_dims(const std::map<std::string, Dims>& features) const {
  return with_batch(split_->inputs, batch_of(features));
}

void Session::keep_rest(Graph& graph) const {
  Value* output = split_->output.empty() ? graph.outputs.at(0) : graph.find(split_->output);
  if (!output) return;  // said where the prediction is looked for
  graph.outputs = {output};
  std::vector<Value*> features;
  for (const auto& feature : split_->frozen.features) features.push_back(graph.find(feature.name));
  cut_at(graph, features);
}

}  // namespace graft
