// NumPy's .npz: a zip of .npy arrays.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "graph/tensor.h"
#include "importers/data/zip.h"

namespace graft {

// Arrays by name (without ".npy"), stored (np.savez) or deflated (np.savez_compressed), either byte order, C or Fortran
// order. The file is untrusted: DataError names the file and the array for anything that does not add up.
// UnsupportedError for complex, string, structured and object arrays.
std::map<std::string, Tensor> read_npz(const std::string& path);

// What read_npz would give, without the data: for choosing arrays of a large file.
struct ArrayInfo {
  DType dtype = DType::undefined;
  Dims dims;
};
std::map<std::string, ArrayInfo> list_npz(const std::string& path);

// Written durably, stored without compression, readable by np.load. bfloat16, which NumPy lacks, is written as float32.
// UsageError for two arrays of one name.
class NpzWriter {
 public:
  explicit NpzWriter(const std::string& path) : path_(path), writer_(path) {}
  void add(const std::string& name, const Tensor& array);
  void commit() { writer_.commit(); }

 private:
  std::string path_;
  ZipWriter writer_;
  std::set<std::string> names_;
};
void write_npz(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& arrays);

}  // namespace graft
