// Typed errors. Every message says where, what, got and what is allowed:
//   [Softmax "enc/attn_3"] axis 4 out of range for shape (2,3,5): allowed -3 to 2
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace graft {

using Dims = std::vector<int64_t>;

inline std::ostream& operator<<(std::ostream& out, const Dims& dims) {
  out << '(';
  for (size_t i = 0; i < dims.size(); ++i) out << (i ? "," : "") << dims[i];
  return out << ')';
}

// Joins its arguments into one text; a Dims prints as (2,3,5).
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What the caller did: flags, configuration, names that match nothing.
class UsageError : public Error {
 public:
  template <class... Parts>
  explicit UsageError(const Parts&... parts) : Error(cat(parts...)) {}
};

// The model file or its graph is wrong.
class ModelError : public Error {
 public:
  template <class... Parts>
  explicit ModelError(const Parts&... parts) : Error(cat(parts...)) {}
};

// The data set, a sample or a label is wrong.
class DataError : public Error {
 public:
  template <class... Parts>
  explicit DataError(const Parts&... parts) : Error(cat(parts...)) {}
};

// A node that Graft cannot handle, and why. Type and name are empty where the reason says it all.
struct Blocker {
  std::string type;
  std::string name;
  std::string reason;
};

// The model is valid, but Graft cannot do what is asked with it.
class UnsupportedError : public Error {
 public:
  template <class... Parts>
  explicit UnsupportedError(const Parts&... parts) : Error(cat(parts...)) {}
  // All nodes at once; the text is "N node(s) WHAT:" and the first of them.
  static UnsupportedError listing(const std::string& what, std::vector<Blocker> blockers);
  const std::vector<Blocker>& blockers() const { return blockers_; }

 private:
  std::vector<Blocker> blockers_;
};

// Memory, files, threads, accelerators.
class DeviceError : public Error {
 public:
  template <class... Parts>
  explicit DeviceError(const Parts&... parts) : Error(cat(parts...)) {}
};

// Closest of `names` to `wanted` by edit distance; at most `count`, best first.
std::vector<std::string> nearest_names(const std::string& wanted, const std::vector<std::string>& names,
                                       size_t count = 3);

}  // namespace graft
