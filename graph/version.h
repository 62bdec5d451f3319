// The version of Graft, as in CMakeLists.txt.
#pragma once

#include <string>

namespace graft {

std::string version();

}  // namespace graft
