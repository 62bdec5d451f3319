#include "importers/data/data_card.h"

#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <functional>

#include "importers/data/input_file.h"

namespace graft {
namespace {

constexpr int64_t largest_card = 1 << 20;
using Read = std::function<void(const YAML::Node&)>;

class Card {
 public:
  explicit Card(std::string path) : path_(std::move(path)) {}

  template <class... Parts>
  [[noreturn]] void fail(const YAML::Node& node, const Parts&... parts) const {
    throw DataError("\"", path_, "\" line ", node.Mark().line + 1, ": ", cat(parts...));
  }

  // Calls the reader of each key of a map.
  void read_map(const YAML::Node& map, const std::map<std::string, Read>& readers) const {
    if (!map.IsMap()) fail(map, "keys and values are wanted");
    std::vector<std::string> known;
    for (const auto& [name, reader] : readers) known.push_back(name);
    std::map<std::string, bool> seen;
    for (const auto& entry : map) {
      auto name = scalar<std::string>(entry.first, "a name");
      auto reader = readers.find(name);
      if (reader == readers.end())
        fail(entry.first, "unknown key \"", name, "\"; nearest: ", list(nearest_names(name, known)));
      if (seen[name]) fail(entry.first, "key \"", name, "\" is there twice");
      seen[name] = true;
      reader->second(entry.second);
    }
  }

  template <class T>
  T scalar(const YAML::Node& node, const char* what) const {
    T value{};
    if (!node.IsScalar() || !YAML::convert<T>::decode(node, value)) fail(node, what, " is wanted");
    return value;
  }

  template <class T>
  std::vector<T> sequence(const YAML::Node& node, const char* what) const {
    if (node.IsScalar()) return {scalar<T>(node, what)};
    if (!node.IsSequence()) fail(node, what, " or a list of them is wanted");
    std::vector<T> values;
    for (const auto& item : node) values.push_back(scalar<T>(item, what));
    return values;
  }

  template <class T>
  T choice(const YAML::Node& node, const std::vector<std::pair<std::string, T>>& choices) const {
    auto wanted = scalar<std::string>(node, "a name");
    std::vector<std::string> names;
    for (const auto& [name, value] : choices) {
      if (name == wanted) return value;
      names.push_back(name);
    }
    fail(node, "unknown value \"", wanted, "\", allowed are ", list(names));
  }

  static std::string list(const std::vector<std::string>& names) {
    std::string text;
    for (const auto& name : names) text += cat(text.empty() ? "" : ", ", name);
    return text;
  }

 private:
  std::string path_;
};

template <class T>
void set_if_unset(std::optional<T>& option, const T& value) {
  if (!option) option = value;
}

void read_size(const Card& card, const YAML::Node& node, ImageOptions& images) {
  auto sides = card.sequence<int64_t>(node, "a number of pixels");
  if (sides.empty() || sides.size() > 2) card.fail(node, "one side or height and width are wanted");
  set_if_unset(images.height, sides.front());
  set_if_unset(images.width, sides.back());
}

void read_images(const Card& card, const YAML::Node& node, ImageOptions& images) {
  auto numbers = [&](std::vector<double>& values) {
    return [&](const YAML::Node& n) {
      if (values.empty()) values = card.sequence<double>(n, "a number");
    };
  };
  auto number = [&](std::optional<double>& value) {
    return [&](const YAML::Node& n) { set_if_unset(value, card.scalar<double>(n, "a number")); };
  };
  card.read_map(node, {
                          {"size", [&](const YAML::Node& n) { read_size(card, n, images); }},
                          {"layout",
                           [&](const YAML::Node& n) {
                             set_if_unset(images.layout, card.choice<ImageLayout>(n, {{"nchw", ImageLayout::nchw},
                                                                                      {"nhwc", ImageLayout::nhwc}}));
                           }},
                          {"color",
                           [&](const YAML::Node& n) {
                             set_if_unset(images.color, card.choice<ImageColor>(n, {{"rgb", ImageColor::rgb},
                                                                                    {"bgr", ImageColor::bgr},
                                                                                    {"grey", ImageColor::grey}}));
                           }},
                          {"resize",
                           [&](const YAML::Node& n) {
                             set_if_unset(images.resize, card.choice<ImageResize>(n, {{"stretch", ImageResize::stretch},
                                                                                      {"fit", ImageResize::fit},
                                                                                      {"crop", ImageResize::crop}}));
                           }},
                          {"interpolation",
                           [&](const YAML::Node& n) {
                             set_if_unset(images.interpolation, card.choice<ImageInterpolation>(
                                                                    n, {{"area", ImageInterpolation::area},
                                                                        {"linear", ImageInterpolation::linear},
                                                                        {"cubic", ImageInterpolation::cubic},
                                                                        {"nearest", ImageInterpolation::nearest}}));
                           }},
                          {"scale", number(images.scale)},
                          {"mean", numbers(images.mean)},
                          {"std", numbers(images.std)},
                          {"padding", number(images.padding)},
                          {"largest_pixels",
                           [&](const YAML::Node& n) {
                             images.largest_pixels = card.scalar<int64_t>(n, "a number");
                             if (images.largest_pixels < 1) card.fail(n, "a number above 0 is wanted");
                           }},
                      });
}

}  // namespace

DataCard read_data_card(const std::string& path, const DatasetOptions& given) {
  auto bytes = InputFile(path).read_all(largest_card);
  Card card(path);
  DataCard result{"", given};
  DatasetOptions& options = result.options;
  auto text = [&](std::string& value) {
    return [&](const YAML::Node& n) {
      if (value.empty()) value = card.scalar<std::string>(n, "a name");
    };
  };
  try {
    YAML::Node root = YAML::Load(std::string(bytes.begin(), bytes.end()));
    card.read_map(root, {
                            {"data", text(result.data)},
                            {"label", text(options.label)},
                            {"features",
                             [&](const YAML::Node& n) {
                               if (options.features.empty())
                                 options.features = card.sequence<std::string>(n, "the name of a column");
                             }},
                            {"task",
                             [&](const YAML::Node& n) {
                               auto task = card.choice<Task>(
                                   n, {{"classification", Task::classification}, {"regression", Task::regression}});
                               if (options.task == Task::automatic) options.task = task;
                             }},
                            {"images", [&](const YAML::Node& n) { read_images(card, n, options.images); }},
                        });
  } catch (const YAML::Exception& error) {
    throw DataError("\"", path, "\" line ", error.mark.line + 1, ": ", error.msg);
  }
  if (result.data.empty()) throw DataError("\"", path, "\" lacks the key `data`: the path of the data");
  std::filesystem::path data(result.data);
  if (data.is_relative()) result.data = (std::filesystem::path(path).parent_path() / data).string();
  return result;
}

}  // namespace graft
