#include "importers/data/open_dataset.h"

#include <algorithm>
#include <filesystem>

#include "importers/data/data_card.h"
#include "importers/data/image_folder.h"
#include "importers/data/module.h"
#include "importers/data/npz_dataset.h"

namespace graft {
namespace fs = std::filesystem;
namespace {

bool is_card(const std::string& extension) { return extension == ".yaml" || extension == ".yml"; }

std::unique_ptr<Dataset> open_data(const std::string& path, const std::string& extension,
                                   const DatasetOptions& options) {
  if (extension == ".csv" || extension == ".tsv" || extension == ".parquet") {
    return table_module().open(path, options);
  }
  if (extension == ".npz") return open_npz(path, options);
  if (extension == ".jsonl") {
    throw UnsupportedError(
        "\"", path, "\": .jsonl holds text, and there is no tokeniser yet: write token ids to a .npz or .parquet file");
  }
  throw UsageError(
      "\"", path,
      "\" is no kind of data that is known: a folder of images, .csv, .tsv, .parquet, .npz, or a .yaml data card");
}

}  // namespace

std::unique_ptr<Dataset> open_dataset(const std::string& path, const DatasetOptions& options) {
  std::error_code error;
  auto status = fs::status(path, error);
  if (!fs::exists(status)) throw DataError("there is no \"", path, "\"");
  if (fs::is_directory(status)) return open_image_folder(path, options);
  std::string extension = fs::path(path).extension().string();
  if (!is_card(extension)) return open_data(path, extension, options);
  DataCard card = read_data_card(path, options);
  if (is_card(fs::path(card.data).extension().string())) {
    throw DataError("\"", path, "\": `data` is \"", card.data,
                    "\", another card; a folder or a file with data is wanted");
  }
  return open_dataset(card.data, card.options);
}

}  // namespace graft
