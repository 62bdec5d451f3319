#include "importers/data/npz_dataset.h"

#include <algorithm>
#include <array>

#include "importers/data/array_dataset.h"
#include "importers/data/npz.h"

namespace graft {
namespace {

using Arrays = std::map<std::string, Tensor>;
constexpr int64_t largest_class = 1'000'000;

std::string names_of(const Arrays& arrays) {
  std::string names;
  for (const auto& [name, array] : arrays) names += cat(names.empty() ? "\"" : ", \"", name, "\"");
  return names.empty() ? "none" : names;
}

std::string find_label(const std::string& path, const Arrays& arrays, const DatasetOptions& options) {
  auto is_input = [&](const std::string& name) {
    return std::any_of(options.inputs.begin(), options.inputs.end(),
                       [&](const ModelInput& input) { return input.name == name; });
  };
  if (!options.label.empty()) {
    if (arrays.contains(options.label)) return options.label;
    if (options.labels_wanted)
      throw UsageError("\"", path, "\" has no array \"", options.label, "\", it has ", names_of(arrays));
    return "";
  }
  for (const char* name : {"labels", "label", "y"}) {
    if (arrays.contains(name) && !is_input(name)) return name;
  }
  if (options.labels_wanted)
    throw DataError("\"", path, "\" has no labels: an array \"labels\", \"label\" or \"y\" is wanted, it has ",
                    names_of(arrays));
  return "";
}

// Fixed dims of the model must be those of the array; then the elements are brought to the model's type.
Tensor fit_array(const std::string& path, const std::string& name, const Tensor& array, const ModelInput& input) {
  const Dims& wanted = input.dims;
  bool fits = wanted.empty() || wanted.size() == array.dims().size();
  for (size_t d = 1; fits && d < wanted.size(); ++d) fits = wanted[d] < 0 || wanted[d] == array.dims()[d];
  if (!fits)
    throw DataError("\"", path, "\": array \"", name, "\" is ", array.dims(), ", input \"", input.name, "\" takes ",
                    wanted, " (-1: free)");
  if (is_float(array.dtype()) && !is_float(input.dtype)) {
    throw DataError("\"", path, "\": array \"", name, "\" is ", array.dtype(), ", input \"", input.name, "\" takes ",
                    input.dtype);
  }
  return array.cast(input.dtype);
}

std::vector<ArrayInput> find_inputs(const std::string& path, const Arrays& arrays, const DatasetOptions& options,
                                    const std::string& label) {
  std::vector<ArrayInput> inputs;
  std::vector<std::string> others;
  for (const auto& [name, array] : arrays) {
    if (name != label) others.push_back(name);
  }
  if (options.inputs.empty()) {
    for (const auto& name : others) inputs.push_back({name, arrays.at(name)});
  }
  for (const auto& input : options.inputs) {
    std::string name = input.name;
    if (!arrays.contains(name)) {
      bool obvious = options.inputs.size() == 1 && others.size() == 1;
      if (!obvious)
        throw DataError("\"", path, "\" has no array for input \"", input.name, "\", it has ", names_of(arrays));
      name = others[0];
    }
    inputs.push_back({input.name, fit_array(path, name, arrays.at(name), input)});
  }
  if (inputs.empty()) throw DataError("\"", path, "\" has no arrays but the label");
  return inputs;
}

void check_samples(const std::string& path, const Arrays& arrays, const std::vector<ArrayInput>& inputs,
                   const std::string& label) {
  auto samples = [&](const std::string& name, const Tensor& array) {
    if (array.dims().empty())
      throw DataError("\"", path, "\": array \"", name, "\" is a scalar, its first dim should count samples");
    return array.dims()[0];
  };
  int64_t count = samples(inputs[0].name, inputs[0].data);
  auto check = [&](const std::string& name, const Tensor& array) {
    int64_t got = samples(name, array);
    if (got != count)
      throw DataError("\"", path, "\": array \"", name, "\" has ", got, " samples, \"", inputs[0].name, "\" has ",
                      count);
  };
  for (const auto& input : inputs) check(input.name, input.data);
  if (!label.empty()) check(label, arrays.at(label));
}

Labels class_labels(const std::string& path, const Tensor& array, const DatasetOptions& options) {
  Labels labels;
  labels.classes = array.to_int64();
  bool fixed = !options.class_names.empty();
  int64_t most = fixed ? static_cast<int64_t>(options.class_names.size()) - 1 : largest_class - 1;
  int64_t least = most;
  int64_t greatest = 0;
  for (size_t i = 0; i < labels.classes.size(); ++i) {
    int64_t label = labels.classes[i];
    if (label < 0 || label > most) {
      throw DataError(describe_sample(path, "sample", static_cast<int64_t>(i)), ": label ", label,
                      " out of range, allowed are 0 to ", most);
    }
    least = std::min(least, label);
    greatest = std::max(greatest, label);
  }
  labels.names = options.class_names;
  if (!fixed) {
    if (options.labels_wanted && !labels.classes.empty() && least == greatest) {
      throw DataError("\"", path, "\" has one class, ", least, ": at least two are wanted");
    }
    for (int64_t c = 0; c <= greatest; ++c) labels.names.push_back(std::to_string(c));
  }
  return labels;
}

Labels make_labels(const std::string& path, Tensor array, const DatasetOptions& options) {
  if (array.dims().size() == 2 && array.dims()[1] == 1 && !is_float(array.dtype()))
    array = array.reshaped({array.dims()[0]});
  bool regression = options.task == Task::regression || (options.task == Task::automatic && is_float(array.dtype()));
  if (options.task == Task::classification && is_float(array.dtype())) {
    throw DataError("\"", path, "\": labels are ", array.dtype(), ", classes are integers");
  }
  if (!regression && array.dims().size() == 1) return class_labels(path, array, options);
  Labels labels;
  labels.names = options.class_names;
  labels.targets = array.cast(regression ? DType::f32 : DType::i64);
  return labels;
}

}  // namespace

std::unique_ptr<Dataset> open_npz(const std::string& path, const DatasetOptions& options) {
  Arrays arrays = read_npz(path);
  std::string label = find_label(path, arrays, options);
  auto inputs = find_inputs(path, arrays, options, label);
  check_samples(path, arrays, inputs, label);
  Labels labels;
  if (!label.empty()) labels = make_labels(path, arrays.at(label), options);
  return std::make_unique<ArrayDataset>(path, "sample", std::move(inputs), std::move(labels),
                                        std::vector<std::string>{});
}

}  // namespace graft
