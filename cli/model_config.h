// What evaluate and predict know of how a model was trained: config.yaml beside it.
#pragma once

#include "cli/train_config.h"

namespace graft {

void add_config(CLI::App& verb, std::string& path);

// Reads the configuration that `path` names: a file, "none", or for "" the config.yaml beside the model where there is
// one; then the flags. Says on the log which one it took.
void read_model_config(TrainConfig& config, const std::string& model, const std::string& path);

}  // namespace graft
