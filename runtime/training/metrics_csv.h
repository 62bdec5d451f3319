// metrics.csv: one row an epoch, readable while the run goes on.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace graft {

class MetricsCsv {
 public:
  // Begins a new file, or with `resume_after` keeps the rows whose first column is at most that. DataError where the
  // file that is there has other columns.
  MetricsCsv(std::string path, std::vector<std::string> columns, std::optional<int64_t> resume_after = {});
  // One value a column, nothing where it was not measured. On disk when it returns. DeviceError when it cannot be
  // written.
  void add(const std::vector<std::optional<double>>& row);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::vector<std::string> columns_;
  std::unique_ptr<std::FILE, Close> file_;
};

// Rows as they were written: values by column, those that were not measured left out. DataError where the file cannot
// be read or holds anything else.
std::vector<std::map<std::string, double>> read_metrics_csv(const std::string& path);

// A number as short as it can be read back exactly; "nan", "inf", "-inf" for those.
std::string format_number(double value);

}  // namespace graft
