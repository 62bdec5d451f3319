// The same elements under another shape: no kernel runs, the result is a view.
#include "ops/gradient.h"

namespace graft {
namespace {

Vals reshape_rule(Gradient& g) {
  Vals gradients(g.input_count());
  gradients[0] = reshape(g.dy(0), g.x(0).dims());
  return gradients;
}

Vals identity_rule(Gradient& g) { return {g.dy(0)}; }

}  // namespace

std::vector<Op> reshape_ops() {
  std::vector<Op> ops;
  for (const char* type : {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}) {
    ops.push_back({.type = type,
                   .cpu = {{DTypes::any, view_kernel()}},
                   .differentiate = reshape_rule,
                   .mixed_precision = moves_elements});
  }
  KernelFunctions identity = view_kernel();
  identity.propose = propose_elementwise;
  ops.push_back({.type = "Identity",
                 .cpu = {{DTypes::any, identity}},
                 .differentiate = identity_rule,
                 .mixed_precision = moves_elements});
  return ops;
}

}  // namespace graft
