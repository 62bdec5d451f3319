#include <gtest/gtest.h>

#include "runtime/program.h"

namespace graft {
namespace {

using Space = MemoryPlan::Space;

// A chain of one-operand nodes on 1 KiB tensors; nothing here needs a kernel.
struct Chain {
  Graph graph;
  Settlements settlements;
  Value* x = graph.add_input("x", DType::f32, {256});

  Node* node(std::vector<Value*> inputs, std::vector<std::pair<int, int>> in_place = {},
             std::vector<std::pair<int, int>> views = {}) {
    Node* added = graph.add_node("", "Abs", std::move(inputs), 1);
    added->outputs[0]->dtype = DType::f32;
    added->outputs[0]->dims = {256};
    added->outputs[0]->ranked = true;
    settlements[added].in_place = std::move(in_place);
    settlements[added].views = std::move(views);
    return added;
  }
  MemoryPlan plan() {
    for (const auto& value : graph.values()) value->layout = Layout::plain(value->dims);
    return plan_memory(graph, settlements);
  }
};

TEST(PlanMemory, ReusesBytesOfDeadValues) {
  Chain c;
  Value* v = c.x;
  for (int i = 0; i < 10; ++i) v = c.node({v})->outputs[0];
  c.graph.outputs = {v};
  EXPECT_EQ(c.plan().arena_bytes, 2 * 1024);
}

TEST(PlanMemory, InPlaceChainsTakeOneBuffer) {
  Chain c;
  Value* v = c.x;
  for (int i = 0; i < 10; ++i) v = c.node({v}, {{0, 0}})->outputs[0];
  c.graph.outputs = {v};
  auto plan = c.plan();
  EXPECT_EQ(plan.arena_bytes, 1024);
  EXPECT_EQ(plan.places.at(c.x).space, Space::input);  // an input is never overwritten
}

TEST(PlanMemory, AValueReadLaterIsNotOverwritten) {
  Chain c;
  Value* a = c.node({c.x})->outputs[0];
  Value* b = c.node({a}, {{0, 0}})->outputs[0];
  Value* d = c.node({b, a})->outputs[0];
  c.graph.outputs = {d};
  auto plan = c.plan();
  EXPECT_NE(plan.places.at(a).offset, plan.places.at(b).offset);
}

TEST(PlanMemory, WhatOnlyThePrologueReadsIsNotKept) {
  Chain c;
  Value* state = c.graph.add_state("w", StateKind::parameter, DType::f32, {256});
  Node* folded = c.node({state});
  Node* packed = c.node({folded->outputs[0]});
  Node* output = c.node({packed->outputs[0]}, {}, {{0, 0}});
  for (Node* node : {folded, packed, output}) node->stage = Stage::prologue;
  Value* y = c.node({c.x, output->outputs[0]})->outputs[0];
  c.graph.outputs = {y};
  auto plan = c.plan();
  EXPECT_EQ(plan.prologue_bytes, 1024);
  EXPECT_EQ(plan.places.at(folded->outputs[0]).space, Space::arena);
  EXPECT_EQ(plan.places.at(packed->outputs[0]).space, Space::prologue);  // the step reads a view of it
  c.graph.outputs = {y, folded->outputs[0]};
  EXPECT_EQ(c.plan().prologue_bytes, 2048);
}

TEST(PlanMemory, AViewKeepsItsBytesAlive) {
  Chain c;
  Value* a = c.node({c.x})->outputs[0];
  Value* view = c.node({a}, {}, {{0, 0}})->outputs[0];
  Value* b = c.node({a}, {{0, 0}})->outputs[0];  // `a` dies here, but its view does not
  Value* d = c.node({b, view})->outputs[0];
  c.graph.outputs = {d};
  auto plan = c.plan();
  EXPECT_EQ(plan.places.at(a).offset, plan.places.at(view).offset);
  EXPECT_NE(plan.places.at(a).offset, plan.places.at(b).offset);
}

TEST(PlanMemory, TheSameOperandTwiceIsNotOverwritten) {
  Chain c;
  Value* a = c.node({c.x})->outputs[0];
  Value* b = c.node({a, a}, {{0, 0}})->outputs[0];
  c.graph.outputs = {b};
  auto plan = c.plan();
  EXPECT_NE(plan.places.at(a).offset, plan.places.at(b).offset);
}

TEST(PlanMemory, AStateIsUpdatedInPlaceOrCopied) {
  for (bool read_later : {false, true}) {
    Chain c;
    Value* w = c.graph.add_state("w", StateKind::parameter, DType::f32, {256});
    Value* view = c.node({w}, {}, {{0, 0}})->outputs[0];
    Value* updated = c.node({w}, {{0, 0}})->outputs[0];
    c.graph.bind_state(w, updated);
    Value* y = c.node({read_later ? view : c.x})->outputs[0];
    c.graph.outputs = {y};
    auto plan = c.plan();
    EXPECT_EQ(plan.places.at(updated).space, read_later ? Space::arena : Space::state);
    EXPECT_EQ(plan.state_copies.size(), read_later ? 1U : 0U);
  }
}

TEST(PlanMemory, AnOutputShowsAStateAsItWasBeforeTheStep) {
  Chain c;
  Value* w = c.graph.add_state("w", StateKind::parameter, DType::f32, {256});
  Value* before = c.node({w}, {}, {{0, 0}})->outputs[0];
  Value* after = c.node({w}, {{0, 0}})->outputs[0];
  c.graph.bind_state(w, after);
  c.graph.outputs = {before, after, c.x};
  auto plan = c.plan();
  EXPECT_EQ(plan.outputs[0].space, Space::arena);
  EXPECT_EQ(plan.places.at(before).space, Space::state);
  EXPECT_EQ(plan.outputs[1], plan.places.at(after));
  EXPECT_NE(plan.outputs[0].offset, plan.outputs[1].offset);
  EXPECT_EQ(plan.outputs[2], plan.places.at(c.x));
}

TEST(PlanMemory, ScratchLivesDuringItsNodeOnly) {
  Chain c;
  Node* a = c.node({c.x});
  Node* b = c.node({a->outputs[0]});
  c.settlements[a].scratch_bytes = 4096;
  c.settlements[b].scratch_bytes = 4096;
  c.graph.outputs = {b->outputs[0]};
  EXPECT_LE(c.plan().arena_bytes, 4096 + 2 * 1024);
}

TEST(PlanMemory, RefusesWhatCannotFit) {
  Chain c;
  Node* a = c.node({c.x});
  c.settlements[a].scratch_bytes = int64_t{1} << 50;
  c.graph.outputs = {a->outputs[0]};
  EXPECT_THROW(require_memory(c.plan().peak_bytes()), DeviceError);
}

}  // namespace
}  // namespace graft
