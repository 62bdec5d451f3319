// What the bodies of If, Loop and Scan nodes read by name from the graphs around them.
#pragma once

#include <set>

#include "graph/graph.h"

namespace graft {

bool has_bodies(const Node& node);
// Names that the bodies of `node`, and bodies in these, read from around the node.
std::set<std::string> captured_names(const Node& node);
// Values of the node's own graph among these.
std::vector<Value*> captured_values(const Node& node);
// Lets the bodies read other names: old name -> new name. Bodies that change are copied first, since clones of a graph
// share them.
void rename_captures(Node& node, const std::map<std::string, std::string>& names);

}  // namespace graft
