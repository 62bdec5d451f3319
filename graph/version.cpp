#include "graph/version.h"

namespace graft {

std::string version() { return GRAFT_VERSION; }

}  // namespace graft
