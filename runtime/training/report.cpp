#include "runtime/training/report.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "graph/error.h"
#include "runtime/training/report_chart.h"
#include "runtime/training/report_classes.h"
#include "runtime/training/report_html.h"
#include "runtime/training/report_style.h"

namespace graft {
namespace {

std::string section(const std::string& title, const std::string& content) {
  if (content.empty()) return "";
  return cat("<section><h2>", title, "</h2>\n", content, "</section>\n");
}

std::string fact_table(const Report::Facts& facts) {
  if (facts.empty()) return "";
  std::string out = "<table class=\"facts\">\n";
  for (const auto& [name, value] : facts) {
    out += cat("<tr><th>", html::escape(name), "</th><td>", html::escape(value), "</td></tr>\n");
  }
  return out + "</table>\n";
}

// A long list stands in two columns.
std::string wide_fact_table(const Report::Facts& facts) {
  constexpr size_t longest = 12;
  if (facts.size() <= longest) return fact_table(facts);
  auto middle = facts.begin() + static_cast<std::ptrdiff_t>((facts.size() + 1) / 2);
  return cat("<div class=\"pair\">\n", fact_table({facts.begin(), middle}), fact_table({middle, facts.end()}),
             "</div>\n");
}

std::string tile(const std::string& name, const std::string& value) {
  return cat("<div class=\"tile\"><b>", value, "</b><span>", html::escape(name), "</span></div>\n");
}

std::string tiles(const Report& report) {
  std::string out;
  for (const auto& [name, value] : report.final_metrics) out += tile(name, html::number(value));
  if (report.best_epoch) out += tile("epoch that was kept", html::count(*report.best_epoch));
  if (report.seconds > 0) out += tile("time", html::duration(report.seconds));
  if (report.samples_per_second > 0) out += tile("samples a second", html::number(report.samples_per_second, 3));
  return out.empty() ? "" : "<div class=\"tiles\">\n" + out + "</div>\n";
}

std::string charts(const Report& report) {
  std::vector<std::string> metrics;  // in the order of their first series
  for (const auto& series : report.series) {
    bool known = std::find(metrics.begin(), metrics.end(), series.metric) != metrics.end();
    if (!known && !series.points.empty()) metrics.push_back(series.metric);
  }
  if (metrics.empty()) return "<p class=\"quiet\">No epoch was completed.</p>\n";
  std::string out = "<div class=\"charts\">\n";
  for (const auto& metric : metrics) {
    std::vector<const Report::Series*> chosen;
    for (const auto& series : report.series) {
      if (series.metric == metric && !series.points.empty()) chosen.push_back(&series);
    }
    out += render_chart(metric, chosen, report.best_epoch);
  }
  out += "</div>\n";
  if (report.best_epoch) out += "<p class=\"quiet\">The dotted line marks the epoch whose weights were kept.</p>\n";
  return out;
}

std::string data(const Report& report) {
  Report::Facts facts;
  for (const auto& [name, count] : report.samples) facts.emplace_back(name, html::count(count));
  bool any = report.skipped > 0 || !report.skip_reasons.empty();
  if (any) facts.emplace_back("left out", html::count(report.skipped));
  std::string out = fact_table(facts);
  if (report.skip_reasons.empty()) return out;
  out += "<ul>\n";
  for (const auto& reason : report.skip_reasons) out += cat("<li>", html::escape(reason), "</li>\n");
  out += "</ul>\n";
  auto listed = static_cast<int64_t>(report.skip_reasons.size());
  if (report.skipped > listed) {
    out += cat("<p class=\"quiet\">and ", html::count(report.skipped - listed), " more</p>\n");
  }
  return out;
}

// Amounts as one bar of parts and a list; `text` writes an amount. What is not finite or below zero has no length.
template <class T, class Text>
std::string amounts(const std::vector<std::pair<std::string, T>>& parts, const Text& text) {
  if (parts.empty()) return "";
  constexpr size_t colors = 6;
  auto length = [](T amount) { return amount > T{} && std::isfinite(amount) ? amount : T{}; };
  T total{};
  for (const auto& part : parts) total += length(part.second);
  std::ostringstream bar, rows;
  for (size_t i = 0; i < parts.size(); ++i) {
    double share = total > T{} ? static_cast<double>(length(parts[i].second)) / static_cast<double>(total) : 0;
    bar << "<i class=\"c" << i % colors << "\" style=\"width:" << html::fixed(share * 100, 2) << "%\"></i>";
    rows << "<tr><th><i class=\"swatch c" << i % colors << "\"></i>" << html::escape(parts[i].first)
         << "</th><td class=\"num\">" << text(parts[i].second) << "</td><td class=\"num\">" << html::percentage(share)
         << "</td></tr>\n";
  }
  rows << "<tr><th>together</th><td class=\"num\">" << text(total) << "</td><td></td></tr>\n";
  return cat("<div class=\"parts\">", bar.str(), "</div>\n<table class=\"facts\">\n", rows.str(), "</table>\n");
}

std::string pair(const std::string& one, const std::string& other) {
  if (one.empty() || other.empty()) return one + other;
  return "<div class=\"pair\">\n" + one + other + "</div>\n";
}

}  // namespace

std::string render_report(const Report& report) {
  std::string title = html::escape(report.title);
  // Should markup ever slip through, the policy keeps it from running or loading anything.
  std::string out =
      cat("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>",
          title, "</title>\n<style>", report_style, "</style>\n</head>\n<body>\n<header><h1>", title, "</h1>\n");
  if (!report.subtitle.empty()) out += cat("<p class=\"quiet\">", html::escape(report.subtitle), "</p>\n");
  out += "</header>\n";
  for (const auto& warning : report.warnings) out += cat("<p class=\"warning\">", html::escape(warning), "</p>\n");
  out += tiles(report) + section("Training", charts(report)) + render_classes(report);
  out += pair(section("Time", amounts(report.stages, html::duration)),
              section("Memory plan", amounts(report.memory, html::bytes)));
  std::string beside = section("Data", data(report)) + section("Environment", fact_table(report.environment));
  out += pair(section("Model", fact_table(report.model)), beside.empty() ? "" : "<div>\n" + beside + "</div>\n");
  out += section("Configuration", wide_fact_table(report.configuration));
  return out + "<footer>Written by graft train</footer>\n</body>\n</html>\n";
}

}  // namespace graft
