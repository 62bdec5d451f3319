#include <gtest/gtest.h>

#include "ops/bfloat16_gemm.h"
#include "ops/op.h"
#include "runtime/device/device.h"
#include "tests/support/check_op.h"
#include "tests/support/run_op.h"
#include "tests/support/text_graph.h"

namespace graft::test {
namespace {

// oneDNN's own choice of layouts depends on the machine; sums of several hundred terms in another order.
void check_blocked(const char* text) { check_layout(text, "any", 0, {}, 1e-4); }

TEST(Conv, OneToThreeAxes) {
  check_op("(float[2,3,11] x, float[5,3,4] w, float[5] b) => (y) { y = Conv(x, w, b) }");
  check_op("(float[2,3,9,7] x, float[5,3,3,2] w, float[5] b) => (y) { y = Conv(x, w, b) }");
  check_op("(float[1,2,5,6,4] x, float[3,2,2,3,2] w) => (y) { y = Conv(x, w) }");
}

TEST(Conv, StridesPadsDilations) {
  check_op("(float[2,3,12,11] x, float[4,3,3,3] w) => (y) { y = Conv<strides = [2, 3], pads = [1, 0, 2, 1]>(x, w) }");
  check_op("(float[1,3,12,11] x, float[4,3,3,2] w) => (y) { y = Conv<dilations = [2, 3], pads = [2, 2, 2, 2]>(x, w) }");
  check_op(
      "(float[1,2,13] x, float[4,2,3] w) => (y) { y = Conv<dilations = [3], strides = [2], pads = [4, 0]>(x, w) }");
}

TEST(Conv, AutoPad) {
  for (const char* pad : {"SAME_UPPER", "SAME_LOWER", "VALID"}) {
    check_op(cat("(float[1,3,10,9] x, float[4,3,3,4] w) => (y) { y = Conv<auto_pad = \"", pad,
                 "\", strides = [2, 2]>(x, w) }"));
  }
}

TEST(Conv, Groups) {
  check_op("(float[2,6,7,5] x, float[4,3,3,3] w, float[4] b) => (y) { y = Conv<group = 2>(x, w, b) }");
  check_op("(float[1,32,4,5] x, float[32,16,1,2] w) => (y) { y = Conv<group = 2>(x, w) }");
  check_op("(float[1,20,6,5] x, float[20,5,3,3] w) => (y) { y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, w) }");
}

TEST(Conv, Depthwise) {
  check_op(
      "(float[2,19,8,7] x, float[19,1,3,3] w, float[19] b) => (y) { y = Conv<group = 19, pads = [1, 1, 1, 1], strides "
      "= [2, 2]>(x, w, b) }");
  check_op("(float[1,32,9,9] x, float[32,1,5,5] w) => (y) { y = Conv<group = 32, pads = [2, 2, 2, 2]>(x, w) }");
  check_op("(float[1,5,8,7] x, float[10,1,3,3] w) => (y) { y = Conv<group = 5>(x, w) }");
}

TEST(Conv, ManyChannels) {
  check_op("(float[1,19,6,5] x, float[21,19,3,3] w, float[21] b) => (y) { y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }");
  check_op("(float[2,64,5,5] x, float[32,64,1,1] w) => (y) { y = Conv<strides = [2, 2]>(x, w) }");
}

TEST(Conv, Empty) {
  check_op("(float[0,3,5,5] x, float[2,3,3,3] w, float[2] b) => (y) { y = Conv(x, w, b) }", {}, {.gradient = false});
}

TEST(Conv, BlockedLayouts) {
  check_blocked(
      "(float[2,32,9,8] x, float[32,32,3,3] w, float[32] b) => (y) { y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }");
  check_blocked("(float[2,48,9,8] x, float[19,48,1,1] w) => (y) { y = Conv<strides = [2, 1]>(x, w) }");
  check_blocked("(float[2,48,9,8] x, float[48,1,3,3] w) => (y) { y = Conv<group = 48>(x, w) }");
  check_blocked("(float[2,64,9,8] x, float[64,16,3,3] w) => (y) { y = Conv<group = 4>(x, w) }");
}

TEST(ConvGrad, BlockedLayouts) {
  check_blocked(
      "(float[2,32,7,6] dy, float[32,32,3,3] w) => (dx) { dx = graft.ConvGradData<x_shape = [2,32,9,8]>(dy, w) }");
  check_blocked(
      "(float[2,32,9,8] x, float[2,48,7,6] dy) => (dw, db) { dw, db = graft.ConvGradWeights<w_shape = [48,32,3,3]>(x, "
      "dy) }");
  check_blocked(
      "(float[2,64,9,8] x, float[2,64,7,6] dy) => (dw) { dw = graft.ConvGradWeights<group = 4, w_shape = "
      "[64,16,3,3]>(x, dy) }");
  check_blocked(
      "(float[2,48,9,8] x, float[2,48,7,6] dy) => (dw) { dw = graft.ConvGradWeights<group = 48, w_shape = "
      "[48,1,3,3]>(x, dy) }");
}

// Channels in whole blocks, windows of 3x3: Winograd's algorithm, on tiles that reach beyond every edge.
TEST(Conv, Winograd) {
  for (const char* pads : {"0, 0, 0, 0", "1, 1, 1, 1", "2, 0, 1, 2"}) {
    const std::string attributes = cat("<pads = [", pads, "]>");
    check_blocked(cat("(float[3,16,7,12] x, float[48,16,3,3] w) => (y) { y = Conv", attributes, "(x, w) }").c_str());
    check_blocked(
        cat("(float[1,64,3,3] x, float[16,64,3,3] w, float[16] b) => (y) { y = Conv", attributes, "(x, w, b) }")
            .c_str());
  }
  check_blocked("(float[2,32,7,5] x, float[32,16,3,3] w, float[16] b) => (y) { y = ConvTranspose(x, w, b) }");
}

TEST(ConvGrad, Winograd) {
  check_blocked(
      "(float[2,48,6,11] dy, float[48,16,3,3] w) => (dx) { dx = graft.ConvGradData<pads = [1, 1, 1, 1], x_shape = "
      "[2,16,6,11]>(dy, w) }");
  // Chunks of tiles, the last one smaller.
  check_layout(
      "(float[2,64,47,46] x, float[2,64,47,46] dy) => (dw, db) { dw, db = graft.ConvGradWeights<pads = [1, 1, 1, 1], "
      "w_shape = [64,64,3,3]>(x, dy) }",
      "any", 0, {}, 1e-3);
}

// 1x1 windows, few channels and many pixels: 24 are not whole blocks, pixels not whole pieces, and the largest result
// goes past the caches.
TEST(Conv, FewChannels) {
  check_blocked("(float[2,24,67,63] x, float[40,24,1,1] w) => (y) { y = Conv(x, w) }");
  check_blocked("(float[1,16,300,250] x, float[64,16,1,1] w) => (y) { y = Conv(x, w) }");
  check_blocked("(float[3,19,4001] x, float[5,19,1] w) => (y) { y = Conv(x, w) }");
}

TEST(ConvGrad, FewChannels) {
  check_blocked(
      "(float[2,24,67,63] dy, float[24,48,1,1] w) => (dx) { dx = graft.ConvGradData<x_shape = [2,48,67,63]>(dy, w) }");
  for (auto [from, to] : {std::pair{"24", "40"}, {"32", "24"}, {"31", "97"}, {"16", "32"}}) {
    check_layout(cat("(float[2,", from, ",67,63] x, float[2,", to, ",67,63] dy) => (dw, db) ",
                     "{ dw, db = graft.ConvGradWeights<w_shape = [", to, ",", from, ",1,1]>(x, dy) }"),
                 "any", 0, {}, 2e-3);  // sums of 8442 products
  }
}

// Sums over each channel of what a convolution of few channels gives, as those who read them find them.
std::vector<double> statistics_of(const Node& node, const Tensor& x, const Tensor& w, Tensor& y) {
  const KernelFunctions* kernel = find_kernel(node);
  const Settlement settlement = kernel->settle(node, nullptr);
  std::vector<double> statistics(static_cast<size_t>(settlement.opaque_bytes.at(1)) / sizeof(double));
  auto scratch = allocate_bytes(settlement.scratch_bytes, false);
  kernel->prepare(
      node, {{x.raw(), w.raw()}, {y.raw(), statistics.data()}, scratch.get(), &settlement})(*make_stream(Device::cpu));
  return statistics;
}

TEST(Conv, FewChannelsLeaveTheirStatistics) {
  // Pixels that fill no piece, and channels that fill no block.
  auto graph = graph_from_text("(float[3,17,41,53] x, float[40,17,1,1] w) => (y) { y = Conv(x, w) }");
  Node& node = **graph->nodes().begin();
  const Op& op = *find_op(node);
  for (Value* value : {node.inputs[0], node.inputs[1], node.outputs[0]}) value->layout = Layout::plain(value->dims);
  EXPECT_FALSE(op.gives_statistics(node));
  const Candidate candidate = find_kernel(node)->propose(node).at(0);
  for (size_t i = 0; i < 2; ++i) node.inputs[i]->layout = candidate.inputs[i];
  Value& result = *node.outputs[0];
  result.layout = candidate.outputs[0];
  ASSERT_TRUE(op.gives_statistics(node));
  node.kernel = "direct";
  EXPECT_FALSE(op.gives_statistics(node));
  node.kernel = "";
  graph->add_output(&node)->opaque = true;
  EXPECT_TRUE(find_kernel(node)->choices(node).empty());  // no other kernel leaves them

  auto as_wanted = [](const Value& value, const Tensor& plain) {
    Tensor laid(DType::f32, {value.layout.storage_count()});
    relayout(value.dims, sizeof(float), Layout::plain(value.dims), plain.raw(), value.layout, laid.raw());
    return laid;
  };
  const Tensor x = as_wanted(*node.inputs[0], random_feed(DType::f32, node.inputs[0]->dims, 3, 5, 1));
  const Tensor w = as_wanted(*node.inputs[1], random_feed(DType::f32, node.inputs[1]->dims, -1, 1, 2));
  Tensor laid(DType::f32, {result.layout.storage_count()}), y(DType::f32, result.dims);
  const std::vector<double> found = statistics_of(node, x, w, laid);
  relayout(result.dims, sizeof(float), result.layout, laid.raw(), Layout::plain(result.dims), y.raw());
  const int64_t channels = result.dims[1], pixels = result.dims[2] * result.dims[3];
  const auto padded = static_cast<int64_t>(found.size()) / 3;
  ASSERT_GE(padded, channels);
  auto of = [&](int64_t which, int64_t c) { return found[static_cast<size_t>(which * padded + c)]; };
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, squares = 0;
    for (int64_t n = 0; n < result.dims[0]; ++n) {
      for (int64_t i = 0; i < pixels; ++i) {
        const double centred = static_cast<double>(y.data<float>()[(n * channels + c) * pixels + i]) - of(0, c);
        sum += centred;
        squares += centred * centred;
      }
    }
    EXPECT_EQ(of(0, c), static_cast<double>(y.data<float>()[c * pixels]));
    EXPECT_NEAR(of(1, c), sum, 1e-6 * squares);
    EXPECT_NEAR(of(2, c), squares, 1e-6 * squares);
  }
  expect_same_for_any_threads([&] {
    const std::vector<double> some = statistics_of(node, x, w, laid);
    return Tensor::of<double>({static_cast<int64_t>(some.size())}, some);
  });
}

TEST(Conv, WinogradCanBeForbidden) {
  auto graph = graph_from_text("(float[2,16,9,9] x, float[16,16,3,3] w) => (y) { y = Conv(x, w) }");
  Node& node = *graph->nodes().front();
  for (auto* value : node.inputs) value->layout = Layout::plain(value->dims);
  auto allowed = find_kernel(node)->propose(node);
  node.attributes["winograd"] = int64_t{0};
  auto forbidden = find_kernel(node)->propose(node);
  EXPECT_EQ(allowed.size(), forbidden.size() + 1);
}

// oneDNN divides by zero where its 32 bits hold nothing of a size.
TEST(Conv, SamplesThatOneDnnCannotCountAreRefused) {
  for (const char* kernel : {"1,1", "3,3"}) {
    auto graph =
        graph_from_text(cat("(float[1,16,65536,65538] x, float[16,16,", kernel, "] w) => (y) { y = Conv(x, w) }"));
    Node& node = *graph->nodes().front();
    for (auto* value : node.inputs) value->layout = Layout::plain(value->dims);
    EXPECT_THROW(find_kernel(node)->propose(node), UnsupportedError);
    if (has_bfloat16()) {
      EXPECT_THROW(find_op(node)->mixed_precision(node), UnsupportedError);
    }
  }
}

TEST(ConvGrad, SecondOrder) {
  OpCheck check{.forward = false};
  check_op("(float[2,4,3,5] dy, float[4,3,3,2] w) => (dx) { dx = graft.ConvGradData<x_shape = [2,3,5,6]>(dy, w) }", {},
           check);
  check_op(
      "(float[2,3,5,6] x, float[2,4,3,5] dy) => (dw, db) { dw, db = graft.ConvGradWeights<w_shape = [4,3,3,2]>(x, dy) "
      "}",
      {}, check);
}

TEST(ConvTranspose, Shapes) {
  check_op("(float[2,5,6] x, float[5,3,4] w, float[3] b) => (y) { y = ConvTranspose(x, w, b) }");
  check_op(
      "(float[1,4,5,6] x, float[4,3,3,2] w, float[3] b) => (y) { y = ConvTranspose<strides = [2, 3], pads = [1, 0, 1, "
      "1], output_padding = [1, 2]>(x, w, b) }");
  check_op("(float[1,4,5,6] x, float[4,3,3,3] w) => (y) { y = ConvTranspose<dilations = [2, 1], group = 2>(x, w) }");
  check_op(
      "(float[1,4,5,6] x, float[4,2,3,3] w) => (y) { y = ConvTranspose<strides = [2, 2], output_shape = [10, 12]>(x, "
      "w) }");
  for (const char* pad : {"SAME_UPPER", "SAME_LOWER"}) {
    check_op(cat("(float[1,4,5,6] x, float[4,2,3,4] w) => (y) { y = ConvTranspose<strides = [2, 2], auto_pad = \"", pad,
                 "\">(x, w) }"));
  }
}

TEST(ConvTranspose, BlockedLayouts) {
  check_blocked(
      "(float[2,32,7,6] x, float[32,32,2,2] w, float[32] b) => (y) { y = ConvTranspose<strides = [2, 2]>(x, w, b) }");
}

TEST(Conv, WeightsLargerThanTheInputAreRefused) {
  Tensor x(DType::f32, {1, 2, 8, 8});
  EXPECT_NO_THROW(run_op("", "Conv", {x, Tensor(DType::f32, {3, 2, 8, 8})}, 1));
  EXPECT_THROW(run_op("", "Conv", {x, Tensor(DType::f32, {3, 2, 9, 1})}, 1), ModelError);
}

// Forward, both gradients, with bias and without, grouped and depthwise, odd numbers of channels.
TEST(Conv, MixedPrecision) {
  if (!has_bfloat16()) GTEST_SKIP() << "this CPU has no instructions for bfloat16";
  constexpr double tolerance = 4e-2;  // sums of a few hundred products, rounded to 8 bits
  auto check = [&](const std::string& text) { check_mixed(text, "any", 0, {}, tolerance); };
  for (const char* c : {"32", "19"}) {
    check(cat("(float[2,", c, ",9,7] x, float[16,", c, ",3,3] w, float[16] b) => (y) ",
              "{ y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }"));
    check(cat("(float[2,16,9,7] dy, float[16,", c, ",3,3] w) => (dx) { dx = graft.ConvGradData<pads = [1, 1, 1, 1], ",
              "x_shape = [2, ", c, ", 9, 7]>(dy, w) }"));
    check(cat("(float[2,", c, ",9,7] x, float[2,16,9,7] dy) => (dw, db) { dw, db = graft.ConvGradWeights<",
              "pads = [1, 1, 1, 1], w_shape = [16, ", c, ", 3, 3]>(x, dy) }"));
  }
  for (const char* c : {"32", "19", "1"}) {
    check(cat("(float[2,", c, ",9,7] x, float[2,16,9,7] dy) => (dw, db) { dw, db = graft.ConvGradWeights<",
              "w_shape = [16, ", c, ", 1, 1]>(x, dy) }"));
  }
  check("(float[2,32,9,7] x, float[32,1,3,3] w) => (y) { y = Conv<pads = [1, 1, 1, 1], group = 32>(x, w) }");
  check("(float[2,32,9] x, float[64,8,3] w) => (y) { y = Conv<pads = [1, 1], group = 4>(x, w) }");
  check("(float[2,32,7,6] x, float[32,48,2,2] w) => (y) { y = ConvTranspose<strides = [2, 2]>(x, w) }");
}

// 1x1 windows in blocks of channels on the CPU's matrix tiles: channels and pixels that fill no tile, tiles that reach
// from one sample into the next, and more pixels than are worked on together.
TEST(Conv, OnTiles) {
  if (!has_matrix_tiles()) GTEST_SKIP() << "this CPU has no tiles";
  auto check = [&](const std::string& text) { check_mixed(text, "any", 0, {}, 4e-2); };  // as above
  for (auto [samples, map, from, to] : {std::tuple{3, "9,7", 40, 24}, {1, "41,40", 16, 80}, {5, "7,7", 704, 96}}) {
    const std::string x = cat('[', samples, ',', from, ',', map, ']'),
                      shape = cat('[', samples, ',', to, ',', map, ']');
    check(cat("(float", x, " x, float[", to, ',', from, ",1,1] w) => (y) { y = Conv(x, w) }"));
    check(cat("(float", x, " dy, float[", from, ',', to, ",1,1] w) => (dx) ",
              "{ dx = graft.ConvGradData<x_shape = ", shape, ">(dy, w) }"));
  }
  check("(float[2,19,300] x, float[5,19,1] w) => (y) { y = Conv(x, w) }");
}

// Of few weights and many, of large maps and of small ones that are brought together, of some the last ones alone.
TEST(ConvGrad, OnTiles) {
  if (!has_matrix_tiles()) GTEST_SKIP() << "this CPU has no tiles";
  for (const char* map : {"30,31", "9,7", "23,22"}) {
    for (auto [from, to] : {std::pair{24, 40}, {16, 96}, {100, 176}, {176, 100}}) {
      const std::string text = cat("(float[11,", from, ',', map, "] x, float[11,", to, ',', map, "] dy) => (dw, db) ",
                                   "{ dw, db = graft.ConvGradWeights<w_shape = [", to, ',', from, ",1,1]>(x, dy) }");
      EXPECT_TRUE(check_choices(text, DType::bf16, 2e-3).count("tiles")) << text;  // sums of 10230 products
    }
  }
}

// The same in float32: samples that end within a tile, more channels than are added up at a time, and a bias.
TEST(Conv, FloatOnTiles) {
  if (!has_matrix_tiles()) GTEST_SKIP() << "this CPU has no tiles";
  auto check = [&](const std::string& text) {
    EXPECT_TRUE(check_choices(text, DType::f32, 5e-4).count("float_tiles")) << text;  // sums of 2192 products
  };
  for (auto [samples, map, from, to] :
       {std::tuple{5, "7,7", 272, 256}, {2, "23,19", 256, 400}, {3, "13,11", 2192, 256}}) {
    const std::string x = cat('[', samples, ',', from, ',', map, ']'), y = cat('[', samples, ',', to, ',', map, ']'),
                      w = cat('[', to, ',', from, ",1,1]");
    check(cat("(float", x, " x, float", w, " w, float[", to, "] b) => (y) { y = Conv(x, w, b) }"));
    check(cat("(float", y, " dy, float", w, " w) => (dx) { dx = graft.ConvGradData<x_shape = ", x, ">(dy, w) }"));
    check(cat("(float", x, " x, float", y, " dy) => (dw, db) { dw, db = graft.ConvGradWeights<w_shape = ", w,
              ">(x, dy) }"));
    check(cat("(float", y, " x, float", w, " w, float[", from, "] b) => (y) { y = ConvTranspose(x, w, b) }"));
  }
  // Windows that are pixels apart.
  const std::string x = "[3,256,17,14]", y = "[3,272,9,5]", w = "[272,256,1,1]", strides = "strides = [2, 3]";
  check(cat("(float", x, " x, float", w, " w, float[272] b) => (y) { y = Conv<", strides, ">(x, w, b) }"));
  check(cat("(float", y, " dy, float", w, " w) => (dx) { dx = graft.ConvGradData<", strides, ", x_shape = ", x,
            ">(dy, w) }"));
  check(cat("(float", x, " x, float", y, " dy) => (dw, db) { dw, db = graft.ConvGradWeights<", strides,
            ", w_shape = ", w, ">(x, dy) }"));
}

}  // namespace
}  // namespace graft::test
