// A dense host tensor in row-major order. Copies share the bytes.
#pragma once

#include <bit>
#include <cstring>
#include <memory>
#include <span>

#include "graph/dtype.h"

namespace graft {

class Tensor {
 public:
  Tensor() = default;
  // Zeroed, 64-byte aligned. DeviceError when memory runs out.
  Tensor(DType dtype, Dims dims);
  // Uninitialised: for bytes that are written at once.
  static Tensor uninitialized(DType dtype, Dims dims);

  template <class T>
  static Tensor of(Dims dims, const std::vector<T>& values) {
    Tensor t = uninitialized(dtype_of<T>(), std::move(dims));
    if (static_cast<int64_t>(values.size()) != t.count())
      throw UsageError("tensor of ", t.dims(), " wants ", t.count(), " values, got ", values.size());
    T* out = t.data<T>();
    for (size_t i = 0; i < values.size(); ++i) out[i] = values[i];
    return t;
  }
  template <class T>
  static Tensor scalar(T value) {
    return of<T>({}, {value});
  }

  DType dtype() const { return dtype_; }
  const Dims& dims() const { return dims_; }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(size_of(dtype_)); }
  bool defined() const { return dtype_ != DType::undefined; }

  void* raw() { return data_.get(); }
  const void* raw() const { return data_.get(); }
  template <class T>
  T* data() {
    check(dtype_of<T>());
    return reinterpret_cast<T*>(data_.get());
  }
  template <class T>
  const T* data() const {
    check(dtype_of<T>());
    return reinterpret_cast<const T*>(data_.get());
  }
  template <class T>
  std::span<const T> values() const {
    return {data<T>(), static_cast<size_t>(count_)};
  }

  // Who else holds these bytes, and the bytes themselves: for owners that take a tensor over.
  long use_count() const { return data_.use_count(); }
  const std::shared_ptr<std::byte[]>& share_bytes() const { return data_; }

  Tensor clone() const;
  // Same bytes under another shape of equal element count.
  Tensor reshaped(Dims dims) const;
  // Elements converted as a C++ cast does; f16 and bf16 are rounded to nearest even.
  Tensor cast(DType dtype) const;
  // All elements of an integer tensor (any width) as int64. ModelError for another dtype.
  std::vector<int64_t> to_int64() const;

 private:
  void check(DType wanted) const {
    if (dtype_ != wanted) throw UsageError("tensor of ", dtype_, " read as ", wanted);
  }
  DType dtype_ = DType::undefined;
  Dims dims_;
  int64_t count_ = 0;
  std::shared_ptr<std::byte[]> data_;
};

// 64-byte aligned storage for tensors, arenas and slots; in huge pages from `worth_huge_pages` on. DeviceError when
// memory runs out.
constexpr int64_t worth_huge_pages = int64_t{4} << 20;
std::shared_ptr<std::byte[]> allocate_bytes(int64_t bytes, bool zero);
// How often this thread has called allocate_bytes: steady steps must not.
int64_t allocation_count();

// bf16 and f16 bit patterns, round to nearest even; NaN stays NaN.
inline uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t high = bits >> 16;
  return static_cast<uint16_t>(x != x ? high | 0x40 : (bits + 0x7fff + (high & 1)) >> 16);
}
inline float from_bf16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }
uint16_t to_f16(float x);
float from_f16(uint16_t x);

}  // namespace graft
