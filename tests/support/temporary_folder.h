// A folder that lives as long as the test.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace graft {

class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  // Path of a name inside; its parent folders are made.
  std::string operator/(std::string_view name) const;
  // Writes a file inside and returns its path.
  std::string write(std::string_view name, std::string_view contents) const;

 private:
  std::string path_;
};

std::string read_text(const std::string& path);

// Runs `script` with the venv's Python, `arguments` in sys.argv[1:]. Throws with its output when it fails.
std::string run_python(const std::string& script, const std::vector<std::string>& arguments = {});

}  // namespace graft
