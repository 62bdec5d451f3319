#include <gtest/gtest.h>
#include <hwy/highway.h>

#include "ops/op.h"
#include "tests/support/check_op.h"

namespace graft::test {
namespace {

Layout blocked(const Dims& dims, const std::vector<Layout::Block>& blocks) {
  Layout layout;
  Dims sizes(dims.size(), 1);
  int64_t inner = 1;
  for (const auto& block : blocks) sizes[static_cast<size_t>(block.dim)] *= block.size, inner *= block.size;
  Dims outer;
  for (size_t d = 0; d < dims.size(); ++d) outer.push_back((dims[d] + sizes[d] - 1) / sizes[d]);
  layout.strides = Layout::plain(outer).strides;
  for (size_t d = 0; d < dims.size(); ++d) {
    layout.strides[d] *= inner;
    layout.padded.push_back(outer[d] * sizes[d]);
  }
  layout.blocks = blocks;
  return layout;
}

// Reorders garbage-initialised storage and compares every byte, padding included, with the slow copy.
void check(DType dtype, const Dims& dims, const Layout& from, const Layout& to, DType to_dtype) {
  SCOPED_TRACE(cat(dtype, dims, " from ", from, " to ", to_dtype, ' ', to));
  Graph graph;
  Value* x = graph.add_input("x", dtype, dims);
  Node* node = graph.add_node("graft", "Reorder", {x}, 1);
  infer(*node);
  node->outputs[0]->dtype = to_dtype;
  x->layout = from;
  node->outputs[0]->layout = to;
  const KernelFunctions* functions = find_kernel(*node);
  ASSERT_EQ(functions->propose(*node)[0].outputs[0], to);

  Tensor plain = random_feed(dtype, dims, -100, 100, 1);
  Tensor input(dtype, {from.storage_count()});
  relayout(dims, size_of(dtype), Layout::plain(dims), plain.raw(), from, input.raw());
  Tensor expected(to_dtype, {to.storage_count()}), got(to_dtype, {to.storage_count()});
  std::memset(got.raw(), 0x3f, static_cast<size_t>(got.bytes()));
  relayout(dims, size_of(to_dtype), Layout::plain(dims), plain.cast(to_dtype).raw(), to, expected.raw());

  Settlement settlement = functions->settle(*node, nullptr);
  auto scratch = allocate_bytes(settlement.scratch_bytes, false);
  Binding binding{{input.raw()}, {got.raw()}, scratch.get(), &settlement};
  auto stream = make_stream(Device::cpu);
  Kernel kernel = functions->prepare(*node, binding);
  // Where the elements lie alike nothing moves.
  ASSERT_EQ(settlement.views.empty(), static_cast<bool>(kernel));
  if (!kernel) got = input;
  else kernel(*stream);
  stream->synchronize();
  ASSERT_EQ(0, std::memcmp(got.raw(), expected.raw(), static_cast<size_t>(got.bytes())));
}

void check(DType dtype, const Dims& dims, const Layout& from, const Layout& to) { check(dtype, dims, from, to, dtype); }

void check_both_ways(const Dims& dims, const Layout& layout) {
  for (DType dtype : {DType::f32, DType::f64, DType::f16, DType::i64, DType::u8, DType::i32}) {
    check(dtype, dims, Layout::plain(dims), layout);
    check(dtype, dims, layout, Layout::plain(dims));
  }
}

TEST(Reorder, ActivationsBetweenPlainBlockedAndChannelsLast) {
  for (const Dims& dims : {Dims{2, 19, 5, 7}, Dims{1, 3, 33, 34}, Dims{3, 32, 4, 4}, Dims{1, 1, 1, 1}}) {
    for (const char* tag : {"nChw8c", "nChw16c", "nhwc"}) check_both_ways(dims, layout_of_tag(tag, dims));
    check(DType::f32, dims, layout_of_tag("nChw16c", dims), layout_of_tag("nhwc", dims));
    check(DType::f32, dims, layout_of_tag("nChw8c", dims), layout_of_tag("nChw16c", dims));
    check(DType::u8, dims, layout_of_tag("nChw8c", dims), layout_of_tag("nChw16c", dims));
  }
}

TEST(Reorder, WeightsInBlocksOfBothChannels) {
  for (const Dims& dims : {Dims{16, 8, 3, 3}, Dims{21, 13, 3, 2}}) {
    check_both_ways(dims, blocked(dims, {{1, 8}, {0, 8}}));
    check_both_ways(dims, blocked(dims, {{0, 16}, {1, 4}, {0, 2}}));  // no tag of oneDNN
    check_both_ways(dims, blocked(dims, {{1, 8}, {0, 16}, {1, 2}}));
  }
}

// Layouts that kernels for bfloat16 want, from those of weight gradients.
void check_working_copies(const Dims& dims) {
  const Layout masters[] = {Layout::plain(dims), Layout::permuted(dims, {1, 0, 2, 3}),
                            Layout::permuted(dims, {2, 3, 1, 0}), blocked(dims, {{1, 16}, {0, 16}})};
  const Layout copies[] = {Layout::plain(dims),
                           Layout::permuted(dims, {1, 0, 2, 3}),
                           blocked(dims, {{1, 16}, {0, 32}, {1, 2}}),
                           blocked(dims, {{1, 16}, {0, 64}, {1, 2}}),
                           blocked(dims, {{0, 16}, {1, 32}, {0, 2}}),
                           blocked(dims, {{0, 16}, {1, 64}, {0, 2}}),
                           blocked(dims, {{0, 48}, {1, 2}}),
                           blocked(dims, {{1, 8}, {0, 16}, {1, 2}}),
                           blocked(dims, {{0, 16}, {1, 16}}),
                           blocked(dims, {{0, 24}})};
  for (const Layout& from : masters) {
    for (const Layout& to : copies) {
      check(DType::f32, dims, from, to, DType::bf16);
      check(DType::f32, dims, from, to);
      check(DType::bf16, dims, from, to);
    }
  }
}

TEST(Reorder, WorkingCopies) {
  for (int64_t targets : {int64_t{0}, int64_t{HWY_AVX2}, int64_t{HWY_STATIC_TARGET}}) {
    if ((targets & ~hwy::SupportedTargets()) != 0) continue;
    SCOPED_TRACE(cat("vectors of targets ", targets));
    hwy::SetSupportedTargetsForTest(targets);
    for (const Dims& dims : {Dims{64, 128, 3, 3}, Dims{96, 48, 1, 1}, Dims{21, 13, 3, 2}, Dims{1, 1, 1, 1}})
      check_working_copies(dims);
    hwy::SetSupportedTargetsForTest(0);
  }
}

TEST(Reorder, BlocksOfOtherSizes) {
  const Dims dims = {50, 70};
  for (const Layout& from :
       {blocked(dims, {{0, 16}, {1, 4}}), blocked(dims, {{1, 24}}), blocked(dims, {{0, 3}, {1, 5}, {0, 2}})})
    for (const Layout& to : {blocked(dims, {{0, 24}}), blocked(dims, {{1, 16}, {0, 4}}), Layout::plain(dims)})
      check(DType::f32, dims, from, to);
}

TEST(Reorder, TransposedLayouts) {
  Dims dims = {3, 5, 9, 20};
  for (const std::vector<int>& order : {std::vector<int>{3, 2, 1, 0}, {1, 0, 3, 2}, {0, 1, 3, 2}, {2, 3, 0, 1}})
    check_both_ways(dims, Layout::permuted(dims, order));
  // What lies as nChw8c, called NHWC.
  Dims nhwc = {3, 9, 20, 5};
  check_both_ways(nhwc, layout_of_tag("nChw8c", dims).transposed({0, 2, 3, 1}));
}

TEST(Reorder, OtherRanksAndEmptyTensors) {
  check_both_ways({37}, blocked({37}, {{0, 16}}));
  check_both_ways({19, 5}, blocked({19, 5}, {{1, 8}}));
  check_both_ways({0, 5}, Layout::permuted({0, 5}, {1, 0}));
  check_both_ways({}, Layout::plain({}));
}

TEST(Reorder, LargeEnoughForSeveralThreads) {
  Dims dims = {2, 67, 40, 41};
  check_both_ways(dims, layout_of_tag("nChw16c", dims));
  check_both_ways(dims, layout_of_tag("nhwc", dims));
  check_both_ways({300, 410}, Layout::permuted({300, 410}, {1, 0}));
  check(DType::f32, {300, 410}, Layout::plain({300, 410}), Layout::permuted({300, 410}, {1, 0}), DType::bf16);
  check(DType::f32, {300, 410}, Layout::plain({300, 410}), Layout::plain({300, 410}), DType::bf16);
}

TEST(Reorder, GradientIsThatOfTheResult) {
  check_op("(float[2,3] x) => (y) { a = graft.Reorder(x) y = Mul(a, a) }", {}, {.forward = false});
}

}  // namespace
}  // namespace graft::test
