#include "runtime/roofline.h"

#include <gtest/gtest.h>

#include "runtime/cache_model.h"
#include "runtime/device/cpu/system.h"
#include "runtime/device/device.h"
#include "runtime/session.h"

namespace graft {
namespace {

TEST(CacheModel, ForgetsWhatWasUsedLongestAgo) {
  CacheModel cache(100);
  int a = 0, b = 0, c = 0;
  std::vector<const void*> evicted;
  EXPECT_FALSE(cache.touch(&a, 40, evicted));
  EXPECT_FALSE(cache.touch(&b, 40, evicted));
  EXPECT_TRUE(cache.touch(&a, 40, evicted));
  EXPECT_TRUE(evicted.empty());
  EXPECT_FALSE(cache.touch(&c, 40, evicted));
  EXPECT_EQ(evicted, std::vector<const void*>{&b});
  EXPECT_TRUE(cache.touch(&a, 40, evicted));
  EXPECT_FALSE(cache.touch(&b, 40, evicted));
}

TEST(CacheModel, WhatIsDroppedLeavesItsRoom) {
  CacheModel cache(100);
  int a = 0, b = 0;
  std::vector<const void*> evicted;
  cache.touch(&a, 60, evicted);
  cache.drop(&a);
  cache.touch(&b, 100, evicted);
  EXPECT_TRUE(evicted.empty());
  EXPECT_FALSE(cache.touch(&a, 60, evicted));
}

TEST(CacheModel, AValueLargerThanTheCacheSweepsItAndIsNotKept) {
  CacheModel cache(100);
  int a = 0, large = 0;
  std::vector<const void*> evicted;
  cache.touch(&a, 10, evicted);
  EXPECT_FALSE(cache.touch(&large, 101, evicted));
  EXPECT_EQ(evicted, (std::vector<const void*>{&a, &large}));
  EXPECT_FALSE(cache.touch(&large, 101, evicted));
}

// Round figures: 1 GFLOP/s, memory 1 GB/s, cache 10 GB/s.
MachineLimits machine(int64_t cache_bytes) { return {1, 1e9, 5e8, 4e9, 0, 1e9, 1e10, cache_bytes}; }

constexpr int64_t kib = 1024;

// Nodes on values of 1 KiB: 256 floats. Nothing here runs.
struct Steps {
  Graph graph;
  Settlements settlements;
  Value* x = graph.add_input("x", DType::f32, {256});

