// A cache that holds whole values and forgets the one that was used longest ago.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

namespace graft {

class CacheModel {
 public:
  explicit CacheModel(int64_t capacity) : room_(capacity), capacity_(capacity) {}

  // Whether `key` was there. It is the latest now; what gave way, `key` itself where it is larger than the cache, is
  // added to `evicted`.
  bool touch(const void* key, int64_t bytes, std::vector<const void*>& evicted);
  // Nobody wants it any more: its room is free.
  void drop(const void* key);

 private:
  struct Entry {
    const void* key;
    int64_t bytes;
  };
  int64_t room_;
  int64_t capacity_;
  std::list<Entry> entries_;  // the latest first
  std::unordered_map<const void*, std::list<Entry>::iterator> places_;
};

}  // namespace graft
