// Threads of a block as fibres on one operating-system thread. A fibre runs until it waits or ends. A warp's operation
// is done when all lanes of its mask have come; when no warp can go on, the barrier of the block opens, and where not
// all threads wait at it, the kernel is wrong.
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <vector>

#include "graph/error.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace cuda_on_cpu {
namespace {

using graft::DeviceError;

constexpr size_t stack_bytes = 256 * 1024;  // only the pages that are touched count
constexpr size_t exchange_bytes = 8;

enum class State : uint8_t { ready, at_block, at_warp, ended };

struct Fiber {
  ucontext_t context{};
  std::unique_ptr<std::byte[]> stack;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  void* sanitizer = nullptr;

  State state = State::ready;
  dim3 thread;
  Location where;     // of the barrier or warp operation it waits at
  unsigned mask = 0;  // lanes that take part, and the one it reads from
  int from = 0;
  std::byte given[exchange_bytes]{};
  std::byte taken[exchange_bytes]{};
};

bool same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

std::string text(const Fiber& fiber) {
  std::string thread = graft::cat("thread (", fiber.thread.x, ",", fiber.thread.y, ",", fiber.thread.z, ")");
  if (fiber.state == State::ended) return thread + " has ended";
  const char* what = fiber.state == State::at_block ? "__syncthreads" : "a warp operation";
  return graft::cat(thread, " waits in ", what, " at ", fiber.where.file_name(), ":", fiber.where.line());
}

class Block {
 public:
  Block(dim3 size, const std::function<void()>& kernel);
  ~Block();
  void run(dim3 index);
  Fiber& current() { return *fibers_[running_]; }
  int lane() const { return static_cast<int>(running_ % warpSize); }
  void wait(State state, const Location& where);

 private:
  static void enter();
  void run_warps();
  void run_ready(size_t first, size_t count);
  bool open_warp(size_t first, size_t count);
  bool open_block();
  [[noreturn]] void fail() const;

  dim3 size_;
  const std::function<void()>& kernel_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber main_;
  size_t running_ = 0;
  std::exception_ptr failure_;
};

thread_local Block* block = nullptr;

// Sanitizers have to be told which stack runs.
void switch_fiber(Fiber& from, Fiber& to, bool ends) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.sanitizer, to.stack_bottom, to.stack_size);
#elif defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.sanitizer, 0);
#endif
  static_cast<void>(ends);
  swapcontext(&from.context, &to.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

Block::Block(dim3 size, const std::function<void()>& kernel) : size_(size), kernel_(kernel) {
  for (size_t i = 0; i < size.count(); ++i) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique_for_overwrite<std::byte[]>(stack_bytes);
    fiber->stack_bottom = fiber->stack.get();
    fiber->stack_size = stack_bytes;
    auto index = static_cast<unsigned>(i);
    fiber->thread = {index % size.x, index / size.x % size.y, index / size.x / size.y};
#if defined(__SANITIZE_THREAD__)
    fiber->sanitizer = __tsan_create_fiber(0);
#endif
    fibers_.push_back(std::move(fiber));
  }
#if defined(__SANITIZE_THREAD__)
  main_.sanitizer = __tsan_get_current_fiber();
#endif
  block = this;
}

Block::~Block() {
  block = nullptr;
#if defined(__SANITIZE_THREAD__)
  for (const auto& fiber : fibers_) __tsan_destroy_fiber(fiber->sanitizer);
#endif
}

void Block::enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block->main_.stack_bottom, &block->main_.stack_size);
#endif
  try {
    block->kernel_();
  } catch (...) {
    block->failure_ = std::current_exception();
  }
  block->current().state = State::ended;
  switch_fiber(block->current(), block->main_, true);
}

void Block::run(dim3 index) {
  blockIdx = index;
  for (const auto& fiber : fibers_) {
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = stack_bytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, &Block::enter, 0);
    fiber->state = State::ready;
  }
  auto ended = [](const auto& fiber) { return fiber->state == State::ended; };
  while (true) {
    run_warps();
    if (failure_) std::rethrow_exception(failure_);
    if (std::all_of(fibers_.begin(), fibers_.end(), ended)) return;
    if (!open_block()) fail();
  }
}