  Value* node(const std::string& type, std::vector<Value*> inputs, const Dims& dims = {256}) {
    Node* added = graph.add_node("", type, std::move(inputs), 1);
    Value* y = added->outputs[0];
    y->dtype = DType::f32;
    y->dims = dims;
    y->ranked = true;
    settlements[added];
    return y;
  }
  Roofline walk(int64_t cache_bytes) {
    for (const auto& value : graph.values()) value->layout = Layout::plain(value->dims);
    std::vector<const Node*> nodes;
    for (const Node* node : graph.node_list()) nodes.push_back(node);
    return roofline(nodes, plan_memory(graph, settlements), settlements, machine(cache_bytes));
  }
};

TEST(Roofline, ChargesTheCacheForWhatIsStillThere) {
  Steps s;
  Value* a = s.node("Abs", {s.x});
  s.graph.outputs = {s.node("Add", {a, s.x})};
  // In a large cache x stays from step to step.
  Roofline all = s.walk(64 * kib);
  ASSERT_EQ(all.nodes.size(), 2U);
  EXPECT_EQ(all.nodes[0].read_bytes, kib);
  EXPECT_EQ(all.nodes[0].written_bytes, kib);
  EXPECT_EQ(all.nodes[1].read_bytes, 2 * kib);
  EXPECT_EQ(all.memory_bytes, 0);
  EXPECT_EQ(all.cache_bytes, 5 * kib);
  EXPECT_EQ(all.flops, 512);
  // 256 FLOPs at 1 GFLOP/s take 256 ns; 2 and 3 KiB at 10 GB/s take 205 and 307 ns.
  EXPECT_NEAR(all.nodes[0].seconds, 256e-9, 1e-12);
  EXPECT_NEAR(all.nodes[1].seconds, 307.2e-9, 1e-12);
  EXPECT_NEAR(all.seconds, 563.2e-9, 1e-12);
}

TEST(Roofline, ChargesMemoryForWhatHasToGiveWay) {
  Steps s;
  Value* a = s.node("Abs", {s.x});
  s.graph.outputs = {s.node("Add", {a, s.x})};
  // Room for one value: x gives way to a, which Add finds in the cache and forgets; Add reads x from memory, and its
  // result is forgotten behind it.
  Roofline one = s.walk(kib);
  EXPECT_EQ(one.nodes[0].memory_bytes, kib);
  EXPECT_EQ(one.nodes[0].cache_bytes, kib);
  EXPECT_EQ(one.nodes[1].memory_bytes, kib);
  EXPECT_EQ(one.nodes[1].cache_bytes, 2 * kib);
  EXPECT_NEAR(one.nodes[1].seconds, 1024e-9, 1e-12);
  // Room for none.
  Roofline none = s.walk(kib - 1);
  EXPECT_EQ(none.memory_bytes, 5 * kib);
  EXPECT_EQ(none.cache_bytes, 0);
}

TEST(Roofline, TheWriterPaysForWhatGivesWayBeforeItsReader) {
  Steps s;
  Value* a = s.node("Abs", {s.x});
  Value* b = s.node("Neg", {s.x});
  s.graph.outputs = {s.node("Add", {b, a})};
  // Room for two: Abs leaves x and a; Neg reads x there, and a gives way to b, which Abs pays for; Add reads b there
  // and a from memory. x stays for the next step.
  Roofline walked = s.walk(2 * kib);
  EXPECT_EQ(walked.nodes[0].memory_bytes, kib);
  EXPECT_EQ(walked.nodes[0].cache_bytes, kib);
  EXPECT_EQ(walked.nodes[1].memory_bytes, 0);
  EXPECT_EQ(walked.nodes[1].cache_bytes, 2 * kib);
  EXPECT_EQ(walked.nodes[2].memory_bytes, kib);
}

TEST(Roofline, ViewsCostNothingAndInPlaceResultsAreOneValue) {
  Steps s;
  Value* w = s.graph.add_state("w", StateKind::parameter, DType::f32, {256});
  Value* view = s.node("Reshape", {w});
  s.settlements[view->producer].views = {{0, 0}};
  Value* updated = s.node("Abs", {w});
  s.settlements[updated->producer].in_place = {{0, 0}};
  s.graph.bind_state(w, updated);
  s.graph.outputs = {};
  // The view's kernel would do nothing: its node reads, as one that looks at its operand, and writes nothing.
  Roofline walked = s.walk(kib);
  EXPECT_EQ(walked.nodes[0].written_bytes, 0);
  EXPECT_EQ(walked.nodes[1].cache_bytes, 2 * kib);
  EXPECT_EQ(walked.memory_bytes, 0) << "w fits, and both results lie in its bytes";
}

TEST(Roofline, NodesThatPickReadNoMoreThanTheyGive) {
  Steps s;
  Value* table = s.graph.add_input("table", DType::f32, {1000, 256});
  Value* index = s.graph.add_input("index", DType::i64, {2});
  s.graph.outputs = {s.node("Gather", {table, index}, {2, 256})};
  EXPECT_EQ(s.walk(64 * kib).nodes[0].read_bytes, 2 * kib + 16);
}

TEST(Roofline, StepsOfPickedRowsMoveThoseAlone) {
  for (double momentum : {0.0, 0.9}) {
    Steps s;
    Value* table = s.graph.add_state("table", StateKind::parameter, DType::f32, {1000, 256});
    Value* dy = s.graph.add_input("dy", DType::f32, {2, 256});
    Value* updated = s.node("SgdRows", {table, dy}, {1000, 256});
    updated->producer->domain = "graft";
    updated->producer->attributes["momentum"] = momentum;
    s.settlements[updated->producer].in_place = {{0, 0}};
    s.graph.bind_state(table, updated);
    const int64_t moved = (momentum == 0 ? 2 : 1000) * kib;
    NodeLimit limit = s.walk(64 * kib).nodes[0];
    EXPECT_EQ(limit.read_bytes, moved + 2 * kib) << momentum;
    EXPECT_EQ(limit.written_bytes, moved) << momentum;
  }
}

TEST(Roofline, CountsPaddingAndTakesTheRateOfTheDtype) {
  Steps s;
  Graph& graph = s.graph;
  Value* x = graph.add_input("x16", DType::f64, {1, 3, 8, 8});
  Value* y = s.node("Abs", {x}, {1, 3, 8, 8});
  y->dtype = DType::f64;
  graph.outputs = {y};
  for (const auto& value : graph.values()) value->layout = Layout::plain(value->dims);
  x->layout.padded = y->layout.padded = {1, 16, 8, 8};
  x->layout.strides = y->layout.strides = {1024, 1024, 128, 16};
  x->layout.blocks = y->layout.blocks = {{1, 16}};
  MachineLimits fast_cache = machine(1 << 20);
  fast_cache.cache_bandwidth = 1e12;
  Roofline walked = roofline({y->producer}, plan_memory(graph, s.settlements), s.settlements, fast_cache);
  EXPECT_EQ(walked.nodes[0].read_bytes, 1024 * 8);
  EXPECT_EQ(walked.flops, 192);
  EXPECT_NEAR(walked.seconds, 384e-9, 1e-12) << "192 FLOPs at 0.5 GFLOP/s";
}

// Products may run there, other operators not.
TEST(Roofline, ProductsInFloat32HaveTheRateOfMatrixTiles) {
  Steps s;
  Value* a = s.graph.add_input("a", DType::f32, {16, 16});
  Value* product = s.node("MatMul", {a, a}, {16, 16});
  s.graph.outputs = {s.node("Abs", {product}, {16, 16})};
  for (const auto& value : s.graph.values()) value->layout = Layout::plain(value->dims);
  MachineLimits limits = machine(64 * kib);
  limits.cache_bandwidth = 1e15;
  const auto seconds = [&](double tiles) {
    limits.flops_tiles = tiles;
    std::vector<const Node*> nodes;
    for (const Node* node : s.graph.node_list()) nodes.push_back(node);
    const Roofline walked = roofline(nodes, plan_memory(s.graph, s.settlements), s.settlements, limits);
    return std::pair{walked.nodes[0].seconds, walked.nodes[1].seconds};
  };
  constexpr double product_flops = 2 * 16 * 16 * 16, abs_flops = 16 * 16;
  for (auto [tiles, rate] : {std::pair{0.0, 1e9}, {5e8, 1e9}, {4e9, 4e9}}) {
    EXPECT_NEAR(seconds(tiles).first, product_flops / rate, 1e-12);
    EXPECT_NEAR(seconds(tiles).second, abs_flops / 1e9, 1e-12);
  }
}

TEST(Machine, LimitsArePositiveAndSane) {
  MachineLimits limits = measure_machine();
  EXPECT_GE(limits.threads, 1);
  EXPECT_GT(limits.flops_f32, 1e8);
  EXPECT_LT(limits.flops_f32, 1e14);
  EXPECT_EQ(limits.flops_tiles > 0, has_matrix_tiles());
  EXPECT_GE(limits.flops_bf16, limits.flops_tiles);
  EXPECT_GT(limits.flops_f64, 5e7);
  EXPECT_LT(limits.flops_f64, 1.2 * limits.flops_f32) << "half the lanes";
  EXPECT_GT(limits.memory_bandwidth, 1e8);
  EXPECT_LT(limits.memory_bandwidth, 1e13);
  EXPECT_GE(limits.cache_bandwidth, limits.memory_bandwidth);
  EXPECT_GE(limits.cache_bytes, 64 * kib);
  EXPECT_LE(limits.cache_bytes, int64_t{1} << 32);
}

TEST(System, TheResidentPeakFollowsWhatIsTouched) {
  constexpr int64_t bytes = int64_t{64} << 20;
  if (resident_bytes() == 0) GTEST_SKIP() << "the system does not say";
  EXPECT_GE(peak_resident_bytes(), resident_bytes());
  bool reset = reset_peak_resident();
  int64_t before = resident_bytes();
  { Tensor touched(DType::u8, {bytes}); }
  EXPECT_GE(peak_resident_bytes(), before + bytes - (bytes >> 4));
  if (!reset) return;
  ASSERT_TRUE(reset_peak_resident());
  EXPECT_LT(peak_resident_bytes(), before + bytes / 2);
}

}  // namespace
}  // namespace graft
