#include "runtime/training/report_classes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>

#include "graph/error.h"
#include "runtime/training/report_html.h"

namespace graft {
namespace {

constexpr size_t most_drawn = 50;
constexpr size_t most_pairs = 15;

class Classes {
 public:
  explicit Classes(const Report& report) : counts_(report.confusion), names_(report.class_names) {
    size_t wanted = names_.size();
    if (names_.empty()) wanted = static_cast<size_t>(std::llround(std::sqrt(static_cast<double>(counts_.size()))));
    if (wanted * wanted != counts_.size()) {
      throw UsageError("a confusion matrix of ", counts_.size(), " counts, allowed are ", wanted * wanted, " for ",
                       wanted, " classes");
    }
    for (size_t i = names_.size(); i < wanted; ++i) names_.push_back(std::to_string(i));
    labelled_.resize(wanted);
    predicted_.resize(wanted);
    for (size_t label = 0; label < wanted; ++label) {
      for (size_t guess = 0; guess < wanted; ++guess) {
        labelled_[label] += at(label, guess);
        predicted_[guess] += at(label, guess);
      }
    }
  }

  size_t size() const { return names_.size(); }
  int64_t at(size_t label, size_t guess) const { return counts_[label * names_.size() + guess]; }
  const std::string& name(size_t label) const { return names_[label]; }
  int64_t labelled(size_t label) const { return labelled_[label]; }
  double precision(size_t label) const { return share(at(label, label), predicted_[label]); }
  double recall(size_t label) const { return share(at(label, label), labelled_[label]); }
  double f1(size_t label) const { return share(2 * at(label, label), labelled_[label] + predicted_[label]); }
  static double share(int64_t part, int64_t whole) {
    if (whole == 0) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(part) / static_cast<double>(whole);
  }

 private:
  const std::vector<int64_t>& counts_;
  std::vector<std::string> names_;
  std::vector<int64_t> labelled_, predicted_;
};

// A cell's shade is its share of the label's samples; mistakes are shaded more strongly, so that rare ones are seen.
std::string matrix(const Classes& classes) {
  constexpr size_t roomy = 20;
  constexpr size_t short_name = 3;  // fits above its column without being turned
  constexpr double strong = 0.55;   // from here on the text is light
  std::ostringstream out;
  out << "<div class=\"scroll\"><table class=\"matrix" << (classes.size() > roomy ? " small" : "")
      << "\">\n<tr><td class=\"corner\">label ↓ &#160; prediction →</td>";
  for (size_t i = 0; i < classes.size(); ++i) {
    out << (classes.name(i).size() > short_name ? "<th><span class=\"long\">" : "<th><span>")
        << html::escape(classes.name(i)) << "</span></th>";
  }
  out << "</tr>\n";
  for (size_t label = 0; label < classes.size(); ++label) {
    out << "<tr><th>" << html::escape(classes.name(label)) << "</th>";
    for (size_t guess = 0; guess < classes.size(); ++guess) {
      int64_t count = classes.at(label, guess);
      if (count == 0) {
        out << "<td></td>";
        continue;
      }
      double share = Classes::share(count, classes.labelled(label));
      double shade = label == guess ? share : std::min(1.0, 0.15 + 0.85 * std::sqrt(share));
      out << "<td class=\"" << (label == guess ? "hit" : "miss") << (shade > strong ? " strong" : "")
          << "\" style=\"--shade:" << html::fixed(shade, 3) << "\" title=\"" << html::escape(classes.name(label))
          << " taken for " << html::escape(classes.name(guess)) << ": " << html::percentage(share) << "\">" << count
          << "</td>";
    }
    out << "</tr>\n";
  }
  out << "</table></div>\n";
  return out.str();
}

struct Pair {
  size_t label, guess;
  int64_t count;
};

std::vector<Pair> most_confused(const Classes& classes) {
  std::vector<Pair> pairs;
  for (size_t label = 0; label < classes.size(); ++label) {
    for (size_t guess = 0; guess < classes.size(); ++guess) {
      int64_t count = classes.at(label, guess);
      if (label != guess && count > 0) pairs.push_back({label, guess, count});
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return a.count > b.count; });
  return pairs;
}

std::string pair_table(const Classes& classes) {
  auto pairs = most_confused(classes);
  if (pairs.empty()) return "<p>No sample was taken for another class.</p>\n";
  size_t shown = std::min(pairs.size(), most_pairs);
  std::ostringstream out;
  out << "<div><h3>Most confused</h3>\n<div class=\"scroll\"><table class=\"list\"><tr><th>label</th><th>taken for</th>"
      << "<th class=\"num\">samples</th><th class=\"num\">of the label</th></tr>\n";
  for (size_t i = 0; i < shown; ++i) {
    const auto& [label, guess, count] = pairs[i];
    out << "<tr><td>" << html::escape(classes.name(label)) << "</td><td>" << html::escape(classes.name(guess))
        << "</td><td class=\"num\">" << html::count(count) << "</td><td class=\"num\">"
        << html::percentage(Classes::share(count, classes.labelled(label))) << "</td></tr>\n";
  }
  out << "</table></div>\n";
  if (shown < pairs.size())
    out << "<p class=\"quiet\">and " << html::count(pairs.size() - shown) << " other pairs</p>\n";
  out << "</div>\n";
  return out.str();
}

std::string bar_cell(double share) {
  double length = std::isfinite(share) ? share : 0;
  return cat("<td class=\"num bar\" style=\"--share:", html::fixed(length * 100, 1), "%\">", html::percentage(share),
             "</td>");
}

std::string class_table(const Classes& classes) {
  std::vector<size_t> shown(classes.size());
  std::iota(shown.begin(), shown.end(), size_t{0});
  std::ostringstream out;
  if (shown.size() > most_drawn) {
    // A class that is neither labelled nor predicted has no F1 and comes last.
    auto order = [&](size_t i) { return std::isnan(classes.f1(i)) ? 2 : classes.f1(i); };
    std::stable_sort(shown.begin(), shown.end(), [&](size_t a, size_t b) { return order(a) < order(b); });
    shown.resize(most_drawn);
    out << "<p class=\"quiet\">The " << most_drawn << " classes of " << html::count(classes.size())
        << " with the lowest F1.</p>\n";
  }
  out << "<div class=\"scroll\"><table class=\"list\"><tr><th>class</th><th class=\"num\">samples</th>"
      << "<th class=\"num\">precision</th><th class=\"num\">recall</th><th class=\"num\">F1</th></tr>\n";
  for (size_t i : shown) {
    out << "<tr><td>" << html::escape(classes.name(i)) << "</td><td class=\"num\">" << html::count(classes.labelled(i))
        << "</td>" << bar_cell(classes.precision(i)) << bar_cell(classes.recall(i)) << bar_cell(classes.f1(i))
        << "</tr>\n";
  }
  out << "</table></div>\n";
  return out.str();
}

}  // namespace

std::string render_classes(const Report& report) {
  if (report.confusion.empty()) return "";
  Classes classes(report);
  std::string out = "<section><h2>Confusion</h2>\n<div class=\"side\">\n";
  if (classes.size() <= most_drawn) out += matrix(classes);
  out += pair_table(classes) + "</div>\n</section>\n";
  out += "<section><h2>Classes</h2>\n" + class_table(classes) + "</section>\n";
  return out;
}

}  // namespace graft
