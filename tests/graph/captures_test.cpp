#include "graph/captures.h"

#include <gtest/gtest.h>

namespace graft {
namespace {

// main: a = Relu(x), y = If(c) { r = Neg(a) }; the body's If inside reads `a` of main and `r` of the body.
struct Nested {
  std::unique_ptr<Graph> main = std::make_unique<Graph>();
  Node *relu, *branch;

  Nested() {
    Value* x = main->add_input("x", DType::f32, {2});
    Value* c = main->add_input("c", DType::boolean, {});
    relu = main->add_node("", "Relu", {x}, 1);
    main->rename(relu->outputs[0], "a");
    auto inner = std::make_shared<Graph>();
    inner->outputs = {inner->add_node("", "Add", {inner->add_captured("a"), inner->add_captured("r")}, 1)->outputs[0]};
    auto body = std::make_shared<Graph>();
    Node* negated = body->add_node("", "Neg", {body->add_captured("a")}, 1);
    body->rename(negated->outputs[0], "r");
    Node* second = body->add_node("", "If", {body->add_captured("c")}, 1, {{"then_branch", inner}});
    body->outputs = {second->outputs[0]};
    branch = main->add_node("", "If", {c}, 1, {{"then_branch", body}});
    main->rename(branch->outputs[0], "y");
    main->outputs = {branch->outputs[0]};
  }
};

TEST(Captures, AreFoundThroughBodies) {
  Nested n;
  EXPECT_EQ(captured_names(*n.branch), (std::set<std::string>{"a", "c"}));
  EXPECT_EQ(captured_values(*n.branch).size(), 2U);
}

TEST(Captures, KeepTheirProducersAndOrder) {
  Nested n;
  n.main->prune();
  ASSERT_EQ(n.main->nodes().size(), 2U);
  EXPECT_TRUE(n.main->find("a"));
  auto reversed = std::make_unique<Graph>();
  Value* x = reversed->add_input("x", DType::f32, {2});
  Node* branch = reversed->add_node("", "If", {reversed->add_input("c", DType::boolean, {})}, 1, n.branch->attributes);
  reversed->rename(reversed->add_node("", "Relu", {x}, 1)->outputs[0], "a");
  reversed->outputs = {branch->outputs[0]};
  reversed->sort();
  EXPECT_EQ(reversed->nodes().front()->type, "Relu");
}

TEST(Captures, FollowReplacedValues) {
  Nested n;
  auto copy = n.main->clone();
  Value* folded = copy->add_constant(Tensor::of<float>({2}, {1, 2}));
  copy->replace_uses(copy->find("a"), folded);
  ASSERT_FALSE(folded->name.empty());
  Node* branch = copy->outputs[0]->producer;
  EXPECT_EQ(captured_names(*branch), (std::set<std::string>{folded->name, "c"}));
  EXPECT_EQ(captured_names(*n.branch), (std::set<std::string>{"a", "c"})) << "the original shares no changed body";
}

TEST(Captures, FollowInlinedBodies) {
  Nested n;
  n.main->rename(n.main->inputs[0], "r");  // the body's own name is taken here
  auto body = std::get<std::shared_ptr<Graph>>(n.branch->attributes.at("then_branch"));
  auto results = n.main->inline_body(*body, {});
  Node* inner = results[0]->producer;
  ASSERT_EQ(inner->type, "If");
  EXPECT_EQ(captured_names(*inner), (std::set<std::string>{"a", "r#2"}));
  EXPECT_EQ(n.main->find("r#2")->producer->type, "Neg");
}

}  // namespace
}  // namespace graft
