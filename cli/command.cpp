#include "cli/command.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>

#include "graph/passes/passes.h"
#include "runtime/device/device.h"

namespace graft {
namespace {

bool is_control(char c) {
  auto code = static_cast<unsigned char>(c);
  return (code < 0x20 && c != '\n' && c != '\t') || code == 0x7f;
}

std::string printable(std::string_view text) {
  std::string out;
  for (char c : text)
    out += is_control(c) ? fmt::format("\\x{:02x}", static_cast<unsigned char>(c)) : std::string(1, c);
  return out;
}

// The severity where it is one to look at, and the message.
class MessageFormatter : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    auto append = [&](std::string_view text) { out.append(text.data(), text.data() + text.size()); };
    if (message.level >= spdlog::level::err) append("error: ");
    else if (message.level == spdlog::level::warn) append("warning: ");
    constexpr size_t longest = 20000;
    std::string_view text(message.payload.data(), message.payload.size());
    append(printable(text.substr(0, longest)));
    if (text.size() > longest) append("...");
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<MessageFormatter>(); }
};

// Exporters write "?" and the like for a dimension without a name.
bool is_name(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return std::isalpha(c) || c >= 0x80; });
}

}  // namespace

void add_model(CLI::App& verb, std::string& path) {
  verb.add_option("MODEL", path, "The .onnx file")->required()->option_text(" ");
}

void add_json(CLI::App& verb, bool& json) { verb.add_flag("--json", json, "Print the result as JSON on stdout"); }

void add_log(CLI::App& verb, std::string& style) {
  verb.add_option("--log", style, "Progress on stderr")->option_text("auto|bar|plain|json");
}

void add_threads(CLI::App& verb) {
  constexpr int most = 4096;
  verb.add_option_function<int>("--threads", set_thread_count, "Threads of a kernel; all cores unless given")
      ->check(CLI::Range(1, most))
      ->option_text("N");
}

CLI::Option* add_list(CLI::App& verb, const std::string& flag, std::vector<std::string>& values,
                      const std::string& description) {
  return verb.add_option(flag, values, description)
      ->type_size(1)
      ->expected(1, CLI::detail::expected_max_vector_size)
      ->allow_extra_args(false);
}

std::vector<std::string> split_commas(const std::vector<std::string>& texts) {
  std::vector<std::string> parts;
  for (const auto& text : texts) {
    size_t begin = 0;
    for (size_t comma; (comma = text.find(',', begin)) != std::string::npos; begin = comma + 1)
      parts.push_back(text.substr(begin, comma - begin));
    parts.push_back(text.substr(begin));
  }
  return parts;
}

void add_dims(CLI::App& verb, std::vector<std::string>& texts) {
  add_list(verb, "--dim", texts, "Size of a free dimension: its name in the model, or INPUT.AXIS where it has none")
      ->option_text("NAME=N ...");
}

std::string disable_help() {
  constexpr size_t longest = 90;
  std::string text = "Fusions to leave alone: all, or of";
  size_t line = 0;
  for (const auto& name : fusion_names()) {
    if (text.size() + name.size() - line > longest) {
      line = text.size();
      text += '\n';
    } else {
      text += ' ';
    }
    text += name;
  }
  return text;
}

void add_disable(CLI::App& verb, std::vector<std::string>& names) {
  add_list(verb, "--disable", names, disable_help())->option_text("NAME ...");
}

std::string nearest_text(const std::string& wanted, const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : nearest_names(wanted, names)) text += (text.empty() ? "\"" : ", \"") + name + '"';
  return text;
}

void require_choice(const std::string& flag, const std::string& value, const std::vector<std::string>& allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  throw UsageError(flag, " cannot be \"", value, "\"; nearest: ", nearest_text(value, allowed));
}

std::map<std::string, int64_t> parse_dims(const std::vector<std::string>& texts) {
  std::map<std::string, int64_t> dims;
  for (const auto& text : texts) {
    size_t equals = text.rfind('=');
    int64_t size = -1;
    if (equals != std::string::npos && equals > 0) {
      const char* end = text.data() + text.size();
      auto [stop, error] = std::from_chars(text.data() + equals + 1, end, size);
      if (error != std::errc() || stop != end) size = -1;
    }
    if (size < 0) throw UsageError("--dim wants NAME=N with N of 0 or more, got \"", text, "\"");
    std::string name = text.substr(0, equals);
    if (!dims.emplace(name, size).second) throw UsageError("--dim gives \"", name, "\" twice");
  }
  return dims;
}

