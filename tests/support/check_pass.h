// Passes that join nodes behind lay_out.
#pragma once

#include "graph/graph.h"

namespace graft::test {

// A graph from text, every value in plain layout.
std::unique_ptr<Graph> plain_graph(const std::string& text);

// Runs the pass on inputs drawn from [low, high): it joins so many nodes, the graph stays sound, and the results the
// same within `tolerance` (0: to the bit). Returns how many nodes are left.
size_t check_joining(int (*pass)(Graph&), Graph& graph, int joined, double tolerance, double low, double high);

}  // namespace graft::test
