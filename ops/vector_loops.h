// float32 loops over contiguous storage, compiled for several instruction sets and chosen at run time.
#pragma once

#include <cstdint>
#include <string_view>

namespace graft {

// y[i] = f(x[i]; a, b); y may be x.
using UnaryLoop = void (*)(const float* x, float* y, int64_t n, float a, float b);
// dx[i] = dy[i] * f'(s[i]; a, b), where s is f's input or output, whichever the derivative is cheaper from.
using ActivationGradLoop = void (*)(const float* dy, const float* s, float* dx, int64_t n, float a, float b);

// By the ONNX operator's type ("Relu"), the private one's for gradients ("ReluGrad"); nullptr where there is none.
UnaryLoop unary_loop(std::string_view type);
ActivationGradLoop activation_grad_loop(std::string_view type);

}  // namespace graft