int64_t parse_bytes(const std::string& flag, const std::string& text) {
  constexpr std::string_view units = "KMGT";
  constexpr double most = 1e18;
  double number = 0;
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  std::string unit(error == std::errc() ? stop : end, end);
  size_t power = unit.empty() ? 0 : units.find(unit[0]) + 1;  // 0 for none of them
  bool known = unit.empty() || unit == "B" ||
               (power > 0 && (unit.size() == 1 || unit.substr(1) == "B" || unit.substr(1) == "iB"));
  double bytes = std::ldexp(number, 10 * static_cast<int>(power));
  if (error != std::errc() || !known || !(bytes >= 1 && bytes <= most))
    throw UsageError(flag, " wants a size such as 500M, 1.5G or 2GiB, got \"", text, '"');
  return static_cast<int64_t>(bytes);
}

std::vector<FreeDim> free_dims(const Graph& graph) {
  std::vector<FreeDim> free;
  for (const Value* input : graph.inputs) {
    for (size_t axis = 0; axis < input->dims.size(); ++axis) {
      if (input->dims[axis] >= 0) continue;
      bool named = axis < input->dim_names.size() && is_name(input->dim_names[axis]);
      free.push_back({named ? input->dim_names[axis] : cat(input->name, '.', axis), input, axis});
    }
  }
  return free;
}

std::set<std::string> batch_names(const Graph& graph, const std::map<std::string, int64_t>& sizes) {
  std::set<std::string> names;
  for (const FreeDim& free : free_dims(graph)) {
    if (free.axis == 0 && !sizes.count(free.name)) names.insert(free.name);
  }
  return names;
}

std::map<std::string, Dims> bind_dims(const Graph& graph, const std::map<std::string, int64_t>& sizes,
                                      std::optional<int64_t> otherwise) {
  std::map<std::string, Dims> dims;
  for (const Value* input : graph.inputs) {
    if (input->ranked) dims[input->name] = input->dims;
    else if (otherwise) throw UsageError("input \"", input->name, "\" has no declared shape: give it as an array");
  }
  std::vector<std::string> names;
  for (const auto& free : free_dims(graph)) {
    names.push_back(free.name);
    auto given = sizes.find(free.name);
    if (given != sizes.end()) dims[free.input->name][free.axis] = given->second;
    else if (otherwise) dims[free.input->name][free.axis] = *otherwise;
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  for (const auto& [name, size] : sizes) {
    if (std::binary_search(names.begin(), names.end(), name)) continue;
    if (names.empty()) throw UsageError("--dim ", name, "=", size, ": the model's inputs have no free dimension");
    throw UsageError("--dim ", name, "=", size, " names no free dimension; nearest: ", nearest_text(name, names));
  }
  for (const auto& [name, shape] : dims) {
    auto bytes = static_cast<double>(size_of(graph.find(name)->dtype));
    for (int64_t dim : shape) bytes *= std::max(static_cast<double>(dim), 1.0);
    if (bytes > 0x1p62) throw UsageError("--dim: input \"", name, "\" of ", shape, " is too large");
  }
  return dims;
}

std::string scaled(double value, double step, const std::vector<std::string>& prefixes) {
  size_t i = 0;
  for (; value >= step && i + 1 < prefixes.size(); ++i) value /= step;
  return fmt::format("{:.{}f} {}", value, i ? 2 : 0, prefixes[i]);
}

void print_result(std::string_view result) {
  std::string shown = printable(result);
  std::string_view text = shown;
  while (!text.empty()) {
    ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
    else if (errno == EPIPE) return;
    else if (errno != EINTR) throw DeviceError("stdout cannot be written: ", std::strerror(errno));
  }
}

void print_json(const Json& result) {
  // Names in a model need not be UTF-8.
  print_result(result.dump(2, ' ', false, Json::error_handler_t::replace) + '\n');
}

void start_log() {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<MessageFormatter>('*').set_pattern("graft: %*");
  auto logger = std::make_shared<spdlog::logger>("graft", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_formatter(std::move(formatter));
  spdlog::set_default_logger(std::move(logger));
}

int report(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error)) return report(DeviceError("there is not enough memory"));
  spdlog::error(error.what());
  if (dynamic_cast<const UsageError*>(&error)) return 2;
  if (dynamic_cast<const ModelError*>(&error)) return 3;
  if (dynamic_cast<const DataError*>(&error)) return 4;
  if (dynamic_cast<const UnsupportedError*>(&error)) return 5;
  return 1;
}

}  // namespace graft
