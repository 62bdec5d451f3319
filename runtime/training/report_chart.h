// Line charts of report.html as inline SVG.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/training/report.h"

namespace graft {

// All series of one metric over epochs, none of them empty, as a figure with a legend. Values that are not finite break
// the line and are marked at the upper edge. `best_epoch` is marked by a vertical line.
std::string render_chart(const std::string& metric, const std::vector<const Report::Series*>& series,
                         std::optional<int64_t> best_epoch);

// Round numbers that cover [low, high], about `wanted` of them, ascending; `whole`: no fractions.
std::vector<double> chart_ticks(double low, double high, int wanted, bool whole);

}  // namespace graft
