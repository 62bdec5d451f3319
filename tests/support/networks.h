// Small networks for tests of training: of random weights, and those of tests/recordings.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace graft::test {

struct Network {
  std::string name;
  std::unique_ptr<Graph> (*make)() = nullptr;  // input "x", output "y"; nullptr: a recorded one
  Dims x = {}, y = {};
  std::set<std::string> made_for = {};  // what it has for fusions to find
  std::set<std::string> frozen = {};    // parameters that are not trained
};

inline void PrintTo(const Network& network, std::ostream* out) { *out << network.name; }  // NOLINT: gtest's name

const std::vector<Network>& networks();
// Those of `parameters` that a network trains.
std::vector<std::string> trained(const Network& network, std::vector<std::string> parameters);
// Those that are not recorded.
std::vector<Network> built();
// The built one of this name. UsageError where there is none.
const Network& network_named(const std::string& name);

}  // namespace graft::test
