// Vectors of float32 from and to arrays of float32 or bfloat16. Included once for every instruction set, from files
// that Highway's foreach_target.h compiles again and again.
#if defined(GRAFT_OPS_BFLOAT16_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GRAFT_OPS_BFLOAT16_INL_H
#undef GRAFT_OPS_BFLOAT16_INL_H
#else
#define GRAFT_OPS_BFLOAT16_INL_H
#endif

#include <hwy/highway.h>

#include "ops/bfloat16.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hn::TFromD<D>* from) {
  return hn::LoadU(d, from);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const BFloat16* from) {
  const hn::RebindToUnsigned<D> wide;
  const hn::Rebind<uint16_t, D> narrow;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(wide, hn::LoadU(narrow, &from->bits))));
}

// To nearest even; NaN stays NaN. Below 2^-126 it may give zero.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, D>> rounded_to_bfloat16([[maybe_unused]] D d, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> wide;
  const hn::RebindToSigned<D> integers;
  const hn::Rebind<uint16_t, D> narrow;
#if HWY_TARGET == HWY_AVX3 && GRAFT_ROUNDS_BFLOAT16
  if (HWY_LIKELY(rounds_bfloat16)) {
    hn::Vec<decltype(narrow)> low;
    asm("vcvtneps2bf16 %1, %0" : "=v"(low.raw) : "v"(x.raw));
    return low;
  }
#endif
  const auto bits = hn::BitCast(wide, x);
  const auto high = hn::ShiftRight<16>(bits);
  const auto half = hn::Add(hn::And(high, hn::Set(wide, 1)), hn::Set(wide, 0x7fff));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, half));
  const auto quiet = hn::Or(high, hn::Set(wide, 0x40));
  const auto chosen = hn::IfThenElse(hn::RebindMask(wide, hn::IsNaN(x)), quiet, rounded);
  return hn::DemoteTo(narrow, hn::BitCast(integers, chosen));
}

template <class D>
HWY_INLINE void store(hn::Vec<D> x, D d, hn::TFromD<D>* to) {
  hn::StoreU(x, d, to);
}
template <class D>
HWY_INLINE void store(hn::Vec<D> x, D d, BFloat16* to) {
  hn::StoreU(rounded_to_bfloat16(d, x), hn::Rebind<uint16_t, D>(), &to->bits);
}

// The same past the caches, for what is too large to be found there later: that saves reading the lines that are
// written. `to` is aligned to the vector; hwy::FlushStream() follows.
template <class D>
HWY_INLINE void stream(hn::Vec<D> x, D d, hn::TFromD<D>* to) {
  hn::Stream(x, d, to);
}
template <class D>
HWY_INLINE void stream(hn::Vec<D> x, D d, BFloat16* to) {
  hn::Stream(rounded_to_bfloat16(d, x), hn::Rebind<uint16_t, D>(), &to->bits);
}

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
