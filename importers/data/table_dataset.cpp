// The module graft_tables: this file with table.cpp and table_file.cpp, all that Arrow does, and labels.cpp.
#include <algorithm>

#include "importers/data/array_dataset.h"
#include "importers/data/module.h"
#include "importers/data/table.h"

namespace graft {
namespace {

// Columns that go, side by side, into one input of the model.
struct Feed {
  ModelInput input;
  std::vector<std::string> columns;
};

bool is_whole(DType dtype) { return !is_float(dtype); }

void expect_numbers(const Table& table, const std::string& column) {
  using Kind = Table::Kind;
  Kind kind = table.kind(column);
  if (kind == Kind::text) {
    std::vector<bool> missing;
    auto texts = table.text(column, missing);
    size_t first = static_cast<size_t>(std::find(missing.begin(), missing.end(), false) - missing.begin());
    throw UnsupportedError("\"", table.path(), "\": column \"", column, "\" holds text, such as \"",
                           first < texts.size() ? texts[first].substr(0, 60) : "", "\" in row ", first + 1,
                           ": features are numbers; choose others with `features` in a data card");
  }
  if (kind == Kind::other) {
    throw UnsupportedError("\"", table.path(), "\": column \"", column, "\" is ", table.type_name(column),
                           ": features are numbers or lists of numbers");
  }
}

// The label column, "" where there is none.
std::string find_label(const Table& table, const DatasetOptions& options) {
  if (!options.label.empty()) {
    if (options.labels_wanted || table.has(options.label)) table.expect(options.label);
    return table.has(options.label) ? options.label : "";
  }
  const std::string& last = table.columns().back();
  bool is_input = std::any_of(options.inputs.begin(), options.inputs.end(),
                              [&](const ModelInput& input) { return input.name == last; });
  bool is_feature = std::find(options.features.begin(), options.features.end(), last) != options.features.end();
  if (!options.labels_wanted) {
    // Without a word on it, the last column is a feature where the model has room for all columns.
    const Dims& dims = options.inputs.empty() ? Dims{} : options.inputs[0].dims;
    bool all_fit = dims.size() == 2 && dims[1] == static_cast<int64_t>(table.columns().size());
    if (all_fit || is_input || is_feature) return "";
  }
  if (is_input || is_feature)
    throw UsageError("\"", table.path(), "\": the last column, \"", last,
                     "\", is an input; name the column with the label");
  return last;
}

std::vector<Feed> find_feeds(const Table& table, const DatasetOptions& options, const std::string& label) {
  const auto& inputs = options.inputs;
  ModelInput only = inputs.empty() ? ModelInput{"input", DType::f32, {}} : inputs[0];
  if (!options.features.empty()) {
    if (inputs.size() > 1) throw UsageError("`features` feed one input, the model has ", inputs.size());
    for (const auto& column : options.features) {
      table.expect(column);
      if (column == label) throw UsageError("column \"", column, "\" is the label and among the features");
    }
    return {{only, options.features}};
  }
  bool by_name = !inputs.empty() && std::all_of(inputs.begin(), inputs.end(),
                                                [&](const ModelInput& input) { return table.has(input.name); });
  if (by_name) {
    std::vector<Feed> feeds;
    for (const auto& input : inputs) feeds.push_back({input, {input.name}});
    return feeds;
  }
  if (inputs.size() > 1) {
    for (const auto& input : inputs) table.expect(input.name);
  }
  Feed feed{only, {}};
  for (const auto& column : table.columns()) {
    if (column != label) feed.columns.push_back(column);
  }
  if (feed.columns.empty()) throw DataError("\"", table.path(), "\" has no column but the label \"", label, "\"");
  return {feed};
}

template <class T>
Tensor gather(const Table& table, const Feed& feed, int64_t width, std::vector<std::string>& bad) {
  Tensor data(dtype_of<T>(), {table.rows(), width});
  int64_t at = 0;
  for (const auto& column : feed.columns) {
    table.copy_numbers(column, data.data<T>() + at, width, bad);
    at += table.width(column);
  }
  return data;
}

ArrayInput make_input(const Table& table, const Feed& feed, std::vector<std::string>& bad) {
  int64_t width = 0;
  for (const auto& column : feed.columns) {
    expect_numbers(table, column);
    width += table.width(column);
  }
  Dims dims = fit_sample(feed.input, width, cat("\"", table.path(), "\""));
  Tensor data =
      is_whole(feed.input.dtype) ? gather<int64_t>(table, feed, width, bad) : gather<float>(table, feed, width, bad);
  dims.insert(dims.begin(), table.rows());
  return {feed.input.name, data.reshaped(dims).cast(feed.input.dtype)};
}

Labels make_labels(const Table& table, const std::string& column, const DatasetOptions& options,
                   std::vector<std::string>& bad) {
  using Kind = Table::Kind;
  auto describe = [&](int64_t row) {
    return cat(describe_sample(table.path(), "row", row), ": column \"", column, "\"");
  };
  std::string where = cat("\"", table.path(), "\": label column \"", column, "\"");
  Kind kind = table.kind(column);
  bool regression = options.task == Task::regression ||
                    (options.task == Task::automatic && (kind == Kind::real_numbers || kind == Kind::lists));
  if (kind == Kind::other || (regression && kind == Kind::text)) {
    throw DataError(where, " is ", table.type_name(column), ": ",
                    regression ? "numbers are wanted" : "text or numbers are wanted");
  }
  Labels labels;
  if (regression) {
    int64_t width = table.width(column);
    Tensor targets(DType::f32, {table.rows(), width});
    table.copy_numbers(column, targets.data<float>(), width, bad);
    labels.targets = kind == Kind::lists ? targets : targets.reshaped({table.rows()});
    return labels;
  }
  std::vector<bool> missing;
  if (kind == Kind::text) {
    auto text = table.text(column, missing);
    labels = classes_from_text(text, missing, options, where, describe);
  } else if (kind == Kind::whole_numbers) {
    auto numbers = table.whole_numbers(column, missing);
    labels = classes_from_numbers(numbers, missing, options, where, describe);
  } else {
    throw DataError(where, " is ", table.type_name(column), ": classes are text or integers");
  }
  for (size_t row = 0; row < missing.size(); ++row) {
    if (!missing[row]) continue;
    bad.resize(static_cast<size_t>(table.rows()));
    if (bad[row].empty()) bad[row] = cat("column \"", column, "\" has no label");
  }
  return labels;
}

std::unique_ptr<Dataset> open_table(const std::string& path, const DatasetOptions& options) {
  Table table(path);
  std::string label = find_label(table, options);
  std::vector<std::string> bad;
  std::vector<ArrayInput> inputs;
  for (const auto& feed : find_feeds(table, options, label)) inputs.push_back(make_input(table, feed, bad));
  Labels labels;
  if (!label.empty()) labels = make_labels(table, label, options, bad);
  return std::make_unique<ArrayDataset>(path, "row", std::move(inputs), std::move(labels), std::move(bad));
}

}  // namespace
}  // namespace graft

extern "C" const graft::TableModule* graft_tables() {
  static constexpr graft::TableModule module{graft::open_table};
  return &module;
}
