#include "runtime/cache_model.h"

namespace graft {

bool CacheModel::touch(const void* key, int64_t bytes, std::vector<const void*>& evicted) {
  bool was_there = places_.count(key) != 0;
  drop(key);
  while (room_ < bytes && !entries_.empty()) {
    evicted.push_back(entries_.back().key);
    drop(entries_.back().key);
  }
  if (bytes > capacity_) {
    evicted.push_back(key);
    return false;
  }
  entries_.push_front({key, bytes});
  places_[key] = entries_.begin();
  room_ -= bytes;
  return was_there;
}

void CacheModel::drop(const void* key) {
  auto place = places_.find(key);
  if (place == places_.end()) return;
  room_ += place->second->bytes;
  entries_.erase(place->second);
  places_.erase(place);
}

}  // namespace graft
