// Elements of bfloat16 beside float32 and float64 in code that is written for a type of elements: what it computes with
// is their wide form.
#pragma once

#include <type_traits>

#include "graph/tensor.h"

namespace graft {

template <class S>
using Widened = std::conditional_t<std::is_same_v<S, BFloat16>, float, S>;

inline float widened(BFloat16 x) { return from_bf16(x.bits); }
inline float widened(float x) { return x; }
inline double widened(double x) { return x; }

// Rounds to nearest even; NaN stays NaN.
template <class S>
S narrowed(Widened<S> x) {
  if constexpr (std::is_same_v<S, BFloat16>) return {to_bf16(x)};
  else return x;
}

// Whether the machine has an instruction for it, which this version of Highway has no target for. Vectors of it then
// cost a third.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GRAFT_ROUNDS_BFLOAT16 1
inline const bool rounds_bfloat16 = __builtin_cpu_supports("avx512bf16") != 0;
#endif

}  // namespace graft
