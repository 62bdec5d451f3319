#include "ops/bfloat16_loops.h"

#include <gtest/gtest.h>

#include <bit>
#include <vector>

#include "graph/tensor.h"
#include "ops/bfloat16.h"

namespace graft::test {
namespace {

// Ties both ways, all kinds of numbers but those below the least normal one, which may become zero.
std::vector<float> numbers() {
  std::vector<float> all;
  for (uint32_t bits : {0U, 0x80000000U, 0x3f808000U, 0x3f818000U, 0x3f807fffU, 0x3f808001U, 0xbf818000U, 0x7f7fffffU,
                        0x7f800000U, 0xff800000U, 0x7fc00000U, 0x7f800001U, 0xffffffffU, 0x7fffffffU, 0x00800000U})
    all.push_back(std::bit_cast<float>(bits));
  for (uint32_t bits = 1; all.size() < 1000; bits = bits * 1664525 + 1013904223) {
    if ((bits & 0x7f800000U) != 0) all.push_back(std::bit_cast<float>(bits));
  }
  return all;
}

// Vectors of every size, and rests.
TEST(BFloat16Loops, RoundAsOneNumberDoes) {
  const std::vector<float> from = numbers();
  for (int64_t count : {1000, 23, 7, 1}) {
    std::vector<BFloat16> low(from.size(), {0x1234});
    to_bfloat16(from.data(), low.data(), count);
    std::vector<float> back(from.size());
    to_float(low.data(), back.data(), count);
    for (size_t i = 0; i < from.size(); ++i) {
      const bool done = i < static_cast<size_t>(count);
      EXPECT_EQ(low[i].bits, done ? to_bf16(from[i]) : 0x1234) << from[i];
      if (!done) continue;
      EXPECT_EQ(narrowed<BFloat16>(from[i]).bits, to_bf16(from[i])) << from[i];
      EXPECT_EQ(std::bit_cast<uint32_t>(back[i]), uint32_t{low[i].bits} << 16) << from[i];
    }
  }
}

}  // namespace
}  // namespace graft::test
