// exp(x) for x <= 0, as softmax and the normal distribution want it. Included once per instruction set.
#if defined(GRAFT_OPS_EXP_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GRAFT_OPS_EXP_INL_H
#undef GRAFT_OPS_EXP_INL_H
#else
#define GRAFT_OPS_EXP_INL_H
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 2^n 2^f, n the nearest integer to x log2(e), 2^f by a minimax fit with 2^0 = 1. Relative error below 3e-7 down to -10
// and 1.4e-6 down to -87; 0 where the result would have no full precision. NaN stays.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_nonpositive(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V log2e = hn::Set(d, 1.44269504F);
  const V magic = hn::Set(d, 12582912.0F);  // 1.5 * 2^23: the sum has the integer in its last bits
  const V shifted = hn::MulAdd(x, log2e, magic);
  const V n = hn::Sub(shifted, magic);
  const V f = hn::MulSub(x, log2e, n);
  V y = hn::Set(d, 0.00132647273F);
  y = hn::MulAdd(y, f, hn::Set(d, 0.00967151299F));
  y = hn::MulAdd(y, f, hn::Set(d, 0.0555073358F));
  y = hn::MulAdd(y, f, hn::Set(d, 0.240222424F));
  y = hn::MulAdd(y, f, hn::Set(d, 0.693147004F));
  y = hn::MulAdd(y, f, hn::Set(d, 1.0F));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  const V scaled = hn::BitCast(d, hn::Add(hn::BitCast(di, y), exponent));
  return hn::IfThenZeroElse(hn::Lt(n, hn::Set(d, -126.0F)), scaled);
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per target
