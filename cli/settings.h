// Named settings of a verb: each is a flag, a key of the YAML configuration, and a line of the resolved configuration.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace graft {

class Settings {
 public:
  // Where a value goes. Lists are given comma-separated or by repeating the flag; an optional stays out of the resolved
  // configuration until it is set.
  using Target = std::variant<std::string*, int64_t*, double*, bool*, std::optional<int64_t>*, std::optional<double>*,
                              std::vector<std::string>*, std::vector<double>*>;

  struct Setting {
    std::string flag;  // "batch-size": --batch-size, and batch_size in YAML
    Target target;
    std::string help;
    std::string value = "";                 // what the help calls the value
    std::vector<std::string> choices = {};  // of a string: all that is allowed
    bool in_config = true;                  // false: a flag only
  };

  void add(Setting setting) { settings_.push_back(std::move(setting)); }
  // Makes the flags; `only` names those that this verb has, all where it is empty.
  void attach(CLI::App& verb, const std::vector<std::string>& only = {});

  // Keys of a file or of a text that was one (`where` names it). UsageError for unknown keys, with the nearest, and for
  // values of the wrong type.
  void read_file(const std::string& path);
  void read_text(const std::string& text, const std::string& where);
  // Flags win over what was read: call it last. UsageError for values of the wrong type.
  void apply_flags();

  // All settings of the configuration with their values now, as YAML.
  std::string to_yaml() const;
  // The same as pairs of name and value, for reports.
  std::vector<std::pair<std::string, std::string>> values() const;

 private:
  struct Flag {
    CLI::Option* option = nullptr;
    std::vector<std::string> texts;
  };
  static void set(const Setting& setting, const std::vector<std::string>& texts, const std::string& where);

  std::vector<Setting> settings_;
  std::vector<std::pair<size_t, std::shared_ptr<Flag>>> flags_;  // by index of their setting
};

}  // namespace graft
