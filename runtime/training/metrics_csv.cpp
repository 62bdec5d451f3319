#include "runtime/training/metrics_csv.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "graph/error.h"
#include "runtime/durable_file.h"

namespace graft {
namespace {

std::string join(const std::vector<std::string>& cells) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) line += (i ? "," : "") + cells[i];
  return line;
}

// The header and the rows of `path` up to `last`.
std::string kept_rows(const std::string& path, const std::string& header, int64_t last) {
  std::string kept = header + "\n";
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line)) return kept;
  if (line != header)
    throw DataError("\"", path, "\" has the columns \"", line, "\", this run writes \"", header, "\"");
  while (std::getline(in, line)) {
    double first = 0;
    auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), first);
    bool whole = error == std::errc() && !in.eof();  // a row cut off by a crash has no end of line
    if (whole && first <= static_cast<double>(last)) kept += line + "\n";
  }
  return kept;
}

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  for (char c : line) {
    if (c == ',') cells.emplace_back();
    else cells.back() += c;
  }
  return cells;
}

}  // namespace

std::vector<std::map<std::string, double>> read_metrics_csv(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line)) throw DataError("\"", path, "\" cannot be read");
  const std::vector<std::string> columns = cells_of(line);
  std::vector<std::map<std::string, double>> rows;
  while (std::getline(in, line)) {
    std::vector<std::string> cells = cells_of(line);
    if (cells.size() != columns.size())
      throw DataError("\"", path, "\": a row of ", cells.size(), " values for ", columns.size(), " columns");
    auto& row = rows.emplace_back();
    for (size_t i = 0; i < cells.size(); ++i) {
      if (cells[i].empty()) continue;
      double value = 0;
      auto [end, error] = std::from_chars(cells[i].data(), cells[i].data() + cells[i].size(), value);
      if (error != std::errc()) throw DataError("\"", path, "\": \"", cells[i], "\" is no number");
      row[columns[i]] = value;
    }
  }
  return rows;
}

std::string format_number(double value) {
  std::array<char, 32> text{};
  auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end};
}

MetricsCsv::MetricsCsv(std::string path, std::vector<std::string> columns, std::optional<int64_t> resume_after)
    : path_(std::move(path)), columns_(std::move(columns)) {
  std::string header = join(columns_);
  bool resume = resume_after && std::filesystem::exists(path_);
  write_durable_file(path_, resume ? kept_rows(path_, header, *resume_after) : header + "\n");
  file_.reset(std::fopen(path_.c_str(), "ae"));
  if (!file_) throw DeviceError("cannot open \"", path_, "\": ", std::generic_category().message(errno));
}

void MetricsCsv::add(const std::vector<std::optional<double>>& row) {
  if (row.size() != columns_.size())
    throw UsageError("a row of ", row.size(), " values for ", columns_.size(), " columns");
  std::vector<std::string> cells;
  for (const auto& value : row) cells.push_back(value ? format_number(*value) : "");
  std::string line = join(cells) + "\n";
  bool written = std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size() && std::fflush(file_.get()) == 0;
  if (!written) throw DeviceError("cannot write \"", path_, "\": ", std::generic_category().message(errno));
}

}  // namespace graft
