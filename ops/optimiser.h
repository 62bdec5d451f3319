// What the optimiser steps share. A step is one node for each parameter:
//   (w, g, scale, lr, step, moments...) -> (w', moments'...)
// g is the gradient of the loss sum and `scale` normalises it (1/weight, times a clip factor); `step` counts from 1.
// Steps run over storage as it lies, all in the layout of g or, where another reader has settled it, of w: mostly
// parameters live in their gradient's layout. Padding stays zero: there w, g and the moments are.
#pragma once

#include "ops/moments.h"

namespace graft {

// Sets the results' types after checking the operands; moments that are absent give absent results.
void infer_step(Node& node);
// The same with a gradient of other dims than the parameter's, and of the first `operands` only.
void infer_step(Node& node, const Dims& gradient, size_t operands);
std::vector<Candidate> propose_step(const Node& node);
Settlement settle_step(const Node& node, const Settlement* forward);

// For Moments::run, where threads share out elements.
inline int64_t element_itself(int64_t element) { return element; }

// Values that may change from step to step, read when the kernel runs.
struct StepScalars {
  double scale = 0;
  double lr = 0;
  int64_t step = 0;
};

template <class T>
class ScalarOperands {
 public:
  explicit ScalarOperands(const Binding& b) : scale_(b.in<T>(2)), lr_(b.in<T>(3)), step_(b.in<int64_t>(4)) {}
  StepScalars read() const { return {static_cast<double>(*scale_), static_cast<double>(*lr_), *step_}; }

 private:
  const T *scale_, *lr_;
  const int64_t* step_;
};

}  // namespace graft
