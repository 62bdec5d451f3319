// Files to Arrow tables.
#pragma once

#include <memory>
#include <string>

namespace arrow {
class Table;
}

namespace graft {

// .csv, .tsv or .parquet by extension. DataError where the file is missing or does not parse.
std::shared_ptr<arrow::Table> read_table(const std::string& path);

}  // namespace graft
