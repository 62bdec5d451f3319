// The names that switch patterns and fusions off.
#include <gtest/gtest.h>

#include "graph/passes/passes.h"

namespace graft {
namespace {

TEST(Fusions, TextsNameThemWithCommasBetween) {
  EXPECT_EQ(fusions_named({}), std::set<std::string>{});
  EXPECT_EQ(fusions_named({""}), std::set<std::string>{});
  EXPECT_EQ(fusions_named({"gelu,winograd", "softmax", "gelu"}),
            (std::set<std::string>{"gelu", "softmax", "winograd"}));
}

TEST(Fusions, AllAreEveryOne) {
  auto all = fusions_named({"all"});
  EXPECT_EQ(all.size(), fusion_names().size());
  EXPECT_EQ(fusions_named({"gelu,all"}), all);
  for (const auto& name : fusion_names()) EXPECT_EQ(fusions_named({name}), std::set<std::string>{name});
}

TEST(Fusions, UnknownNamesAreRefusedWithTheNearest) {
  for (const char* text : {"gelo", "gelu,gelo", "all,gelo", "Gelu"}) {
    try {
      fusions_named({text});
      ADD_FAILURE() << text;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("nearest: \"gelu\""), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace graft
