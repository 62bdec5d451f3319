#include "runtime/training/loss.h"

#include "ops/build.h"

namespace graft {
namespace {

constexpr const char* loss_names[] = {"cross_entropy", "bce", "mse", "l1", "huber"};
constexpr const char* loss_operators[] = {"SoftmaxCrossEntropy", "SigmoidCrossEntropy", "SquaredError", "AbsoluteError",
                                          "HuberError"};

size_t class_axis(const Value& prediction, const LossOptions& options) {
  auto rank = static_cast<int64_t>(prediction.dims.size());
  int64_t axis = options.axis < 0 ? options.axis + rank : options.axis;
  if (axis < 0 || axis >= rank) {
    throw UsageError("loss: the class axis ", options.axis, " is out of range for a prediction of shape ",
                     prediction.dims);
  }
  return static_cast<size_t>(axis);
}

bool takes_indices(const LossOptions& options) {
  return options.type == LossType::cross_entropy && !options.label_probabilities;
}

Val class_weights(Graph& graph, const Value& prediction, const LossOptions& options) {
  if (options.class_weights.empty()) return {};
  int64_t classes = prediction.dims[class_axis(prediction, options)];
  auto given = static_cast<int64_t>(options.class_weights.size());
  if (given != classes) throw UsageError("loss: ", given, " class weights for ", classes, " classes");
  for (double weight : options.class_weights) {
    if (!(weight >= 0)) throw UsageError("loss: a class weight is ", weight, ", allowed is at least 0");
  }
  return constant(graph, Tensor::of<double>({given}, options.class_weights).cast(prediction.dtype));
}

}  // namespace

LossType loss_type(const std::string& name) {
  const std::vector<std::string> names(std::begin(loss_names), std::end(loss_names));
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<LossType>(i);
  }
  throw UsageError("loss \"", name, "\" is unknown: did you mean \"", nearest_names(name, names, 1)[0],
                   "\"? Allowed are cross_entropy, bce, mse, l1, huber");
}

DType label_dtype(const Value& prediction, const LossOptions& options) {
  return takes_indices(options) ? DType::i64 : prediction.dtype;
}

Dims label_dims(const Value& prediction, const LossOptions& options) {
  Dims dims = prediction.dims;
  if (takes_indices(options)) dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(class_axis(prediction, options)));
  return dims;
}

Loss add_loss(Graph& graph, Value* prediction, const LossOptions& options, const std::string& labels_name) {
  if (!prediction->shaped() || !is_float(prediction->dtype)) {
    throw UsageError("loss: the prediction \"", prediction->name, "\" is ", prediction->dtype, prediction->dims,
                     ", wanted are floating-point values of known shape");
  }
  bool cross_entropy = options.type == LossType::cross_entropy;
  Attributes attributes;
  std::vector<Val> operands{{graph, prediction}};
  if (cross_entropy) {
    if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1)) {
      throw UsageError("loss: label smoothing is ", options.label_smoothing, ", allowed is 0 to 1");
    }
    attributes = {{"axis", static_cast<int64_t>(class_axis(*prediction, options))},
                  {"ignore_index", options.ignore_index},
                  {"label_smoothing", options.label_smoothing}};
  }
  if (options.type == LossType::huber) {
    if (!(options.huber_delta > 0))
      throw UsageError("loss: Huber's delta is ", options.huber_delta, ", allowed is more than 0");
    attributes = {{"delta", options.huber_delta}};
  }
  Loss loss;
  loss.labels = graph.add_input(labels_name, label_dtype(*prediction, options), label_dims(*prediction, options));
  operands.emplace_back(graph, loss.labels);
  if (Val weights = cross_entropy ? class_weights(graph, *prediction, options) : Val{}) operands.push_back(weights);
  auto results = call("graft", loss_operators[static_cast<size_t>(options.type)], operands, 2, attributes);
  loss.sum = results[0].value();
  loss.weight = results[1].value();
  return loss;
}

}  // namespace graft
