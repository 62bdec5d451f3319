// Activations behind a normalisation, as vectors; see ops/normalization_loops.h. Included once per instruction set.
#if defined(GRAFT_OPS_EPILOGUE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GRAFT_OPS_EPILOGUE_INL_H
#undef GRAFT_OPS_EPILOGUE_INL_H
#else
#define GRAFT_OPS_EPILOGUE_INL_H
#endif

#include <hwy/highway.h>

#include "ops/bfloat16-inl.h"
#include "ops/normalization_loops.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A t that is NaN stays so, and a `high` that is NaN does not limit.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V clamp(V t, V low, V high) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR  // whose minimum and maximum are the second operand where one is NaN
  return hn::Min(high, hn::Max(low, t));
#else
  V raised = hn::IfThenElse(hn::Lt(t, low), low, t);
  return hn::IfThenElse(hn::Gt(raised, high), high, raised);
#endif
}

template <class V>
HWY_INLINE auto is_inside(V t, V low, V high) {
  return hn::And(hn::Gt(t, low), hn::Not(hn::Ge(t, high)));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V hard_sigmoid(D d, V inner) {
  return clamp<D>(inner, hn::Zero(d), hn::Set(d, 1));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V hard_swish(D d, V t) {
  using T = hn::TFromD<D>;
  return hn::Mul(t, hard_sigmoid(d, hn::MulAdd(t, hn::Set(d, static_cast<T>(1.0 / 6)), hn::Set(d, T(0.5)))));
}

// t = f(t + beside[at..]), for what holds the type of beside's elements (load of bfloat16-inl.h, or float).
template <class D, class S, class V = hn::Vec<D>>
HWY_INLINE V finished(D d, V t, const Finish<S>& finish, int64_t at) {
  if (finish.beside) t = hn::Add(t, load(d, finish.beside + at));
  if (finish.epilogue == Epilogue::clamp) return clamp<D>(t, hn::Set(d, finish.low), hn::Set(d, finish.high));
  return finish.epilogue == Epilogue::hard_swish ? hard_swish(d, t) : t;
}

// dt = dy (h + t/6 inside), h the hard sigmoid
template <class D, class V = hn::Vec<D>>
HWY_INLINE V hard_swish_grad(D d, V dy, V t) {
  using T = hn::TFromD<D>;
  V sixth = hn::Set(d, static_cast<T>(1.0 / 6));
  V inner = hn::MulAdd(t, sixth, hn::Set(d, T(0.5)));
  auto inside = hn::And(hn::Gt(inner, hn::Zero(d)), hn::Lt(inner, hn::Set(d, T(1))));
  return hn::MulAdd(dy, hard_sigmoid(d, inner), hn::IfThenElseZero(inside, hn::Mul(hn::Mul(sixth, t), dy)));
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per target
