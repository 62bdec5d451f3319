#include "runtime/state_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace graft {
namespace {

constexpr int64_t mebi = int64_t{1} << 20;

TEST(StatePool, StatesDoNotOverlapAndAreAligned) {
  StatePool pool;
  std::vector<std::pair<std::shared_ptr<std::byte[]>, int64_t>> states;
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{64}, int64_t{65}, 3 * mebi, 5 * mebi, 30 * mebi}) {
    states.emplace_back(pool.take(bytes, true), bytes);
  }
  for (int i = 0; i < 12; ++i) states.emplace_back(pool.take(3 * mebi + i, true), 3 * mebi + i);
  for (size_t i = 0; i < states.size(); ++i) {
    auto& [memory, bytes] = states[i];
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0U);
    EXPECT_TRUE(std::all_of(memory.get(), memory.get() + bytes, [](std::byte b) { return b == std::byte{0}; }));
    std::memset(memory.get(), static_cast<int>(i + 1), static_cast<size_t>(bytes));
  }
  for (size_t i = 0; i < states.size(); ++i) {
    auto& [memory, bytes] = states[i];
    const auto own = static_cast<std::byte>(i + 1);
    EXPECT_TRUE(std::all_of(memory.get(), memory.get() + bytes, [own](std::byte b) { return b == own; })) << i;
  }
}

TEST(StatePool, WhatIsGivenBackIsTakenAgainAsOnePiece) {
  StatePool pool;
  const auto before = pool.take(mebi, false);
  auto a = pool.take(mebi, false), b = pool.take(mebi, false), c = pool.take(mebi, false);
  const auto behind = pool.take(mebi, false);
  const std::byte* first = a.get();
  // In an order that joins a gap with those on both of its sides.
  a.reset();
  c.reset();
  b.reset();
  const auto whole = pool.take(3 * mebi, true);
  EXPECT_EQ(whole.get(), first);
  EXPECT_EQ(whole[3 * mebi - 1], std::byte{0});
}

TEST(StatePool, MemoryOutlivesThePool) {
  std::shared_ptr<std::byte[]> state;
  {
    StatePool pool;
    state = pool.take(mebi, true);
  }
  std::memset(state.get(), 1, mebi);
  EXPECT_EQ(state[mebi - 1], std::byte{1});
}

}  // namespace
}  // namespace graft
