#include "cli/settings.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>

#include "cli/command.h"
#include "importers/data/input_file.h"
#include "runtime/training/metrics_csv.h"

namespace graft {
namespace {

constexpr int64_t largest_file = 1 << 20;
constexpr size_t longest_list = 100000;

std::string key_of(std::string flag) {
  std::replace(flag.begin(), flag.end(), '-', '_');
  return flag;
}

template <class T>
T parse_number(const std::string& text, const std::string& where) {
  T value{};
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, value);
  constexpr bool whole = std::is_integral_v<T>;
  if (error != std::errc() || stop != end)
    throw UsageError(where, " wants a ", whole ? "whole number" : "number", ", got \"", text, '"');
  if constexpr (!whole) {
    if (!std::isfinite(value)) throw UsageError(where, " wants a finite number, got \"", text, '"');
  }
  return value;
}

bool parse_switch(const std::string& text, const std::string& where) {
  if (text == "true" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "no" || text == "off") return false;
  throw UsageError(where, " wants true or false, got \"", text, '"');
}

// One value, whatever the target's type, from texts of which there is one for each item.
struct Assign {
  const std::vector<std::string>& texts;
  const std::string& where;

  const std::string& single() const {
    if (texts.size() != 1) throw UsageError(where, " wants one value, got ", texts.size());
    return texts[0];
  }
  void operator()(std::string* to) const { *to = single(); }
  void operator()(int64_t* to) const { *to = parse_number<int64_t>(single(), where); }
  void operator()(double* to) const { *to = parse_number<double>(single(), where); }
  void operator()(bool* to) const { *to = parse_switch(single(), where); }
  void operator()(std::optional<int64_t>* to) const { *to = parse_number<int64_t>(single(), where); }
  void operator()(std::optional<double>* to) const { *to = parse_number<double>(single(), where); }
  void operator()(std::vector<std::string>* to) const { *to = texts; }
  void operator()(std::vector<double>* to) const {
    to->clear();
    for (const auto& text : split_commas(texts)) to->push_back(parse_number<double>(text, where));
  }
};

// The value as texts; nullopt where there is none.
struct Print {
  using Texts = std::optional<std::vector<std::string>>;
  Texts operator()(const std::string* from) const { return from->empty() ? Texts() : Texts({*from}); }
  Texts operator()(const int64_t* from) const { return Texts({std::to_string(*from)}); }
  Texts operator()(const double* from) const { return Texts({format_number(*from)}); }
  Texts operator()(const bool* from) const { return Texts({*from ? "true" : "false"}); }
  Texts operator()(const std::optional<int64_t>* from) const { return *from ? (*this)(&**from) : Texts(); }
  Texts operator()(const std::optional<double>* from) const { return *from ? (*this)(&**from) : Texts(); }
  Texts operator()(const std::vector<std::string>* from) const { return from->empty() ? Texts() : Texts(*from); }
  Texts operator()(const std::vector<double>* from) const {
    std::vector<std::string> texts;
    for (double value : *from) texts.push_back(format_number(value));
    return texts.empty() ? Texts() : Texts(texts);
  }
};

bool is_list(const Settings::Target& target) {
  return std::holds_alternative<std::vector<std::string>*>(target) ||
         std::holds_alternative<std::vector<double>*>(target);
}

std::vector<std::string> texts_of(const YAML::Node& node, const std::string& where) {
  if (node.IsScalar()) return {node.Scalar()};
  if (!node.IsSequence() || node.size() > longest_list) throw UsageError(where, " wants a value or a list of values");
  std::vector<std::string> texts;
  for (const auto& item : node) {
    if (!item.IsScalar()) throw UsageError(where, " wants a value or a list of values");
    texts.push_back(item.Scalar());
  }
  return texts;
}

}  // namespace

void Settings::attach(CLI::App& verb, const std::vector<std::string>& only) {
  for (size_t i = 0; i < settings_.size(); ++i) {
    const Setting& setting = settings_[i];
    if (!only.empty() && std::find(only.begin(), only.end(), setting.flag) == only.end()) continue;
    auto flag = std::make_shared<Flag>();
    std::string name = "--" + setting.flag;
    if (std::holds_alternative<bool*>(setting.target)) {
      flag->option = verb.add_flag_callback(
          name, [flag] { flag->texts = {"true"}; }, setting.help);
    } else if (is_list(setting.target)) {
      flag->option = add_list(verb, name, flag->texts, setting.help)->option_text(setting.value);
    } else {
      flag->option = verb.add_option(name, flag->texts, setting.help)->expected(1)->option_text(setting.value);
    }
    flags_.emplace_back(i, std::move(flag));
  }
}

void Settings::set(const Setting& setting, const std::vector<std::string>& texts, const std::string& where) {
  std::visit(Assign{texts, where}, setting.target);
  if (!setting.choices.empty()) require_choice(where, *std::get<std::string*>(setting.target), setting.choices);
}

void Settings::read_file(const std::string& path) {
  auto bytes = InputFile(path).read_all(largest_file);
  read_text(std::string(bytes.begin(), bytes.end()), path);
}

void Settings::read_text(const std::string& text, const std::string& where) {
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw UsageError("\"", where, "\" line ", error.mark.line + 1, ": ", error.msg);
  }
  if (root.IsNull()) return;
  if (!root.IsMap()) throw UsageError("\"", where, "\": keys with values are wanted");
  for (const auto& entry : root) {
    if (!entry.first.IsScalar()) throw UsageError("\"", where, "\": a key is no text");
    std::string key = key_of(entry.first.Scalar());
    auto found = std::find_if(settings_.begin(), settings_.end(),
                              [&](const Setting& setting) { return setting.in_config && key_of(setting.flag) == key; });
    if (found == settings_.end()) {
      std::vector<std::string> keys;
      for (const auto& setting : settings_) {
        if (setting.in_config) keys.push_back(key_of(setting.flag));
      }
      throw UsageError("\"", where, "\": unknown key \"", key, "\"; nearest: ", nearest_text(key, keys));
    }
    std::string place = cat('"', where, "\": ", key);
    set(*found, texts_of(entry.second, place), place);
  }
}

void Settings::apply_flags() {
  for (const auto& [index, flag] : flags_) {
    if (flag->option->count() > 0) set(settings_[index], flag->texts, "--" + settings_[index].flag);
  }
}

std::string Settings::to_yaml() const {
  YAML::Emitter out;
  out << YAML::BeginMap;
  for (const auto& setting : settings_) {
    auto texts = setting.in_config ? std::visit(Print(), setting.target) : std::nullopt;
    if (!texts) continue;
    out << YAML::Key << key_of(setting.flag) << YAML::Value;
    if (!is_list(setting.target)) {
      out << texts->at(0);
      continue;
    }
    out << YAML::Flow << YAML::BeginSeq;
    for (const auto& text : *texts) out << text;
    out << YAML::EndSeq;
  }
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

std::vector<std::pair<std::string, std::string>> Settings::values() const {
  std::vector<std::pair<std::string, std::string>> values;
  for (const auto& setting : settings_) {
    auto texts = setting.in_config ? std::visit(Print(), setting.target) : std::nullopt;
    if (texts) values.emplace_back(key_of(setting.flag), CLI::detail::join(*texts, ", "));
  }
  return values;
}

}  // namespace graft
