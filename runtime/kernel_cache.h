// Kernels that were chosen by measuring, on disk: one file for each machine, number of threads and version of what
// computes. It is no trusted input: a file that cannot be read whole, or is another machine's, counts as none.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace graft {

// Of one case: the choice, and the seconds of every kernel that was measured.
struct ChosenKernel {
  std::string kernel;
  std::map<std::string, double> seconds;
};

// What choices hold for: the processor, its instruction sets, threads, versions.
std::map<std::string, std::string> kernel_environment();
// $XDG_CACHE_HOME/graft, or ~/.cache/graft; "" where neither is there.
std::string default_cache_folder();

class KernelCache {
 public:
  using Warn = std::function<void(const std::string&)>;
  // Reads the file in `folder` ("": default_cache_folder()). What is wrong with it is said by `warn`, never thrown.
  KernelCache(const std::string& folder, Warn warn);

  // nullptr where the case was not measured.
  const ChosenKernel* find(const std::string& name) const;
  // Adds what was measured and writes the file. What another process wrote there meanwhile comes first, so that all
  // have the same choices from then on. Where it cannot be written, `warn` says so once, and choices stay here.
  void add(const std::map<std::string, ChosenKernel>& measured);

  const std::string& file() const { return file_; }  // "": there is no folder
  // Whether a case can stand in the file: not too long, of printable characters.
  static bool takes(const std::string& name);

 private:
  std::map<std::string, ChosenKernel> read() const;
  void write();

  std::map<std::string, std::string> environment_;
  Warn warn_;
  std::string file_;
  std::map<std::string, ChosenKernel> chosen_;
  bool writable_ = true;
};

}  // namespace graft
