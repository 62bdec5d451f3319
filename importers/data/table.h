// Columns of a .csv, .tsv or .parquet file, read by Arrow.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace arrow {
class ChunkedArray;
class Table;
}  // namespace arrow

namespace graft {

class Table {
 public:
  // By extension. DataError where the file does not parse, has no rows or two columns of one name.
  explicit Table(const std::string& path);
  ~Table();

  enum class Kind : uint8_t { whole_numbers, real_numbers, text, lists, other };
  const std::string& path() const { return path_; }
  int64_t rows() const;
  const std::vector<std::string>& columns() const { return columns_; }
  bool has(const std::string& column) const;
  Kind kind(const std::string& column) const;  // whole_numbers: integers and booleans
  std::string type_name(const std::string& column) const;
  // UsageError with the nearest names where there is no such column.
  void expect(const std::string& column) const;
  // Numbers in a row of this column: 1, or the length of its lists, which must all be equal.
  int64_t width(const std::string& column) const;
  // Writes the numbers of row r to out + r * stride. A missing one becomes 0 and marks its row in `bad`, as does a NaN
  // or infinite one. DataError for a column that is not numeric: names the first text in it.
  template <class T>
  void copy_numbers(const std::string& column, T* out, int64_t stride, std::vector<std::string>& bad) const;
  // Whole numbers or text as such.
  std::vector<int64_t> whole_numbers(const std::string& column, std::vector<bool>& missing) const;
  std::vector<std::string> text(const std::string& column, std::vector<bool>& missing) const;

 private:
  const arrow::ChunkedArray& column(const std::string& name) const;
  std::string path_;
  std::vector<std::string> columns_;
  std::shared_ptr<arrow::Table> table_;
};

}  // namespace graft
