#include "cli/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <vector>

#include "graph/error.h"
#include "runtime/clock.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

bool is_terminal(std::FILE* out) {
  int descriptor = ::fileno(out);
  return descriptor >= 0 && ::isatty(descriptor) == 1;
}

// The first of the variables that is set decides, as for setlocale.
bool speaks_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    std::string value = environment(name);
    if (value.empty()) continue;
    for (char& c : value) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return value.find("utf-8") != std::string::npos || value.find("utf8") != std::string::npos;
  }
  return false;
}

double draw_interval(LogStyle style) {
  switch (style) {
    case LogStyle::bar: return 0.1;
    case LogStyle::json: return 1;
    default: return 20;
  }
}

// 0:07, 12:34, 1:02:03
std::string format_duration(double seconds) {
  if (!(seconds < 1e9)) return "?";
  auto whole = static_cast<int64_t>(std::lround(seconds));
  constexpr int64_t minute = 60;
  int64_t minutes = whole / minute;
  if (minutes < minute) return fmt::format("{}:{:02}", minutes, whole % minute);
  return fmt::format("{}:{:02}:{:02}", minutes / minute, minutes % minute, whole % minute);
}

std::string format_speed(double samples) {
  return samples < 10 ? fmt::format("{:.2g}", samples) : fmt::format("{:.0f}", samples);
}

// NaN and infinity become null; text that is not UTF-8 is repaired.
std::string json_text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// Bytes that a terminal would obey become visible.
std::string without_control_characters(std::string_view text) {
  std::string clean;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    constexpr unsigned char rubout = 0x7f;
    if ((byte < ' ' && c != '\n' && c != '\t') || byte == rubout) clean += fmt::format("\\x{:02x}", byte);
    else clean += c;
  }
  return clean;
}

// `cells` columns, filled from the left by `share`.
std::string bar_of(double share, int cells, bool unicode, bool color) {
  constexpr int halves = 2;
  int filled = std::clamp(static_cast<int>(share * cells * halves), 0, cells * halves);
  std::string done, open;
  if (!unicode) {
    for (int i = 0; i < cells; ++i) done += i < filled / halves ? '=' : i == filled / halves ? '>' : '.';
    return "[" + done + "]";
  }
  for (int i = 0; i < filled / halves; ++i) done += "\u2501";
  if (filled % halves) done += "\u2578";
  for (int i = (filled + 1) / halves; i < cells; ++i) open += color ? "\u2501" : " ";
  return color ? "\x1b[32m" + done + "\x1b[90m" + open + "\x1b[0m" : done + open;
}

}  // namespace

LogStyle parse_log_style(const std::string& name) {
  const std::vector<std::string> names{"auto", "bar", "plain", "json"};
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<LogStyle>(i);
  }
  throw UsageError("log style \"", name, "\" is unknown: did you mean \"", nearest_names(name, names, 1)[0],
                   "\"? Allowed are auto, bar, plain, json");
}

Progress::Progress(ProgressOptions options) : options_(std::move(options)), style_(options_.style) {
  bool terminal = is_terminal(options_.out) && environment("TERM") != "dumb";
  if (style_ == LogStyle::automatic) style_ = terminal ? LogStyle::bar : LogStyle::plain;
  color_ = terminal && environment("NO_COLOR").empty();
  unicode_ = speaks_utf8();
}

Progress::~Progress() {
  if (on_screen_) write("\n");
}

double Progress::now() const { return options_.clock ? options_.clock() : seconds_now(); }

void Progress::begin_epoch(int64_t epoch, int64_t epochs, int64_t batches) {
  epoch_ = epoch;
  epochs_ = epochs;
  epoch_title_ = epochs > 0 ? fmt::format("epoch {}/{}", epoch, epochs) : fmt::format("epoch {}", epoch);
  begin(epoch_title_, batches);
}

void Progress::begin_pass(std::string_view name, int64_t batches) {
  std::string clean = without_control_characters(name);
  begin(epoch_title_.empty() ? clean : fmt::format("{} {}", epoch_title_, clean), batches);
}

void Progress::begin(std::string title, int64_t batches) {
  title_ = std::move(title);
  batches_ = batches;
  last_ = {};
  samples_ = first_samples_ = steps_ = 0;
  time_ = now();
  next_draw_ = time_ + (style_ == LogStyle::bar ? 0 : draw_interval(style_));
  if (style_ == LogStyle::bar) draw_bar();
}

void Progress::step(const StepInfo& step) {
  last_ = step;
  samples_ += step.samples;
  time_ = now();
  if (steps_++ == 0) {
    first_done_ = time_;
    first_samples_ = step.samples;
  }
  if (time_ < next_draw_) return;
  next_draw_ = time_ + draw_interval(style_);
  switch (style_) {
    case LogStyle::bar: draw_bar(); break;
    case LogStyle::json: json_step(); break;
    default: line(plain_step());
  }
}

void Progress::end_pass() {
  erase_bar();
  title_ = epoch_title_;
}

