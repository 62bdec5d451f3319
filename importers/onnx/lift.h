// Old operators to their meaning in the internal opset.
#pragma once

#include "graph/graph.h"

namespace graft {

// Rewrites a node that was written for `opset`; new nodes go before or after it and the results keep their names, so
// that the caller finds them again by name. Reads types and ranks of operands where they are known. UnsupportedError
// for the few old forms that have no equivalent.
void lift(Graph& graph, Node* node, int64_t opset);

}  // namespace graft
