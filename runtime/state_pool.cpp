#include "runtime/state_pool.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <mutex>

#include "graph/tensor.h"

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace graft {
namespace {

constexpr int64_t chunk_bytes = int64_t{32} << 20, line = 64, huge_page = int64_t{2} << 20;

// Whole huge pages go back to the system; what they held is lost.
void return_pages([[maybe_unused]] std::byte* chunk, [[maybe_unused]] int64_t first, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_DONTNEED
  const int64_t begin = (first + huge_page - 1) / huge_page * huge_page, end = (first + bytes) / huge_page * huge_page;
  if (begin < end) madvise(chunk + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
#endif
}

}  // namespace

class StatePool::Chunks {
 public:
  struct Chunk {
    std::shared_ptr<std::byte[]> memory;
    std::map<int64_t, int64_t> gaps;  // first byte -> bytes; no two touch
  };
  using Place = std::list<Chunk>::iterator;

  // `bytes` of the first gap that holds them: chunk, offset.
  std::pair<Place, int64_t> take(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    for (Place chunk = chunks_.begin(); chunk != chunks_.end(); ++chunk) {
      for (const auto& [first, length] : chunk->gaps) {
        if (length >= bytes) return {chunk, cut(*chunk, first, bytes)};
      }
    }
    chunks_.push_back({allocate_bytes(chunk_bytes, false), {{0, chunk_bytes}}});
    const Place last = std::prev(chunks_.end());
    return {last, cut(*last, 0, bytes)};
  }

  void give_back(Place chunk, int64_t first, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    auto& gaps = chunk->gaps;
    auto behind = gaps.lower_bound(first);
    if (behind != gaps.end() && behind->first == first + bytes) {
      bytes += behind->second;
      behind = gaps.erase(behind);
    }
    if (behind != gaps.begin()) {
      const auto before = std::prev(behind);
      if (before->first + before->second == first) {
        first = before->first;
        bytes += before->second;
        gaps.erase(before);
      }
    }
    if (bytes == chunk_bytes) {
      chunks_.erase(chunk);
    } else {
      gaps.emplace(first, bytes);
      return_pages(chunk->memory.get(), first, bytes);
    }
  }

 private:
  static int64_t cut(Chunk& chunk, int64_t first, int64_t bytes) {
    const auto gap = chunk.gaps.find(first);
    const int64_t length = gap->second;
    chunk.gaps.erase(gap);
    if (length > bytes) chunk.gaps.emplace(first + bytes, length - bytes);
    return first;
  }

  std::mutex mutex_;
  std::list<Chunk> chunks_;
};

StatePool::StatePool() : chunks_(std::make_shared<Chunks>()) {}

bool StatePool::shares_pages(int64_t bytes) { return bytes < worth_huge_pages; }

std::shared_ptr<std::byte[]> StatePool::take(int64_t bytes, bool zero) {
  if (!shares_pages(bytes)) return allocate_bytes(bytes, zero);
  const int64_t taken = std::max(bytes + line - 1, line) / line * line;
  const auto [chunk, first] = chunks_->take(taken);
  std::byte* memory = chunk->memory.get() + first;
  if (zero) std::memset(memory, 0, static_cast<size_t>(bytes));
  return {memory, [chunks = chunks_, chunk = chunk, first = first, taken](std::byte*) {
            chunks->give_back(chunk, first, taken);
          }};
}

}  // namespace graft