void Progress::end_epoch(const EpochInfo& epoch) {
  double seconds = epoch.train_seconds > 0 ? epoch.train_seconds : epoch.seconds;
  double speed = seconds > 0 ? static_cast<double>(epoch.samples) / seconds : 0;
  if (style_ == LogStyle::json) {
    Json metrics = Json::object();
    for (const auto& [name, value] : epoch.metrics) metrics[name] = value;
    Json json{{"event", "epoch"}, {"epoch", epoch_}};
    if (epochs_ > 0) json["epochs"] = epochs_;
    json.update({{"seconds", epoch.seconds},
                 {"samples", epoch.samples},
                 {"samples_per_s", speed},
                 {"metrics", metrics},
                 {"best", epoch.best}});
    line(json_text(json));
  } else {
    std::string text = fmt::format("{}  {:.1f} s", epoch_title_, epoch.seconds);
    for (const auto& [name, value] : epoch.metrics) text += fmt::format("  {} {:.4g}", name, value);
    if (epoch.samples > 0) text += fmt::format("  {} samples/s", format_speed(speed));
    if (epoch.best) text += "  best so far";
    line(text);
  }
  title_.clear();
  epoch_title_.clear();
}

void Progress::hold_up(std::string_view name, int64_t done, int64_t all) {
  if (style_ != LogStyle::bar) return;
  const bool redraw = done >= all && !title_.empty();
  constexpr int cells = 20;
  const double share = all > 0 ? static_cast<double>(done) / static_cast<double>(all) : 1;
  std::string text =
      fmt::format("{} {} {}/{}", without_control_characters(name), bar_of(share, cells, unicode_, color_), done, all);
  write("\r" + text + "\x1b[K");
  on_screen_ = true;
  if (done < all) return;
  erase_bar();
  if (redraw) draw_bar();
}

void Progress::note(std::string_view text) {
  if (style_ == LogStyle::json) {
    Json json{{"event", "note"}, {"text", text}};
    line(json_text(json));
    return;
  }
  bool redraw = on_screen_;
  line(without_control_characters(text));
  if (redraw) draw_bar();
}

int Progress::columns() const {
  if (options_.columns > 0) return options_.columns;
  constexpr int usual = 80;
  winsize size{};
  if (::ioctl(::fileno(options_.out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return usual;
}

std::optional<double> Progress::samples_per_second() const {
  double seconds = time_ - first_done_;
  if (steps_ < 2 || samples_ == 0 || !(seconds > 0)) return {};
  return static_cast<double>(samples_ - first_samples_) / seconds;
}

std::optional<double> Progress::seconds_left() const {
  if (steps_ < 2 || last_.batch > batches_) return {};
  return (time_ - first_done_) / static_cast<double>(steps_ - 1) * static_cast<double>(batches_ - last_.batch);
}

// epoch 3/6 ━━━━━━━━━━╸━━━━━ 27/45  loss 0.2134  lr 1.80e-03  412 samples/s  0:08 left
// On a narrow terminal the less important parts go first.
void Progress::draw_bar() {
  if (title_.empty()) return;
  std::vector<std::string> parts;  // in the order in which they are shown
  parts.push_back(batches_ > 0 ? fmt::format("{}/{}", last_.batch, batches_) : fmt::format("{}", last_.batch));
  parts.push_back(last_.loss ? fmt::format("loss {:#.4g}", *last_.loss) : "");
  parts.push_back(last_.rate ? fmt::format("lr {:.2e}", *last_.rate) : "");
  auto speed = samples_per_second();
  parts.push_back(speed ? format_speed(*speed) + " samples/s" : "");
  auto left = seconds_left();
  parts.push_back(left ? format_duration(*left) + " left" : "");

  constexpr int least_cells = 10, most_cells = 30, brackets = 2;
  int room = columns() - 1 - static_cast<int>(title_.size());
  auto taken = [&] {
    int sum = 0;
    for (const auto& part : parts) sum += part.empty() ? 0 : static_cast<int>(part.size()) + 2;
    return sum;
  };
  for (size_t least_wanted : {2, 3, 1, 4, 0}) {
    if (taken() + least_cells + 1 + brackets > room) parts[least_wanted].clear();
  }
  int cells = std::min(most_cells, room - taken() - 1 - brackets);
  std::string text = title_.substr(0, static_cast<size_t>(std::max(0, columns() - 1)));
  double share = batches_ > 0 ? static_cast<double>(last_.batch) / static_cast<double>(batches_) : 0;
  if (cells >= least_cells) text += " " + bar_of(share, cells, unicode_, color_);
  for (const auto& part : parts) text += part.empty() ? "" : (&part == &parts[0] ? " " : "  ") + part;
  write("\r" + text + "\x1b[K");
  on_screen_ = true;
}

std::string Progress::plain_step() const {
  std::string text = fmt::format("{}: batch {}", title_, last_.batch);
  if (batches_ > 0) text += fmt::format("/{}", batches_);
  if (last_.loss) text += fmt::format(", loss {:.4g}", *last_.loss);
  if (last_.rate) text += fmt::format(", lr {:.3g}", *last_.rate);
  if (auto speed = samples_per_second()) text += fmt::format(", {} samples/s", format_speed(*speed));
  if (auto left = seconds_left()) text += fmt::format(", {} left", format_duration(*left));
  return text;
}

void Progress::json_step() {
  Json json{{"event", "step"}, {"title", title_}, {"batch", last_.batch}};
  if (epoch_ > 0) json["epoch"] = epoch_;
  if (batches_ > 0) json["batches"] = batches_;
  if (last_.loss) json["loss"] = *last_.loss;
  if (last_.rate) json["lr"] = *last_.rate;
  if (auto speed = samples_per_second()) json["samples_per_s"] = *speed;
  line(json_text(json));
}

void Progress::erase_bar() {
  if (on_screen_) write("\r\x1b[K");
  on_screen_ = false;
}

void Progress::line(const std::string& text) {
  erase_bar();
  write(text + "\n");
}

// One write and one flush a line: lines of several processes do not mix.
void Progress::write(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), options_.out);
  std::fflush(options_.out);
}

}  // namespace graft
