#include "cli/model_config.h"

#include <spdlog/spdlog.h>

#include <filesystem>

namespace graft {

void add_config(CLI::App& verb, std::string& path) {
  verb.add_option("--config", path, "Settings of the training run; config.yaml beside the model unless given")
      ->option_text("FILE|none");
}

void read_model_config(TrainConfig& config, const std::string& model, const std::string& path) {
  std::string chosen = path;
  if (path.empty()) {
    auto beside = std::filesystem::path(model).parent_path() / "config.yaml";
    if (std::filesystem::is_regular_file(beside)) chosen = beside.string();
  }
  if (!chosen.empty() && chosen != "none") {
    config.settings.read_file(chosen);
    if (path.empty()) spdlog::info("settings of the data from \"{}\"", chosen);
  }
  config.settings.apply_flags();
}

}  // namespace graft
