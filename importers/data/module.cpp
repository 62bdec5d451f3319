#include "importers/data/module.h"

#include <dlfcn.h>

#include <filesystem>

#include "graph/error.h"

namespace graft {
namespace fs = std::filesystem;
namespace {

// From lib/graft beside the executable's folder, where it is installed, or within it, as in a build. Nowhere else: a
// bare name would be looked for in LD_LIBRARY_PATH too, and in the working directory where a RUNPATH has an empty
// entry.
fs::path find(const std::string& file) {
  auto executable = fs::canonical("/proc/self/exe");
  auto built = executable.parent_path() / "lib" / "graft" / file;
  return fs::exists(built) ? built : executable.parent_path().parent_path() / "lib" / "graft" / file;
}

template <class Module>
const Module& load(const std::string& name, const char* duty) {
  std::string reason;
  try {
    auto path = find(name + ".so");
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* entry = library ? dlsym(library, name.c_str()) : nullptr;
    if (entry) return *reinterpret_cast<const Module* (*)()>(entry)();
    reason = dlerror();
  } catch (const fs::filesystem_error& error) {
    reason = error.what();
  }
  throw DeviceError("cannot load ", name, ".so, which ", duty, ": ", reason,
                    "; it is installed with the command, and scripts/setup installs what it needs");
}

}  // namespace

const ImageModule& image_module() {
  static const auto& module = load<ImageModule>("graft_images", "decodes images");
  return module;
}

const TableModule& table_module() {
  static const auto& module = load<TableModule>("graft_tables", "reads tables");
  return module;
}

}  // namespace graft
