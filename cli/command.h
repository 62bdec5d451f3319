// What the verbs share: switches, results on stdout, log on stderr, exit codes.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace graft {

using Json = nlohmann::ordered_json;

// The model's path, first positional argument.
void add_model(CLI::App& verb, std::string& path);
void add_json(CLI::App& verb, bool& json);
// --log, a text for parse_log_style.
void add_log(CLI::App& verb, std::string& style);
// --threads takes effect while the command line is parsed.
void add_threads(CLI::App& verb);
// A flag that may be repeated, with one value each time, so that it swallows no positional argument.
CLI::Option* add_list(CLI::App& verb, const std::string& flag, std::vector<std::string>& values,
                      const std::string& description);
// The parts between the commas of all texts.
std::vector<std::string> split_commas(const std::vector<std::string>& texts);
// --dim NAME=N, repeatable; the texts go to parse_dims.
void add_dims(CLI::App& verb, std::vector<std::string>& texts);
// --disable NAME, repeatable; the texts go to SessionOptions::disabled.
void add_disable(CLI::App& verb, std::vector<std::string>& names);
// Its lines in the help of a verb.
std::string disable_help();

// "500M", "1.5G", "2GiB": units are powers of 1024, and bytes where there is none. UsageError for all else.
int64_t parse_bytes(const std::string& flag, const std::string& text);

// UsageError with the nearest names unless `value` is one of `allowed`.
void require_choice(const std::string& flag, const std::string& value, const std::vector<std::string>& allowed);
// `"a", "b"`: the names nearest to `wanted`, for messages.
std::string nearest_text(const std::string& wanted, const std::vector<std::string>& names);

// A dimension of the model's inputs that the file leaves open, as --dim names it: the file's own name (shared by all
// dimensions of that name), or INPUT.AXIS where there is none.
struct FreeDim {
  std::string name;
  const Value* input = nullptr;
  size_t axis = 0;
};
std::vector<FreeDim> free_dims(const Graph& graph);
// Names of the free dimensions that are the batch: those of a first axis that `sizes` leaves open.
std::set<std::string> batch_names(const Graph& graph, const std::map<std::string, int64_t>& sizes);

// NAME=N texts. UsageError for what is not of that form, negative sizes and repeated names.
std::map<std::string, int64_t> parse_dims(const std::vector<std::string>& texts);
// Dims for every input of the graph that has a rank; -1 where `sizes` has nothing for a free one and `otherwise` is not
// given. UsageError with the nearest names for a name that no free dimension has, for inputs too large, and, where
// `otherwise` is given, for inputs without a rank.
std::map<std::string, Dims> bind_dims(const Graph& graph, const std::map<std::string, int64_t>& sizes,
                                      std::optional<int64_t> otherwise = {});

// 1536 of step 1024 is "1.50 Ki".
std::string scaled(double value, double step, const std::vector<std::string>& prefixes);

// Results go to stdout at the end, when the verb has succeeded. Control characters, which hostile names may hold, are
// shown as \xNN. A reader that has closed its end is no error; DeviceError when the system refuses.
void print_result(std::string_view result);
void print_json(const Json& result);

// The log (spdlog's default logger) goes to stderr as "graft: ...", "graft: warning: ..." and "graft: error: ...".
// Control characters are shown as in results.
void start_log();
// Logs the error that ended the command and gives its exit code: 1 failed run, 2 usage, 3 model, 4 data, 5 unsupported.
int report(const std::exception& error);

}  // namespace graft
