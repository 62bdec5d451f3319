#include "graph/tensor.h"

#include <bit>
#include <cmath>
#include <new>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace graft {
namespace {

thread_local int64_t allocations = 0;

// Kernels walk over many streams at a time, and small pages are more than the processor can translate at hand.
constexpr size_t huge_page = size_t{1} << 21;

}  // namespace

int64_t allocation_count() { return allocations; }

std::shared_ptr<std::byte[]> allocate_bytes(int64_t bytes, bool zero) {
  ++allocations;
  auto size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  const bool huge = bytes >= worth_huge_pages;
  const std::align_val_t alignment{huge ? huge_page : 64};
  auto* memory = static_cast<std::byte*>(::operator new[](size, alignment, std::nothrow));
  if (!memory) throw DeviceError("out of memory: ", bytes, " bytes wanted");
#ifdef MADV_HUGEPAGE
  // Whole pages only: what lies behind the last one is not ours alone. Where the system refuses, pages are small.
  if (huge) madvise(memory, size / huge_page * huge_page, MADV_HUGEPAGE);
#endif
  if (zero) std::memset(memory, 0, size);
  return {memory, [alignment](std::byte* p) { ::operator delete[](p, alignment); }};
}

Tensor::Tensor(DType dtype, Dims dims) : dtype_(dtype), dims_(std::move(dims)), count_(element_count(dims_)) {
  data_ = allocate_bytes(byte_count(dtype, dims_), true);
}

Tensor Tensor::uninitialized(DType dtype, Dims dims) {
  Tensor t;
  t.dtype_ = dtype;
  t.dims_ = std::move(dims);
  t.count_ = element_count(t.dims_);
  t.data_ = allocate_bytes(byte_count(dtype, t.dims_), false);
  return t;
}

Tensor Tensor::clone() const {
  if (!defined()) return {};
  Tensor t = uninitialized(dtype_, dims_);
  std::memcpy(t.raw(), raw(), static_cast<size_t>(bytes()));
  return t;
}

Tensor Tensor::reshaped(Dims dims) const {
  if (element_count(dims) != count_) throw ModelError("shape ", dims_, " cannot be seen as ", dims);
  Tensor t = *this;
  t.dims_ = std::move(dims);
  return t;
}

uint16_t to_f16(float x) {
  auto bits = std::bit_cast<uint32_t>(x);
  auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  float magnitude = std::fabs(x);
  if (std::isnan(x)) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 65520.0F) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 6.103515625e-05F) {  // subnormal: multiples of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(magnitude * 16777216.0F)));
  }
  uint32_t m = std::bit_cast<uint32_t>(magnitude);
  m += 0xfff + ((m >> 13) & 1);
  return static_cast<uint16_t>(sign | ((m - 0x38000000) >> 13));
}

float from_f16(uint16_t x) {
  uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16;
  uint32_t exponent = (x >> 10) & 0x1f;
  uint32_t fraction = x & 0x3ff;
  if (exponent == 0)
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(fraction) / 16777216.0F));
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | (fraction << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

namespace {

using HalfReader = float (*)(uint16_t);
using HalfWriter = uint16_t (*)(float);
bool is_half(DType d) { return d == DType::f16 || d == DType::bf16; }

Tensor half_to_float(const Tensor& in) {
  Tensor out = Tensor::uninitialized(DType::f32, in.dims());
  HalfReader read = in.dtype() == DType::f16 ? from_f16 : from_bf16;
  const auto* src = static_cast<const uint16_t*>(in.raw());
  auto* dst = out.data<float>();
  for (int64_t i = 0; i < in.count(); ++i) dst[i] = read(src[i]);
  return out;
}

Tensor float_to_half(const Tensor& in, DType dtype) {
  Tensor out = Tensor::uninitialized(dtype, in.dims());
  HalfWriter write = dtype == DType::f16 ? to_f16 : to_bf16;
  auto* dst = static_cast<uint16_t*>(out.raw());
  const auto* src = in.data<float>();
  for (int64_t i = 0; i < in.count(); ++i) dst[i] = write(src[i]);
  return out;
}

}  // namespace

Tensor Tensor::cast(DType dtype) const {
  if (dtype == dtype_) return *this;
  if (is_half(dtype_)) return half_to_float(*this).cast(dtype);
  if (is_half(dtype)) return float_to_half(cast(DType::f32), dtype);
  Tensor out = uninitialized(dtype, dims_);
  bool known = false;
  visit_dtype(dtype_, [&](auto from) {
    using From = decltype(from);
    known = visit_dtype(dtype, [&](auto to) {
      using To = decltype(to);
      const From* src = data<From>();
      To* dst = out.data<To>();
      for (int64_t i = 0; i < count_; ++i) dst[i] = static_cast<To>(src[i]);
    });
  });
  if (!known) throw UnsupportedError("no conversion from ", dtype_, " to ", dtype);
  return out;
}

std::vector<int64_t> Tensor::to_int64() const {
  if (is_float(dtype_) || !size_of(dtype_))
    throw ModelError("expected an integer tensor, got ", dtype_, " of shape ", dims_);
  Tensor wide = cast(DType::i64);
  auto span = wide.values<int64_t>();
  return {span.begin(), span.end()};
}

}  // namespace graft
