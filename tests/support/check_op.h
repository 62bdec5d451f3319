// One call checks an operator, written in ONNX text:
//
//   check_op("(float[3,5] x) => (y) { y = Softmax<axis = 1>(x) }");
//
//   1. forward in float32 and float64 against the onnx reference implementation (onnxruntime where that has a gap);
//   2. the gradient in float64 against central differences;
//   3. the gradient in float32 against float64;
//   4. for a single node: the same results in other layouts (check_layout).
// Gradients are taken for every floating-point input of the text; what should not be varied goes between <> as a
// constant. Inputs that are not given are random.
#pragma once

#include <map>
#include <set>
#include <string>

#include "graph/layout.h"
#include "tests/support/reference.h"

namespace graft::test {

using Feeds = std::map<std::string, Tensor>;

struct OpCheck {
  std::map<std::string, std::pair<double, double>> ranges =
      {};                            // of random inputs; {-2, 2} for floats, {0, 3} for integers
  bool forward = true;               // false: private operators, random ones
  bool gradient = true;              // false: for operators without a rule
  double tolerance = 1e-5;           // |y - ref| <= tolerance * max(1, |ref|)
  double gradient_tolerance = 1e-6;  // ||g - ref|| <= tolerance * max(||ref||, 1e-3 * global norm)
  double gradient_tolerance_f32 = 1e-4;
  std::set<std::string> fixed = {};  // floating-point inputs whose gradient is not asked for
  Oracle oracle = Oracle::reference;
};

void check_op(const std::string& text, const Feeds& feeds = {}, const OpCheck& check = {});

// Runs the text's only node with its first input (or `operand`) in `layout`, in the layouts that its kernel then
// proposes first, and expects the results of the plain kernel, with zero padding. Fails where the proposal is plain.
//   tag: "nChw16c", "nChw8c", "nhwc"; "any": whatever the kernel likes best when its operands are plain
void check_layout(const std::string& text, const std::string& tag, size_t operand = 0, const Feeds& feeds = {},
                  double tolerance = 1e-6);

// Runs the text's only node with operands and results in bfloat16 as its Op::mixed_precision has it, and expects what
// float32 gives on the same operands; results that may be either are checked as both. Layouts as in check_layout.
void check_mixed(const std::string& text, const std::string& tag = "any", size_t operand = 0, const Feeds& feeds = {},
                 double tolerance = 1e-2);

// Runs the text's only node, in float32 or with what mixed precision makes bfloat16, in all layouts that its kernel
// proposes, by each kernel that can be chosen there, and expects what float32 gives in plain layouts. The names of
// these kernels.
std::set<std::string> check_choices(const std::string& text, DType dtype, double tolerance);

// Outputs of a text of float32, and gradients of the inputs that are not `fixed` from a random one of the first output,
// with what mix_precision makes bfloat16 of and without: ||g - ref|| <= tolerance * max(||ref||, 1e-3 * largest norm).
// Inputs that are not given are random, 0.3 to 2.
void check_mixed_gradients(const std::string& text, const Feeds& feeds, const std::set<std::string>& fixed,
                           double tolerance);

// The layout that a tag names, for dims of its rank.
Layout layout_of_tag(const std::string& tag, const Dims& dims);

// What an input that is not given holds: floats are rounded to float32, so that both precisions see one value.
Tensor random_feed(DType dtype, const Dims& dims, double low, double high, unsigned seed);

// Expects equal dtype, dims and, within tolerance * max(1, |expected|), values; NaN equals NaN.
void expect_close(const Tensor& got, const Tensor& expected, double tolerance, const std::string& what);

}  // namespace graft::test
