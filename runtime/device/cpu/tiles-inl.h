// The CPU's matrix tiles (AMX): eight registers of 16 rows, 64 bytes each. Included once for every instruction set,
// from files that Highway's foreach_target.h compiles again and again and that leave HWY_AVX3_DL out; only the one that
// defines GRAFT_TILES has them: functions that use them are marked with it.
#if defined(GRAFT_RUNTIME_DEVICE_CPU_TILES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef GRAFT_RUNTIME_DEVICE_CPU_TILES_INL_H
#undef GRAFT_RUNTIME_DEVICE_CPU_TILES_INL_H
#else
#define GRAFT_RUNTIME_DEVICE_CPU_TILES_INL_H
#endif

#include <hwy/highway.h>

#include <cstdint>

#undef GRAFT_TILES
#if HWY_TARGET == HWY_AVX3 && HWY_ARCH_X86_64
#include <immintrin.h>
#define GRAFT_TILES __attribute__((target("amx-tile,amx-bf16")))
#endif

HWY_BEFORE_NAMESPACE();
namespace graft::HWY_NAMESPACE {

#ifdef GRAFT_TILES

// As the instruction that configures them reads it.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, unused[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#endif

}  // namespace graft::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
