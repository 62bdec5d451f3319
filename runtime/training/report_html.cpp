#include "runtime/training/report_html.h"

#include <array>
#include <charconv>
#include <cmath>

#include "graph/error.h"

namespace graft::html {
namespace {

constexpr std::string_view replacement = "\uFFFD";

// Bytes of the UTF-8 sequence that `text` begins with; 0 where it begins with none.
size_t sequence_length(std::string_view text) {
  auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  auto continues = [&](size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return false;
    }
    return true;
  };
  uint8_t first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return continues(1, 2) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    bool overlong = first == 0xe0 && second < 0xa0;
    bool surrogate = first == 0xed && second > 0x9f;
    bool no_character = first == 0xef && second == 0xbf && byte(2) >= 0xbe;  // U+FFFE, U+FFFF
    return continues(1, 3) && !overlong && !surrogate && !no_character ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    bool overlong = first == 0xf0 && second < 0x90;
    bool too_large = first == 0xf4 && second > 0x8f;
    return continues(1, 4) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

bool is_control(std::string_view character) {
  auto first = static_cast<uint8_t>(character[0]);
  if (character.size() == 2) return first == 0xc2 && static_cast<uint8_t>(character[1]) < 0xa0;
  return character.size() == 1 && (first == 0x7f || (first < ' ' && first != '\n' && first != '\t'));
}

std::string format(double value, std::chars_format form, int precision) {
  std::array<char, 400> text{};  // 1e308 with decimals
  auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value, form, precision);
  return {text.data(), end};
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    size_t length = sequence_length(text);
    std::string_view character = text.substr(0, length ? length : 1);
    text.remove_prefix(character.size());
    if (length == 0 || is_control(character)) out += replacement;
    else if (character == "&") out += "&amp;";
    else if (character == "<") out += "&lt;";
    else if (character == ">") out += "&gt;";
    else if (character == "\"") out += "&quot;";
    else if (character == "'") out += "&#39;";
    else out += character;
  }
  return out;
}

// The decimal point does not depend on the locale of the process.
std::string number(double value, int digits) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "∞" : "−∞";
  return format(value, std::chars_format::general, digits);
}

std::string fixed(double value, int decimals) { return format(value, std::chars_format::fixed, decimals); }

std::string count(int64_t value) {
  std::string digits = std::to_string(value);
  size_t first = value < 0 ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

std::string bytes(int64_t value) {
  constexpr double step = 1024;
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
  auto amount = static_cast<double>(value);
  size_t unit = 0;
  while (std::abs(amount) >= step && unit + 1 < units.size()) {
    amount /= step;
    ++unit;
  }
  return cat(unit == 0 ? std::to_string(value) : fixed(amount, amount < 100 ? 1 : 0), " ", units.at(unit));
}

std::string duration(double seconds) {
  constexpr double minute = 60, hour = 3600, longest = 1e12;
  if (!(std::abs(seconds) < longest)) return number(seconds) + " s";
  if (seconds < 10) return fixed(seconds, 2) + " s";
  if (seconds < minute) return fixed(seconds, 1) + " s";
  auto whole = static_cast<int64_t>(std::lround(seconds));
  auto two = [](int64_t value) { return cat(value < 10 ? "0" : "", value); };
  if (seconds < hour) return cat(whole / 60, " min ", two(whole % 60), " s");
  return cat(whole / 3600, " h ", two(whole % 3600 / 60), " min");
}

std::string percentage(double share) { return std::isfinite(share) ? fixed(share * 100, 1) + " %" : std::string("–"); }

}  // namespace graft::html
