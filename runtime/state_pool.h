// Memory for states: small ones lie side by side in huge pages, as the large ones do anyway.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace graft {

// An optimiser's pass walks over several states at a time. In small pages, which are all that allocate_bytes gives to a
// state below worth_huge_pages, the processor's prefetchers stop at every page and its table of pages overflows.
class StatePool {
 public:
  StatePool();

  // 64-byte aligned. The memory returns to the pool with its last owner, who may outlive the pool. DeviceError when
  // memory runs out.
  std::shared_ptr<std::byte[]> take(int64_t bytes, bool zero);

  // Whether states of this size share pages with others.
  static bool shares_pages(int64_t bytes);

 private:
  class Chunks;
  std::shared_ptr<Chunks> chunks_;
};

}  // namespace graft
