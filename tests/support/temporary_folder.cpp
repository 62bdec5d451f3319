#include "tests/support/temporary_folder.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "tests/support/paths.h"

namespace graft {
namespace fs = std::filesystem;

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (fs::temp_directory_path() / "graft_test_XXXXXX").string();
  if (!mkdtemp(pattern.data())) throw std::runtime_error("cannot make a temporary folder");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string TemporaryFolder::operator/(std::string_view name) const {
  fs::path full = fs::path(path_) / name;
  fs::create_directories(full.parent_path());
  return full.string();
}

std::string TemporaryFolder::write(std::string_view name, std::string_view contents) const {
  std::string full = *this / name;
  std::ofstream(full, std::ios::binary) << contents;
  return full;
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string run_python(const std::string& script, const std::vector<std::string>& arguments) {
  TemporaryFolder folder;
  std::string command = test::python() + " " + folder.write("script.py", script);
  for (const auto& argument : arguments) command += " '" + argument + "'";
  std::string output = folder / "output.txt";
  int status = std::system((command + " > " + output + " 2>&1").c_str());
  std::string text = read_text(output);
  if (status != 0) throw std::runtime_error("python failed:\n" + text);
  return text;
}

}  // namespace graft
