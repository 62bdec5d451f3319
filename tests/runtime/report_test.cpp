#include "runtime/training/report.h"

#include <gtest/gtest.h>

#include <limits>

#include "graph/error.h"
#include "runtime/training/report_chart.h"
#include "runtime/training/report_html.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

size_t occurrences(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Report small_report() {
  Report report;
  report.title = "model.onnx on digits";
  report.final_metrics = {{"accuracy", 0.98765}};
  report.best_epoch = 2;
  report.series = {{"loss", "training", {{1, 2.0}, {2, 0.5}, {3, 0.25}}},
                   {"loss", "validation", {{1, 1.5}, {2, 0.4}, {3, 0.5}}},
                   {"learning rate", "", {{1, 1e-3}, {2, 1e-3}, {3, 1e-3}}}};
  report.class_names = {"cat", "dog"};
  report.confusion = {8, 2, 0, 10};
  report.samples = {{"training", 1442}, {"validation", 20}};
  report.stages = {{"training steps", 3}, {"validation", 1}};
  report.memory = {{"weights", 3 << 20}, {"activations", 9 << 20}};
  report.configuration = {{"epochs", "3"}};
  return report;
}

TEST(Report, says_what_it_is_given) {
  std::string page = render_report(small_report());
  EXPECT_TRUE(contains(page, "<title>model.onnx on digits</title>"));
  EXPECT_EQ(occurrences(page, "<svg"), 2U) << "a chart a metric";
  EXPECT_EQ(occurrences(page, "class=\"line c"), 3U) << "a line a series";
  EXPECT_EQ(occurrences(page, "class=\"best\""), 2U);
  EXPECT_TRUE(contains(page, "<b>0.9877</b><span>accuracy</span>"));
  EXPECT_TRUE(contains(page, "<td>cat</td><td>dog</td><td class=\"num\">2</td><td class=\"num\">20.0 %</td>"));
  EXPECT_TRUE(contains(page, "1,442"));
  EXPECT_TRUE(contains(page, "75.0 %")) << "of the time, and of the memory";
  EXPECT_TRUE(contains(page, "12.0 MiB"));
  // Precision of dog is 10 of 12, recall of cat 8 of 10.
  EXPECT_TRUE(contains(page, "83.3 %"));
  EXPECT_TRUE(contains(page, "80.0 %"));
}

// Anything that a browser would run or fetch must come from nowhere.
TEST(Report, needs_no_network_and_no_script) {
  std::string page = render_report(small_report());
  for (const char* word : {"<script", "http:", "https:", "src=", "@import", "url(", "href="}) {
    EXPECT_FALSE(contains(page, word)) << word;
  }
  EXPECT_TRUE(contains(page, "Content-Security-Policy"));
}

TEST(Report, escapes_every_text) {
  const std::string evil = "<b onclick=\"x\">&'\x1b";
  Report report;
  report.title = report.subtitle = evil;
  report.warnings = {evil};
  report.final_metrics = {{evil, 1}};
  report.series = {{evil, evil, {{1, 1.0}}}};
  report.class_names = {evil, evil + evil};
  report.confusion = {1, 1, 1, 1};
  report.samples = {{evil, 1}};
  report.skipped = 1;
  report.skip_reasons = {evil};
  report.stages = {{evil, 1}};
  report.memory = {{evil, 1}};
  report.model = report.configuration = report.environment = {{evil, evil}};
  std::string page = render_report(report);
  EXPECT_FALSE(contains(page, "<b onclick"));
  EXPECT_FALSE(contains(page, "\"x\""));
  EXPECT_FALSE(contains(page, "\x1b"));
  EXPECT_FALSE(contains(page, " more</p>"));
  EXPECT_EQ(html::escape(evil), "&lt;b onclick=&quot;x&quot;&gt;&amp;&#39;\uFFFD");
}

TEST(Report, repairs_what_is_no_utf8) {
  EXPECT_EQ(html::escape("Größe 数 \U0001F600\n\t"), "Größe 数 \U0001F600\n\t");
  EXPECT_EQ(html::escape("a\xff"), "a\uFFFD");
  EXPECT_EQ(html::escape("\xc3"), "\uFFFD") << "cut off";
  EXPECT_EQ(html::escape("\xc0\xbc"), "\uFFFD\uFFFD") << "an overlong <";
  EXPECT_EQ(html::escape("\xe0\x80\xbc"), "\uFFFD\uFFFD\uFFFD") << "another";
  EXPECT_EQ(html::escape("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD") << "a surrogate";
  EXPECT_EQ(html::escape("\xf4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD") << "above U+10FFFF";
  EXPECT_EQ(html::escape("\xc2\x9b"), "\uFFFD") << "a control character of two bytes";
  EXPECT_EQ(html::escape(std::string("\0", 1)), "\uFFFD");
}

TEST(Report, draws_values_that_are_not_finite) {
  Report report;
  report.final_metrics = {{"loss", nan}, {"norm", -infinity}};
  report.series = {{"loss", "training", {{1, 1.0}, {2, nan}, {3, infinity}, {4, 2.0}, {5, 1.0}}},
                   {"broken", "", {{1, nan}, {2, nan}}},
                   {"huge", "", {{1, -1.7e308}, {2, 1.7e308}}}};
  report.seconds = nan;
  report.skipped = 5;
  report.skip_reasons = {"one"};
  report.stages = {{"steps", nan}, {"rest", infinity}, {"other", 1}};
  std::string page = render_report(report);
  EXPECT_TRUE(contains(page, "<b>NaN</b>"));
  EXPECT_TRUE(contains(page, "<b>−∞</b>"));
  EXPECT_EQ(occurrences(page, "✕"), 4U);
  EXPECT_EQ(occurrences(page, "class=\"line c0\""), 2U) << "nothing to draw of the broken one";
  for (const char* word : {"nan", "inf"}) EXPECT_FALSE(contains(page, word)) << "as a coordinate or a length";
  // Two strokes: the line is interrupted.
  EXPECT_TRUE(contains(page, "and 4 more"));
  size_t path = page.find(" d=\"");
  EXPECT_EQ(occurrences(page.substr(path, page.find("\"/>", path) - path), "M"), 2U);
}

TEST(Report, empty_and_single) {
  std::string page = render_report({});
  EXPECT_TRUE(contains(page, "No epoch was completed"));
  EXPECT_FALSE(contains(page, "<svg"));
  Report report;
  report.series = {{"loss", "training", {}}, {"loss", "validation", {{1, 0.5}}}};
  page = render_report(report);
  EXPECT_EQ(occurrences(page, "<svg"), 1U);
  EXPECT_EQ(occurrences(page, "<circle"), 1U) << "one epoch is a dot";
}

TEST(Report, many_classes_are_told_by_their_worst) {
  Report report;
  constexpr int64_t classes = 60;
  for (int64_t i = 0; i < classes; ++i) report.class_names.push_back(cat("name", i));
  report.confusion.assign(classes * classes, 0);
  for (int64_t i = 0; i < classes; ++i) report.confusion[i * classes + i] = 10;
  report.confusion[7 * classes + 9] = 5;
  report.confusion[1 * classes + 2] = 1;
  std::string page = render_report(report);
  EXPECT_FALSE(contains(page, "class=\"matrix"));
  EXPECT_TRUE(contains(page, "<td>name7</td><td>name9</td><td class=\"num\">5</td>"));
  EXPECT_LT(page.find("<td>name7</td><td>name9</td>"), page.find("<td>name1</td><td>name2</td>")) << "worst first";
  std::string table = page.substr(page.find("50 classes of 60"));
  EXPECT_LT(table.find("<td>name7</td>"), table.find("<td>name1</td>"));
  EXPECT_LT(table.find("<td>name1</td>"), table.find("<td>name0</td>"));
  EXPECT_FALSE(contains(page, "name59<")) << "among the ten best";
  report.class_names.resize(50);
  report.confusion.assign(50 * 50, 1);
  EXPECT_TRUE(contains(render_report(report), "class=\"matrix"));
}

TEST(Report, confusion_must_fit_its_classes) {
  Report report;
  report.confusion = {1, 2, 3};
  EXPECT_THROW(render_report(report), UsageError);
  report.confusion = {1, 2, 3, 4};
  EXPECT_TRUE(contains(render_report(report), "<th>1</th>")) << "numbers for names";
  report.class_names = {"a", "b", "c"};
  EXPECT_THROW(render_report(report), UsageError);
}

// Strict enough for an XML parser, so a browser has nothing to repair.
TEST(Report, is_well_formed) {
  Report report = small_report();
  report.warnings = {"a < b & c"};
  report.skipped = 5;
  report.skip_reasons = {"]]> -- \xff"};
  TemporaryFolder folder;
  std::string path = folder.write("report.html", render_report(report));
  std::string said = run_python(R"(
import sys, xml.etree.ElementTree as tree
page = tree.parse(sys.argv[1])
print(len(page.findall('.//svg')), len(page.findall('.//section')))
)",
                                {path});
  EXPECT_EQ(said, "2 7\n");
}

TEST(Report, ticks_are_round) {
  EXPECT_EQ(chart_ticks(0, 1, 5, false).size(), 6U);
  EXPECT_DOUBLE_EQ(chart_ticks(0.13, 2.29, 5, false)[1], 0.5);
  EXPECT_EQ(chart_ticks(1, 3, 8, true), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(chart_ticks(1, 100, 8, true), (std::vector<double>{0, 20, 40, 60, 80, 100}));
  EXPECT_EQ(chart_ticks(4, 4, 8, true), (std::vector<double>{4}));
}

TEST(Report, numbers_are_short) {
  EXPECT_EQ(html::count(1234567), "1,234,567");
  EXPECT_EQ(html::count(-123), "-123");
  EXPECT_EQ(html::bytes(1023), "1023 B");
  EXPECT_EQ(html::bytes(3 << 19), "1.5 MiB");
  EXPECT_EQ(html::duration(0.5), "0.50 s");
  EXPECT_EQ(html::duration(200), "3 min 20 s");
  EXPECT_EQ(html::duration(7500), "2 h 05 min");
  EXPECT_EQ(html::number(1e-7), "1e-07");
  EXPECT_EQ(html::percentage(nan), "–");
}

}  // namespace
}  // namespace graft
