// Where this checkout and its Python oracles are.
#pragma once

#include <string>

namespace graft::test {

std::string source_dir();
std::string python();      // the interpreter that has the oracles
std::string models_dir();  // what tests/models/make_models.py wrote

}  // namespace graft::test
