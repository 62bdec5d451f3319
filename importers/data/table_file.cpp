#include "importers/data/table_file.h"

#include <arrow/csv/options.h>
#include <arrow/csv/reader.h>
#include <arrow/io/file.h>
#include <arrow/table.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>

#include <algorithm>
#include <filesystem>

#include "graph/error.h"
#include "runtime/device/device.h"

namespace graft {
namespace fs = std::filesystem;
namespace {

template <class T>
T checked(arrow::Result<T> result, const std::string& path) {
  if (!result.ok()) throw DataError("\"", path, "\": ", result.status().message());
  return std::move(result).ValueUnsafe();
}

std::shared_ptr<arrow::Table> read_csv(const std::string& path, char delimiter,
                                       const std::shared_ptr<arrow::io::ReadableFile>& file) {
  auto read = arrow::csv::ReadOptions::Defaults();
  read.use_threads = false;
  read.block_size = 16 << 20;  // also the longest row
  auto parse = arrow::csv::ParseOptions::Defaults();
  parse.delimiter = delimiter;
  parse.newlines_in_values = true;
  auto convert = arrow::csv::ConvertOptions::Defaults();
  convert.strings_can_be_null = true;
  convert.quoted_strings_can_be_null = false;
  auto reader =
      checked(arrow::csv::TableReader::Make(arrow::io::default_io_context(), file, read, parse, convert), path);
  return checked(reader->Read(), path);
}

std::shared_ptr<arrow::Table> read_parquet(const std::string& path,
                                           const std::shared_ptr<arrow::io::ReadableFile>& file) {
  try {
    auto reader = checked(parquet::arrow::OpenFile(file, arrow::default_memory_pool()), path);
    auto metadata = reader->parquet_reader()->metadata();
    // Run-length encoding lets a small file claim any number of rows.
    int64_t room = physical_memory() / 8 / std::max(1, metadata->num_columns());
    if (metadata->num_rows() < 0 || metadata->num_rows() > room) {
      throw DataError("\"", path, "\" has ", metadata->num_rows(),
                      " rows: they do not fit into the memory of this machine");
    }
    reader->set_use_threads(false);
    return checked(reader->ReadTable(), path);
  } catch (const parquet::ParquetException& error) {
    throw DataError("\"", path, "\": ", error.what());
  }
}

}  // namespace

std::shared_ptr<arrow::Table> read_table(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) throw DataError("\"", path, "\" is not a regular file that can be read");
  if (fs::file_size(path, error) == 0) throw DataError("\"", path, "\" is empty");
  auto file = checked(arrow::io::ReadableFile::Open(path), path);
  std::string extension = fs::path(path).extension().string();
  return extension == ".parquet" ? read_parquet(path, file) : read_csv(path, extension == ".tsv" ? '\t' : ',', file);
}

}  // namespace graft
