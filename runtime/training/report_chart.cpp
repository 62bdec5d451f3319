#include "runtime/training/report_chart.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "runtime/training/report_html.h"

namespace graft {
namespace {

using Points = std::vector<std::pair<int64_t, double>>;

constexpr double width = 480, height = 230, left = 62, right = 14, top = 14, bottom = 30;
constexpr size_t colors = 6;      // classes c0 ... c5
constexpr size_t most_dots = 30;  // on longer lines they would touch

// 1, 2 or 5 times a power of ten, just above `rough`.
double round_step(double rough) {
  double power = std::pow(10, std::floor(std::log10(rough)));
  for (double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

struct Range {
  double low = 0, high = 0;
  bool empty = true;
  void add(double value) {
    constexpr double largest = 1e300;  // differences stay finite
    value = std::clamp(value, -largest, largest);
    low = empty ? value : std::min(low, value);
    high = empty ? value : std::max(high, value);
    empty = false;
  }
};

// A scale that shows small changes, but starts at zero where that costs less than half of the height.
std::vector<double> value_ticks(Range range) {
  if (range.empty) range = {0, 1};
  if (range.high - range.low <= 1e-12 * std::max(std::abs(range.low), std::abs(range.high))) {
    double margin = range.low == 0 ? 1 : std::abs(range.low) / 10;
    range.low -= margin;
    range.high += margin;
  } else if (range.low > 0 && range.low < range.high / 2) {
    range.low = 0;
  }
  return chart_ticks(range.low, range.high, 5, false);
}

std::string tick_label(double value, double step) {
  constexpr double large = 1e5, small = 1e-3;
  constexpr int most_decimals = 7;
  double size = std::abs(value);
  if (size < step / 2) return "0";
  if (size >= large || (size < small && step < small)) return html::number(value, 3);
  int decimals = static_cast<int>(std::ceil(-std::log10(step) - 1e-9));
  return html::fixed(value, std::clamp(decimals, 0, most_decimals));
}

class Chart {
 public:
  explicit Chart(const std::vector<const Report::Series*>& series) : series_(series) {
    Range values;
    Range epochs;
    for (const auto* line : series) {
      for (const auto& [epoch, value] : line->points) {
        epochs.add(static_cast<double>(epoch));
        if (std::isfinite(value)) values.add(value);
      }
    }
    y_ticks_ = value_ticks(values);
    first_ = epochs.low;
    last_ = epochs.high;
  }

  std::string draw(const std::string& label, std::optional<int64_t> best_epoch) {
    svg_ << "<svg viewBox=\"0 0 " << width << " " << height << "\" role=\"img\" aria-label=\"" << html::escape(label)
         << "\">\n";
    draw_grid();
    if (best_epoch && static_cast<double>(*best_epoch) >= first_ && static_cast<double>(*best_epoch) <= last_) {
      std::string at = x(*best_epoch);
      svg_ << "<line class=\"best\" x1=\"" << at << "\" x2=\"" << at << "\" y1=\"" << top << "\" y2=\""
           << height - bottom << "\"><title>epoch " << *best_epoch << ", kept</title></line>\n";
    }
    for (size_t i = 0; i < series_.size(); ++i) draw_line(series_[i]->points, i % colors);
    svg_ << "</svg>\n";
    return svg_.str();
  }

 private:
  // A single epoch stands in the middle.
  std::string x(int64_t epoch) const {
    double share = last_ > first_ ? (static_cast<double>(epoch) - first_) / (last_ - first_) : 0.5;
    return html::fixed(left + share * (width - left - right), 1);
  }
  std::string y(double value) const {
    double share = (value - y_ticks_.front()) / (y_ticks_.back() - y_ticks_.front());
    return html::fixed(height - bottom - std::clamp(share, 0.0, 1.0) * (height - top - bottom), 1);
  }

  void draw_grid() {
    double step = y_ticks_[1] - y_ticks_[0];
    for (double value : y_ticks_) {
      std::string at = y(value);
      svg_ << "<line class=\"grid\" x1=\"" << left << "\" x2=\"" << width - right << "\" y1=\"" << at << "\" y2=\""
           << at << "\"/><text class=\"tick\" x=\"" << left - 8 << "\" y=\"" << at
           << "\" dy=\".35em\" text-anchor=\"end\">" << tick_label(value, step) << "</text>\n";
    }
    constexpr int wanted = 8;
    for (double epoch : chart_ticks(first_, last_, wanted, true)) {
      if (epoch < first_ || epoch > last_) continue;
      svg_ << "<text class=\"tick\" x=\"" << x(static_cast<int64_t>(epoch)) << "\" y=\"" << height - bottom + 18
           << "\" text-anchor=\"middle\">" << html::fixed(epoch, 0) << "</text>\n";
    }
  }

  void draw_line(const Points& points, size_t color) {
    std::ostringstream path;
    bool pen_down = false;
    for (const auto& [epoch, value] : points) {
      if (std::isfinite(value)) path << (pen_down ? "L" : "M") << x(epoch) << " " << y(value);
      pen_down = std::isfinite(value);
    }
    if (!path.str().empty()) svg_ << "<path class=\"line c" << color << "\" d=\"" << path.str() << "\"/>\n";
    for (const auto& [epoch, value] : points) {
      bool finite = std::isfinite(value);
      if (finite && points.size() > most_dots) continue;
      if (finite) {
        svg_ << "<circle class=\"dot c" << color << "\" cx=\"" << x(epoch) << "\" cy=\"" << y(value) << "\" r=\"3\">";
      } else {
        svg_ << "<text class=\"bad\" x=\"" << x(epoch) << "\" y=\"" << top + 4 << "\" text-anchor=\"middle\">✕";
      }
      svg_ << "<title>epoch " << epoch << ": " << html::number(value, 6) << "</title>"
           << (finite ? "</circle>\n" : "</text>\n");
    }
  }

  const std::vector<const Report::Series*>& series_;
  std::vector<double> y_ticks_;
  double first_ = 0, last_ = 0;
  std::ostringstream svg_;
};

}  // namespace

std::vector<double> chart_ticks(double low, double high, int wanted, bool whole) {
  double step = high > low ? round_step((high / wanted - low / wanted)) : 1;
  if (whole) step = std::max(step, 1.0);
  std::vector<double> ticks;
  double first = std::floor(low / step + 1e-9);
  double last = std::ceil(high / step - 1e-9);
  for (int64_t i = 0; i <= std::llround(last - first); ++i) ticks.push_back((first + static_cast<double>(i)) * step);
  return ticks;
}

std::string render_chart(const std::string& metric, const std::vector<const Report::Series*>& series,
                         std::optional<int64_t> best_epoch) {
  std::ostringstream out;
  out << "<figure class=\"chart\"><figcaption><b>" << html::escape(metric) << "</b>";
  for (size_t i = 0; i < series.size(); ++i) {
    const auto& [name, part, points] = *series[i];
    out << "<span class=\"legend\"><i class=\"key c" << i % colors << "\"></i>" << html::escape(part) << " <b>"
        << html::number(points.back().second) << "</b></span>";
  }
  out << "</figcaption>\n" << Chart(series).draw(metric + " by epoch", best_epoch) << "</figure>\n";
  return out.str();
}

}  // namespace graft
