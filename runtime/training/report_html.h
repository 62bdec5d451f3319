// Texts and numbers of report.html.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace graft::html {

// Text that stands for itself, in elements and quoted attributes. Bytes that are no UTF-8 and control characters become
// U+FFFD, so that the page stays a valid document whatever a file was called.
std::string escape(std::string_view text);

// `digits` significant ones; NaN, ∞, −∞ for those.
std::string number(double value, int digits = 4);
// With a fixed number of decimals, as coordinates need it. `value` is finite.
std::string fixed(double value, int decimals);
std::string count(int64_t value);      // 1,234,567
std::string bytes(int64_t value);      // 12.3 MiB
std::string duration(double seconds);  // 0.52 s, 41.3 s, 3 min 20 s, 2 h 05 min
std::string percentage(double share);  // 98.3 %; a dash for NaN

}  // namespace graft::html
