#include "graph/error.h"

#include <algorithm>
#include <numeric>

namespace graft {
namespace {

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

UnsupportedError UnsupportedError::listing(const std::string& what, std::vector<Blocker> blockers) {
  constexpr size_t longest = 50;
  std::string text = cat(blockers.size(), " node(s) ", what, ':');
  for (size_t i = 0; i < blockers.size() && i < longest; ++i)
    text += cat("\n  [", blockers[i].type, " \"", blockers[i].name, "\"] ", blockers[i].reason);
  if (blockers.size() > longest) text += cat("\n  and ", blockers.size() - longest, " more");
  UnsupportedError error(text);
  error.blockers_ = std::move(blockers);
  return error;
}

std::vector<std::string> nearest_names(const std::string& wanted, const std::vector<std::string>& names, size_t count) {
  constexpr size_t longest = 256;  // names in hostile files reach a MiB: compare their beginnings
  std::vector<std::pair<size_t, std::string>> scored;
  for (const auto& name : names) {
    scored.emplace_back(edit_distance(wanted.substr(0, longest), name.substr(0, longest)), name);
  }
  std::stable_sort(scored.begin(), scored.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> nearest;
  for (size_t i = 0; i < scored.size() && i < count; ++i) nearest.push_back(scored[i].second);
  return nearest;
}

}  // namespace graft
