#include "ops/indices.h"

#include <algorithm>
#include <atomic>

namespace graft {
namespace {

// The first position whose index is out of range; count where there is none. Kernels throw from one thread only.
template <class Index>
int64_t resolve_all(const Index* indices, int64_t count, int64_t extent, int64_t* rows) {
  std::atomic<int64_t> first_bad{count};
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    int64_t bad = count;
    for (int64_t k = end; k-- > begin;) {
      auto row = static_cast<int64_t>(indices[k]);
      if (row < -extent || row >= extent) bad = k;
      rows[k] = row < 0 ? row + extent : row;
    }
    int64_t known = first_bad;
    while (bad < known && !first_bad.compare_exchange_weak(known, bad)) {
    }
  });
  return first_bad;
}

}  // namespace

Indices::Indices(const Node& node, size_t i)
    : where_(node.where()), count_(node.inputs[i]->count()), narrow_(node.inputs[i]->dtype == DType::i32) {
  DType dtype = node.inputs[i]->dtype;
  if (dtype != DType::i64 && dtype != DType::i32)
    throw ModelError(where_, " has indices of ", dtype, ": allowed are int64 and int32");
}

void Indices::resolve(const void* indices, int64_t extent, int64_t* rows) const {
  int64_t bad = narrow_ ? resolve_all(static_cast<const int32_t*>(indices), count_, extent, rows)
                        : resolve_all(static_cast<const int64_t*>(indices), count_, extent, rows);
  if (bad == count_) return;
  int64_t index = narrow_ ? static_cast<const int32_t*>(indices)[bad] : static_cast<const int64_t*>(indices)[bad];
  throw DataError(where_, " index ", index, " at position ", bad, " is out of range: allowed ", -extent, " to ",
                  extent - 1);
}

}  // namespace graft
