#include "graph/layout.h"

#include <gtest/gtest.h>

namespace graft {
namespace {

TEST(Layout, TransposedNamesTheSamePlaces) {
  Layout layout{{4, 8, 2, 3}, {48, 24, 12, 4}, {{1, 4}}};
  Layout moved = layout.transposed({2, 0, 3, 1});
  EXPECT_EQ(moved.padded, (Dims{2, 4, 3, 8}));
  EXPECT_EQ(moved.offset({1, 3, 2, 6}), layout.offset({3, 6, 1, 2}));
}

TEST(Layout, TransposedIsPlainWhereOnlySizeOneMoves) {
  EXPECT_TRUE(Layout::plain({1, 5, 3}).transposed({1, 0, 2}).is_plain({5, 1, 3}));
  EXPECT_FALSE(Layout::plain({2, 5, 3}).transposed({1, 0, 2}).is_plain({5, 2, 3}));
}

}  // namespace
}  // namespace graft
