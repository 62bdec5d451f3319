#include "importers/data/labels.h"

#include <algorithm>
#include <map>
#include <set>

namespace graft {
namespace {

// `order` holds the distinct keys in the order of their classes.
template <class Key, class Text>
Labels make_classes(const std::vector<Key>& keys, const std::vector<bool>& missing, const DatasetOptions& options,
                    const std::string& where, const std::function<std::string(int64_t)>& describe, const Text& text) {
  Labels labels;
  std::map<Key, int64_t> table;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!missing[i]) table.emplace(keys[i], -1);
  }
  bool fixed = !options.class_names.empty();
  std::map<std::string, int64_t> known;
  for (const auto& name : options.class_names) known.emplace(name, static_cast<int64_t>(known.size()));
  labels.names = options.class_names;
  for (auto& [key, label] : table) {
    std::string name = text(key);
    if (!fixed) {
      label = static_cast<int64_t>(labels.names.size());
      labels.names.push_back(name);
    } else if (auto found = known.find(name); found != known.end()) {
      label = found->second;
    }
  }
  if (!fixed && labels.names.size() < 2 && options.labels_wanted) {
    throw DataError(where, " has ", labels.names.size(), " classes, at least two are wanted");
  }
  labels.classes.reserve(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    labels.classes.push_back(missing[i] ? -1 : table.at(keys[i]));
    if (missing[i] || labels.classes.back() >= 0) continue;
    std::string name = text(keys[i]);
    throw DataError(describe(static_cast<int64_t>(i)), ": there is no class \"", name, "\"; nearest: \"",
                    nearest_names(name, labels.names, 1).front(), "\"");
  }
  return labels;
}

}  // namespace

Labels classes_from_text(const std::vector<std::string>& text, const std::vector<bool>& missing,
                         const DatasetOptions& options, const std::string& where,
                         const std::function<std::string(int64_t)>& describe) {
  return make_classes(text, missing, options, where, describe, [](const std::string& name) { return name; });
}

Labels classes_from_numbers(const std::vector<int64_t>& numbers, const std::vector<bool>& missing,
                            const DatasetOptions& options, const std::string& where,
                            const std::function<std::string(int64_t)>& describe) {
  return make_classes(numbers, missing, options, where, describe,
                      [](int64_t number) { return std::to_string(number); });
}

}  // namespace graft
