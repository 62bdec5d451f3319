#include "graph/dtype.h"

#include <algorithm>
#include <array>

namespace graft {
namespace {

struct Row {
  std::string_view name;
  size_t size;
};
// clang-format off
constexpr std::array<Row, 15> rows{{{"undefined", 0}, {"float", 4},  {"double", 8}, {"float16", 2}, {"bfloat16", 2},
                                    {"int8", 1},      {"uint8", 1},  {"int16", 2},  {"uint16", 2},  {"int32", 4},
                                    {"uint32", 4},    {"int64", 8},  {"uint64", 8}, {"bool", 1},    {"string", 0}}};
// clang-format on

}  // namespace

std::string_view name_of(DType dtype) { return rows[static_cast<size_t>(dtype)].name; }
size_t size_of(DType dtype) { return rows[static_cast<size_t>(dtype)].size; }
bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::f16 || dtype == DType::bf16;
}

int64_t onnx_dtype(DType dtype) {
  constexpr std::array<int64_t, 15> codes{0, 1, 11, 10, 16, 3, 2, 5, 4, 6, 12, 7, 13, 9, 8};
  return codes[static_cast<size_t>(dtype)];
}

int64_t checked_mul(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) throw ModelError("size ", a, " x ", b, " does not fit in 64 bits");
  return result;
}

int64_t checked_add(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_add_overflow(a, b, &result)) throw ModelError("size ", a, " + ", b, " does not fit in 64 bits");
  return result;
}

int64_t element_count(const Dims& dims) {
  int64_t count = 1;
  bool empty = false;
  for (int64_t d : dims) {
    if (d < 0) throw ModelError("negative dimension in shape ", dims);
    if (d == 0) empty = true;
    // A zero beside huge dims is legal, the product of the others must fit all the same: strides are computed from it.
    else if (__builtin_mul_overflow(count, d, &count)) throw ModelError("shape ", dims, " has more than 2^63 elements");
  }
  return empty ? 0 : count;
}

int64_t byte_count(DType dtype, const Dims& dims) {
  return checked_mul(element_count(dims), static_cast<int64_t>(std::max<size_t>(size_of(dtype), 1)));
}

}  // namespace graft
