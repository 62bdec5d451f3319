// One function a verb: adds the subcommand with its options, its examples and a callback that does the work and throws
// typed errors (graph/error.h).
#pragma once

#include <CLI/CLI.hpp>

namespace graft {

void add_inspect(CLI::App& app);
void add_run(CLI::App& app);
void add_train(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_predict(CLI::App& app);
void add_bench(CLI::App& app);

}  // namespace graft
