#include "cli/progress.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "graph/error.h"

namespace graft {
namespace {

// What a Progress writes, at times that the test sets.
class Recording {
 public:
  Recording() : file_(::open_memstream(&text_, &size_)) {}
  ~Recording() {
    std::fclose(file_);
    std::free(text_);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  ProgressOptions options(LogStyle style, int columns = 100) {
    return {.style = style, .out = file_, .columns = columns, .clock = [this] { return seconds; }};
  }
  std::string text() const { return {text_, size_}; }
  std::vector<std::string> lines() const {
    std::istringstream in(text());
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  // The redraws of the bar since the last end of line, without what erases the rest of the line.
  std::vector<std::string> drawn() const {
    std::vector<std::string> redraws;
    std::string all = text();
    std::istringstream in(all.substr(all.rfind('\n') + 1));
    for (std::string redraw; std::getline(in, redraw, '\r');) {
      if (!redraw.empty()) redraws.push_back(redraw.substr(0, redraw.find("\x1b[K")));
    }
    return redraws;
  }

  double seconds = 0;

 private:
  char* text_ = nullptr;
  size_t size_ = 0;
  std::FILE* file_;
};

// The bar's characters depend on the locale.
class ProgressTest : public testing::Test {
 protected:
  void SetUp() override { ::setenv("LC_ALL", "C", 1); }
};

TEST_F(ProgressTest, names_of_styles) {
  EXPECT_EQ(parse_log_style("auto"), LogStyle::automatic);
  EXPECT_EQ(parse_log_style("json"), LogStyle::json);
  try {
    parse_log_style("bra");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("\"bar\""), std::string::npos) << error.what();
  }
}

TEST_F(ProgressTest, bar_shows_rates_without_the_first_batch) {
  Recording out;
  Progress progress(out.options(LogStyle::bar));
  progress.begin_epoch(3, 6, 10);
  out.seconds = 5;  // compiling
  progress.step({.batch = 1, .samples = 32, .loss = 2.5, .rate = 1e-3});
  for (int batch = 2; batch <= 5; ++batch) {
    out.seconds += 1;
    progress.step({.batch = batch, .samples = 32, .loss = 0.5, .rate = 2e-3});
  }
  EXPECT_EQ(out.drawn().back(),
            "epoch 3/6 [===============>..............] 5/10  loss 0.5000  lr 2.00e-03  "
            "32 samples/s  0:05 left");
}

TEST_F(ProgressTest, bar_is_drawn_ten_times_a_second_at_most) {
  Recording out;
  Progress progress(out.options(LogStyle::bar));
  progress.begin_epoch(1, 1, 10000);
  for (int batch = 1; batch <= 10000; ++batch) {
    out.seconds += 0.001;
    progress.step({.batch = batch, .samples = 1});
  }
  EXPECT_GE(out.drawn().size(), 90U);
  EXPECT_LE(out.drawn().size(), 101U);
}

TEST_F(ProgressTest, bar_fits_every_terminal) {
  for (int columns = 1; columns < 140; ++columns) {
    Recording out;
    Progress progress(out.options(LogStyle::bar, columns));
    progress.begin_epoch(12, 300, 123456);
    out.seconds = 1;
    progress.step({.batch = 1, .samples = 128, .loss = 1.25e-7, .rate = 1e-5});
    for (const auto& line : out.drawn()) EXPECT_LT(line.size(), columns) << line;
  }
}

TEST_F(ProgressTest, notes_and_errors_stand_on_lines_of_their_own) {
  Recording out;
  {
    Progress progress(out.options(LogStyle::bar));
    progress.begin_epoch(1, 2, 4);
    progress.note("sample \"a\x1b[31m\" left out");
    EXPECT_EQ(out.drawn(), std::vector<std::string>{"epoch 1/2 [>.............................] 0/4"});
  }
  EXPECT_EQ(out.text().back(), '\n') << "an error message follows";
  EXPECT_NE(out.text().find("\r\x1b[Ksample \"a\\x1b[31m\" left out\n\r"), std::string::npos) << out.text();
}

TEST_F(ProgressTest, end_of_an_epoch_replaces_the_bar) {
  Recording out;
  std::string before;
  {
    Progress progress(out.options(LogStyle::bar));
    progress.begin_epoch(2, 6, 45);
    progress.begin_pass("validation", 12);
    EXPECT_EQ(out.drawn().back().substr(0, 22), "epoch 2/6 validation [");
    progress.end_pass();
    progress.end_epoch({.seconds = 4,
                        .samples = 1440,
                        .metrics = {{"loss", 0.25}, {"val_loss", 1e-5}},
                        .best = true,
                        .train_seconds = 3.2});
    before = out.text();
  }
  EXPECT_EQ(out.text(), before) << "nothing to tidy up";
  EXPECT_EQ(before.substr(before.rfind('\r')),
            "\r\x1b[Kepoch 2/6  4.0 s  loss 0.25  val_loss 1e-05  450 samples/s  best so far\n");
}

TEST_F(ProgressTest, plain_lines_come_every_twenty_seconds) {
  Recording out;
  Progress progress(out.options(LogStyle::plain));
  progress.begin_epoch(1, 1, 50);
  for (int batch = 1; batch <= 50; ++batch) {
    out.seconds += 1;
    progress.step({.batch = batch, .samples = 8, .loss = std::numeric_limits<double>::quiet_NaN()});
  }
  progress.end_epoch({.seconds = 50, .samples = 400});
  EXPECT_EQ(out.lines(), (std::vector<std::string>{"epoch 1/1: batch 20/50, loss nan, 8 samples/s, 0:30 left",
                                                   "epoch 1/1: batch 40/50, loss nan, 8 samples/s, 0:10 left",
                                                   "epoch 1/1  50.0 s  8 samples/s"}));
}

TEST_F(ProgressTest, automatic_is_plain_where_there_is_no_terminal) {
  Recording out;
  Progress progress(out.options(LogStyle::automatic));
  progress.begin_epoch(1, 1, 2);
  progress.step({.batch = 1});
  progress.note("text");
  EXPECT_EQ(out.text(), "text\n");
}

TEST_F(ProgressTest, json_lines_are_json) {
  Recording out;
  Progress progress(out.options(LogStyle::json));
  progress.note("not UTF-8: \xff, \x1b");
  progress.begin_epoch(1, 3, 4);
  out.seconds = 2;
  progress.step({.batch = 1, .samples = 6, .loss = std::numeric_limits<double>::infinity()});
  out.seconds = 4;
  progress.step({.batch = 2, .samples = 6, .loss = 0.5, .rate = 0.125});
  progress.end_epoch({.seconds = 3, .samples = 6, .metrics = {{"loss", 0.5}, {"a \"name\"", NAN}}});
  std::vector<nlohmann::json> lines;
  for (const auto& line : out.lines()) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_EQ(lines[0]["event"], "note");
  EXPECT_EQ(lines[1]["event"], "step");
  EXPECT_FALSE(lines[1].contains("samples_per_s"));
  EXPECT_TRUE(lines[1]["loss"].is_null());
  EXPECT_EQ(lines[2]["samples_per_s"], 3);
  EXPECT_EQ(lines[2]["lr"], 0.125);
  EXPECT_EQ(lines[3]["epochs"], 3);
  EXPECT_EQ(lines[3]["metrics"]["loss"], 0.5);
  EXPECT_TRUE(lines[3]["metrics"]["a \"name\""].is_null());
}

TEST_F(ProgressTest, what_holds_up_an_epoch_leaves_its_bar) {
  Recording out;
  Progress progress(out.options(LogStyle::bar));
  progress.begin_epoch(1, 1, 4);
  out.seconds = 1;
  progress.step({.batch = 2});
  const std::string bar = out.drawn().back();
  progress.hold_up("autotune", 1, 2);
  EXPECT_EQ(out.drawn().back(), "autotune [==========>.........] 1/2");
  progress.hold_up("autotune", 2, 2);
  EXPECT_EQ(out.drawn().back(), bar);
  Recording plain;
  Progress lines(plain.options(LogStyle::plain));
  lines.hold_up("autotune", 1, 2);
  EXPECT_EQ(plain.text(), "");
}

TEST_F(ProgressTest, unknown_numbers_of_epochs_and_batches) {
  Recording out;
  Progress progress(out.options(LogStyle::bar));
  progress.begin_epoch(2, -1, 0);
  out.seconds = 1;
  progress.step({.batch = 7});
  EXPECT_EQ(out.drawn().back(), "epoch 2 [>.............................] 7");
}

}  // namespace
}  // namespace graft
