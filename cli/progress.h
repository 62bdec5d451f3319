// What a long run says of itself while it goes on: a bar on a terminal, plain lines elsewhere, or JSON lines.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/training/metrics.h"

namespace graft {

// automatic: bar where `out` is a terminal, else plain.
enum class LogStyle : uint8_t { automatic, bar, plain, json };

// "auto", "bar", "plain", "json"; UsageError with the nearest name for another.
LogStyle parse_log_style(const std::string& name);

// Behind one batch. What is not known is left out.
struct StepInfo {
  int64_t batch = 0;           // of the epoch or pass, counted from 1
  int64_t samples = 0;         // in this batch
  std::optional<double> loss;  // shown as given
  std::optional<double> rate;  // learning rate
};

struct EpochInfo {
  double seconds = 0;        // with validation
  int64_t samples = 0;       // trained on
  MetricValues metrics;      // in the order in which they are shown
  bool best = false;         // the best by validation so far
  double train_seconds = 0;  // without validation, for samples a second; 0: not told apart
};

struct ProgressOptions {
  LogStyle style = LogStyle::automatic;
  std::FILE* out = stderr;
  int columns = 0;                // of the terminal; 0: ask it
  std::function<double()> clock;  // seconds; empty: the steady clock
};

// Used by one thread. A step costs a look at the clock: the bar is drawn at most ten times a second, a plain line in
// an epoch comes every 20 s, a JSON line every second. Text is cleaned of control characters, as it may come from
// files.
class Progress {
 public:
  explicit Progress(ProgressOptions options = {});
  // Leaves a bar that stands in the middle of an epoch on a line of its own, so that an error message begins a new one.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Epochs count from 1; `epochs` and `batches` are unknown where they are not above 0.
  void begin_epoch(int64_t epoch, int64_t epochs, int64_t batches);
  // Anything that goes through batches besides training, within an epoch or alone: "validation", "evaluate".
  void begin_pass(std::string_view name, int64_t batches);
  void step(const StepInfo& step);
  void end_pass();
  void end_epoch(const EpochInfo& epoch);
  // What holds up the epoch or pass that runs, where there is a bar: `done` of `all`, the last of which takes it away.
  void hold_up(std::string_view name, int64_t done, int64_t all);
  // A line of its own between others.
  void note(std::string_view text);

 private:
  double now() const;
  void begin(std::string title, int64_t batches);
  void draw_bar();
  std::string plain_step() const;
  void json_step();
  void write(const std::string& text);
  void line(const std::string& text);
  void erase_bar();
  int columns() const;
  // From the second batch on: the first compiles and waits for the first data.
  std::optional<double> samples_per_second() const;
  std::optional<double> seconds_left() const;

  ProgressOptions options_;
  LogStyle style_;
  bool color_ = false;
  bool unicode_ = false;

  std::string title_;  // of the epoch or pass that runs; empty between them
  std::string epoch_title_;
  int64_t epoch_ = 0, epochs_ = 0, batches_ = 0;
  StepInfo last_;
  double first_done_ = 0, time_ = 0, next_draw_ = 0;
  int64_t samples_ = 0, first_samples_ = 0, steps_ = 0;
  bool on_screen_ = false;
};

}  // namespace graft