// Each warp in turn runs as far as it can, which shows what a missing barrier between warps allows.
void Block::run_warps() {
  size_t warps = (fibers_.size() + warpSize - 1) / warpSize;
  for (size_t w = 0; w < warps; ++w) {
    size_t first = (order == Order::forward ? w : warps - 1 - w) * warpSize;
    size_t count = std::min<size_t>(warpSize, fibers_.size() - first);
    do {
      run_ready(first, count);
    } while (!failure_ && open_warp(first, count));
  }
}

void Block::run_ready(size_t first, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    running_ = first + (order == Order::forward ? i : count - 1 - i);
    if (current().state != State::ready) continue;
    threadIdx = current().thread;
    switch_fiber(main_, current(), false);
  }
}

void Block::wait(State state, const Location& where) {
  Fiber& fiber = current();
  fiber.state = state;
  fiber.where = where;
  switch_fiber(fiber, main_, false);
}

// Opens the operations of one warp for which all lanes of the mask have come to the same place.
bool Block::open_warp(size_t first, size_t count) {
  bool opened = false;
  for (size_t i = 0; i < count; ++i) {
    if (fibers_[first + i]->state != State::at_warp) continue;
    const unsigned mask = fibers_[first + i]->mask;
    const Location where = fibers_[first + i]->where;
    std::vector<Fiber*> lanes;
    bool complete = true;
    for (size_t lane = 0; lane < warpSize; ++lane) {
      if (!(mask >> lane & 1U)) continue;
      Fiber* fiber = lane < count ? fibers_[first + lane].get() : nullptr;
      complete =
          complete && fiber && fiber->state == State::at_warp && fiber->mask == mask && same_place(fiber->where, where);
      lanes.push_back(fiber);
    }
    if (!complete) continue;
    for (Fiber* fiber : lanes) {
      std::memcpy(fiber->taken, fibers_[first + static_cast<size_t>(fiber->from)]->given, exchange_bytes);
      fiber->state = State::ready;
    }
    opened = true;
  }
  return opened;
}

bool Block::open_block() {
  const Location& where = fibers_[0]->where;
  for (const auto& fiber : fibers_) {
    if (fiber->state != State::at_block || !same_place(fiber->where, where)) return false;
  }
  for (const auto& fiber : fibers_) fiber->state = State::ready;
  return true;
}

void Block::fail() const {
  const Fiber& first = *fibers_[0];
  for (const auto& fiber : fibers_) {
    if (fiber->state == first.state && (first.state == State::ended || same_place(fiber->where, first.where))) continue;
    throw DeviceError("the threads of a block diverge: ", text(first), ", ", text(*fiber));
  }
  throw DeviceError("lanes of a mask are missing: ", text(first));
}

}  // namespace

void run_grid(dim3 grid, dim3 block_size, const std::function<void()>& kernel) {
  gridDim = grid;
  blockDim = block_size;
  Block runner(block_size, kernel);
  size_t count = grid.count();
  for (size_t i = 0; i < count; ++i) {
    auto index = static_cast<unsigned>(order == Order::forward ? i : count - 1 - i);
    runner.run({index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y});
  }
}

int lane() { return block->lane(); }

void block_barrier(const Location& where) { block->wait(State::at_block, where); }

void exchange(unsigned mask, int from, const void* value, void* result, size_t size, const Location& where) {
  Fiber& fiber = block->current();
  auto taking_part = [mask](int lane) { return (mask >> lane & 1U) != 0; };
  if (!taking_part(lane()) || !taking_part(from)) {
    throw DeviceError("lane ", lane(), " reads from lane ", from, " with a mask without both, at ", where.file_name(),
                      ":", where.line());
  }
  std::memcpy(fiber.given, value, size);
  fiber.mask = mask;
  fiber.from = from;
  block->wait(State::at_warp, where);
  std::memcpy(result, fiber.taken, size);
}

}  // namespace cuda_on_cpu
