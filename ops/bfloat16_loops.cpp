#include "ops/bfloat16_loops.h"

// Compiled once for every instruction set.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/bfloat16_loops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/bfloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

template <class From, class To>
HWY_INLINE void convert_all(const From* from, To* to, int64_t count) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(load(d, from + i), d, to + i);
  for (; i < count; ++i) store(load(one, from + i), one, to + i);
}

void floats_from_bfloat16(const BFloat16* from, float* to, int64_t count) { convert_all(from, to, count); }
void bfloat16_from_floats(const float* from, BFloat16* to, int64_t count) { convert_all(from, to, count); }

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace graft {

HWY_EXPORT(floats_from_bfloat16);
HWY_EXPORT(bfloat16_from_floats);

void to_float(const BFloat16* from, float* to, int64_t count) {
  HWY_DYNAMIC_DISPATCH(floats_from_bfloat16)(from, to, count);
}
void to_bfloat16(const float* from, BFloat16* to, int64_t count) {
  HWY_DYNAMIC_DISPATCH(bfloat16_from_floats)(from, to, count);
}

}  // namespace graft
#endif  // HWY_ONCE
