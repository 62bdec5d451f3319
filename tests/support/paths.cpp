#include "tests/support/paths.h"

namespace graft::test {

std::string source_dir() { return GRAFT_SOURCE_DIR; }
std::string python() { return GRAFT_PYTHON; }
std::string models_dir() { return source_dir() + "/build/models"; }

}  // namespace graft::test
