#include <gtest/gtest.h>

#include "graph/passes/passes.h"
#include "tests/support/text_graph.h"

namespace graft {
namespace {

std::vector<std::string> names_of(const std::vector<Value*>& values) {
  std::vector<std::string> names;
  for (const Value* value : values) names.push_back(value->name);
  return names;
}

bool always(const Value&) { return true; }

// Two branches that a trained product joins, one of them with a random node.
struct Branches {
  std::unique_ptr<Graph> graph = test::graph_from_text(
      "(float[3,4] x, float[3,4] z) => (y) <float[4,4] u = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, "
      "float[4,4] v = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, float[4] c = {1,2,3,4}> "
      "{ a = MatMul(x, u)  b = Exp(a)  n = RandomNormalLike(z)  m = Mul(z, n)  p = MatMul(b, v)  s = Add(p, m) "
      "t = Exp(c)  y = Mul(s, t) }");
  Branches() { classify(*graph); }
  std::vector<std::string> names(const std::set<std::string>& trained,
                                 const std::function<bool(const Value&)>& can_cut = always) const {
    return names_of(find_frontier(*graph, trained, can_cut).values);
  }
};

using Names = std::vector<std::string>;

TEST(FindFrontier, LiesBeforeWhatIsTrainedOrRandom) {
  Branches branches;
  EXPECT_EQ(branches.names({"v"}), (Names{"z", "b"}));
  EXPECT_EQ(branches.names({"u"}), (Names{"x", "z"}));
  EXPECT_EQ(find_frontier(*branches.graph, {"u"}, always).first->type, "MatMul");
  EXPECT_EQ(branches.names({}), (Names{"z", "p"})) << "a random node alone";
}

TEST(FindFrontier, GoesBackToWhereACutCanBe) {
  Branches branches;
  EXPECT_EQ(branches.names({"v"}, [](const Value& value) { return value.name != "b"; }), (Names{"a", "z"}));
  EXPECT_EQ(branches.names({"v"}, [](const Value&) { return false; }), (Names{"x", "z"}));
}

TEST(FindFrontier, ACutLeavesTheRest) {
  Branches branches;
  cut_at(*branches.graph, find_frontier(*branches.graph, {"v"}, always).values);
  verify(*branches.graph);
  EXPECT_EQ(names_of(branches.graph->inputs), (Names{"z", "b"}));
  EXPECT_EQ(branches.graph->find("b")->role, Role::input);
  EXPECT_EQ(branches.graph->find("x"), nullptr);
  EXPECT_EQ(branches.graph->find("u"), nullptr);
  EXPECT_NE(branches.graph->find("v"), nullptr);
}

}  // namespace
}  // namespace graft
