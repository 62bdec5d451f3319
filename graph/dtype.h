// Element types, and checked arithmetic on sizes that come from untrusted files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "graph/error.h"

namespace graft {

enum class DType : uint8_t { undefined, f32, f64, f16, bf16, i8, u8, i16, u16, i32, u32, i64, u64, boolean, string };

std::string_view name_of(DType dtype);  // as ONNX text syntax spells it: "float", "int64", ...
size_t size_of(DType dtype);            // bytes an element; 0 for undefined and string
bool is_float(DType dtype);             // f32, f64, f16, bf16
int64_t onnx_dtype(DType dtype);        // TensorProto.DataType: the `to` of Cast
inline std::ostream& operator<<(std::ostream& out, DType dtype) { return out << name_of(dtype); }

// Bits of a bfloat16 number, with a type of their own.
struct BFloat16 {
  uint16_t bits = 0;
};

template <class T>
constexpr DType dtype_of();
// clang-format off
template <> constexpr DType dtype_of<float>() { return DType::f32; }
template <> constexpr DType dtype_of<double>() { return DType::f64; }
template <> constexpr DType dtype_of<int8_t>() { return DType::i8; }
template <> constexpr DType dtype_of<uint8_t>() { return DType::u8; }
template <> constexpr DType dtype_of<int16_t>() { return DType::i16; }
template <> constexpr DType dtype_of<uint16_t>() { return DType::u16; }
template <> constexpr DType dtype_of<int32_t>() { return DType::i32; }
template <> constexpr DType dtype_of<uint32_t>() { return DType::u32; }
template <> constexpr DType dtype_of<int64_t>() { return DType::i64; }
template <> constexpr DType dtype_of<uint64_t>() { return DType::u64; }
template <> constexpr DType dtype_of<bool>() { return DType::boolean; }
template <> constexpr DType dtype_of<BFloat16>() { return DType::bf16; }
// clang-format on

// Calls f(T{}) with the C++ type of a native dtype; false where there is none (f16, bf16, string, undefined).
template <class F>
bool visit_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: f(float{}); return true;
    case DType::f64: f(double{}); return true;
    case DType::i8: f(int8_t{}); return true;
    case DType::u8: f(uint8_t{}); return true;
    case DType::i16: f(int16_t{}); return true;
    case DType::u16: f(uint16_t{}); return true;
    case DType::i32: f(int32_t{}); return true;
    case DType::u32: f(uint32_t{}); return true;
    case DType::i64: f(int64_t{}); return true;
    case DType::u64: f(uint64_t{}); return true;
    case DType::boolean: f(bool{}); return true;
    default: return false;
  }
}

// Products and sums of sizes; ModelError where the result does not fit in int64.
int64_t checked_mul(int64_t a, int64_t b);
int64_t checked_add(int64_t a, int64_t b);
// Number of elements; 1 for a scalar. ModelError for a negative dim or an overflow.
int64_t element_count(const Dims& dims);
// Number of bytes of a dense tensor. ModelError on overflow.
int64_t byte_count(DType dtype, const Dims& dims);

}  // namespace graft
