#include "importers/data/image_folder.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include "importers/data/image.h"
#include "importers/data/input_file.h"
#include "importers/data/module.h"

namespace graft {
namespace fs = std::filesystem;
namespace {

constexpr int64_t largest_file = int64_t{256} << 20;
constexpr int deepest = 16;
constexpr std::array<std::string_view, 8> extensions{".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif"};

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with("."); }

bool is_image(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return std::find(extensions.begin(), extensions.end(), extension) != extensions.end();
}

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (!is_hidden(at->path())) entries.push_back(at->path());
  }
  if (error) throw DataError("cannot read the folder \"", folder.string(), "\": ", error.message());
  std::sort(entries.begin(), entries.end());
  return entries;
}

// Images below `folder`. Links are followed, but no folder is entered twice on one way down.
void collect(const fs::path& folder, bool deep, std::set<fs::path>& above, std::vector<std::string>& images) {
  std::error_code error;
  auto real = fs::canonical(folder, error);
  if (error || above.size() >= deepest || !above.insert(real).second) return;
  for (const auto& entry : sorted_entries(folder)) {
    auto status = fs::status(entry, error);
    if (fs::is_directory(status)) {
      if (deep) collect(entry, true, above, images);
    } else if (is_image(entry)) {
      images.push_back(entry.string());  // a dangling link or a pipe too: reading it names it
    }
  }
  above.erase(real);
}

// `root` is the data set's own folder: a link back to it would give every image every class.
std::vector<std::string> collect(const fs::path& folder, bool deep, const fs::path& root) {
  std::set<fs::path> above;
  std::error_code error;
  if (deep) above.insert(fs::canonical(root, error));
  std::vector<std::string> images;
  collect(folder, deep, above, images);
  return images;
}

class ImageFolder : public Dataset {
 public:
  ImageFolder(const std::string& path, const DatasetOptions& options) : path_(path), names_(options.class_names) {
    if (options.inputs.size() > 1) {
      throw UsageError("a folder of images feeds one input, the model has ", options.inputs.size());
    }
    ModelInput input = options.inputs.empty() ? ModelInput{"input", DType::f32, {}} : options.inputs[0];
    input_names_ = {input.name};
    format_ = image_format(options.images, input);
    list(options);
    check(options);
    image_module();  // fails here rather than in the middle of a run
  }

  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  const std::vector<std::string>& input_names() const override { return input_names_; }
  bool has_labels() const override { return labelled_; }
  std::vector<std::string> class_names() const override { return names_; }
  int64_t label_of(int64_t index) const override { return file(index).label; }
  std::string describe(int64_t index) const override { return cat("\"", file(index).path, "\""); }

  Sample read(int64_t index) const override {
    const File& wanted = file(index);
    auto bytes = InputFile(wanted.path).read_all(largest_file);
    Sample sample;
    sample.inputs.push_back(decode_image(bytes, format_, describe(index)));
    if (labelled_) sample.label = Tensor::scalar<int64_t>(wanted.label);
    return sample;
  }

 private:
  struct File {
    std::string path;
    int64_t label;
  };
  const File& file(int64_t index) const { return files_.at(static_cast<size_t>(index)); }

  void list(const DatasetOptions& options) {
    std::vector<fs::path> folders;
    for (const auto& entry : sorted_entries(path_)) {
      std::error_code ignored;
      if (fs::is_directory(entry, ignored)) folders.push_back(entry);
    }
    auto loose = collect(path_, false, path_);
    if (!loose.empty() && options.labels_wanted) {
      throw DataError("\"", path_, "\" has images beside its class folders, such as \"", loose[0],
                      "\": each must lie in the folder of its class");
    }
    labelled_ = loose.empty();
    for (auto& image : loose) files_.push_back({std::move(image), -1});
    for (const auto& folder : folders) {
      auto images = collect(folder, true, path_);
      int64_t label = labelled_ ? label_for(folder, images.size(), options) : -1;
      for (auto& image : images) files_.push_back({std::move(image), label});
    }
    bool all_known = std::none_of(files_.begin(), files_.end(), [](const File& file) { return file.label < 0; });
    labelled_ = labelled_ && all_known;
  }

  int64_t label_for(const fs::path& folder, size_t images, const DatasetOptions& options) {
    std::string name = folder.filename().string();
    if (options.class_names.empty()) {
      if (images == 0) throw DataError("class folder \"", folder.string(), "\" has no images");
      names_.push_back(name);
      return static_cast<int64_t>(names_.size()) - 1;
    }
    auto found = std::find(names_.begin(), names_.end(), name);
    if (found != names_.end()) return found - names_.begin();
    if (options.labels_wanted) {
      throw DataError("\"", folder.string(), "\": there is no class \"", name, "\"; nearest: \"",
                      nearest_names(name, names_, 1).front(), "\"");
    }
    return -1;
  }

  void check(const DatasetOptions& options) const {
    if (files_.empty())
      throw DataError("\"", path_, "\" has no images: a folder with one sub-folder of images per class is wanted");
    if (labelled_ && options.labels_wanted && names_.size() < 2) {
      throw DataError("\"", path_, "\" has one class, \"", names_.front(), "\": at least two are wanted");
    }
  }

  std::string path_;
  std::vector<std::string> names_;
  std::vector<std::string> input_names_;
  ImageFormat format_;
  std::vector<File> files_;
  bool labelled_ = true;
};

}  // namespace

std::unique_ptr<Dataset> open_image_folder(const std::string& path, const DatasetOptions& options) {
  return std::make_unique<ImageFolder>(path, options);
}

}  // namespace graft
