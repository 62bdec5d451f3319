// What can be switched off, by name: the patterns of recognise, and what passes behind it may do.
#include <algorithm>
#include <sstream>

#include "graph/passes/passes.h"

namespace graft {

const std::vector<std::string>& fusion_names() {
  static const std::vector<std::string> names = {
      // recognise
      "layer_normalization",
      "gelu",
      "hard_swish",
      "swish",
      "mish",
      "softmax",
      "normalization_activation",
      "depthwise_normalization",
      "attention",
      // behind it
      "fold_normalization",
      "convolution_epilogue",
      // fuse
      "remove_identities",
      "merge_transposes",
      "merge_equal",
      "product_bias",
      "sparse_gradients",
      "skip_padding",
      "winograd",
      // behind lay_out
      "join_sums",
      "product_epilogue",
      "join_statistics",
      "elementwise",
      "release_gradients",
  };
  return names;
}

std::set<std::string> fusions_named(const std::set<std::string>& texts) {
  const std::vector<std::string>& known = fusion_names();
  std::set<std::string> named;
  for (const std::string& text : texts) {
    std::istringstream parts(text);
    for (std::string name; std::getline(parts, name, ',');) {
      if (name.empty()) continue;
      if (name == "all") {
        named.insert(known.begin(), known.end());
      } else if (std::find(known.begin(), known.end(), name) != known.end()) {
        named.insert(name);
      } else {
        std::string near;
        for (const auto& other : nearest_names(name, known)) near += (near.empty() ? "\"" : ", \"") + other + '"';
        throw UsageError("no fusion \"", name, "\" to switch off; nearest: ", near, "; \"all\": every one");
      }
    }
  }
  return named;
}

}  // namespace graft
