// Old forms mean the same after lifting: onnxruntime runs the file as it is, the reference runs the lifted graph.
#include <gtest/gtest.h>

#include "graph/schema.h"
#include "importers/onnx/model.h"
#include "tests/support/check_op.h"
#include "tests/support/onnx_file.h"
#include "tests/support/reference.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

using test::bytes_of;
using test::onnx_bytes;

std::unique_ptr<Graph> lifted(const std::string& bytes) {
  TemporaryFolder folder;
  auto graph = OnnxModel::load(folder.write("model.onnx", bytes)).graph();
  verify(*graph);
  for (const auto& node : graph->nodes()) schema::infer(*node);
  return graph;
}

test::Feeds random_feeds(const Graph& graph) {
  test::Feeds feeds;
  unsigned seed = 1;
  for (const Value* input : graph.inputs) {
    Dims dims = input->dims;
    for (auto& d : dims) d = d < 0 ? 2 : d;
    feeds[input->name] = test::random_feed(input->dtype, dims, -2, 2, seed++);
  }
  return feeds;
}

struct LiftCase {
  const char* name;
  int64_t opset;
  const char* text;
  const char* same_as = nullptr;  // a text of the internal opset, where no oracle runs the old form
};

void PrintTo(const LiftCase& c, std::ostream* out) { *out << c.name << " of opset " << c.opset; }

class Lift : public testing::TestWithParam<LiftCase> {};

TEST_P(Lift, KeepsTheMeaning) {
  const LiftCase& c = GetParam();
  std::string old = onnx_bytes(c.text, c.opset);
  auto graph = lifted(old);
  test::Feeds feeds = random_feeds(*graph);
  std::vector<Tensor> expected = c.same_as ? test::reference_outputs(onnx_bytes(c.same_as, internal_opset), feeds)
                                           : test::reference_outputs(old, feeds, test::Oracle::onnxruntime);
  std::vector<Tensor> got = test::reference_outputs(bytes_of(*graph), feeds);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) test::expect_close(got[i], expected[i], 1e-5, c.name);
}

const LiftCase cases[] = {
    {"Softmax", 11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis = 1>(x) }"},
    {"SoftmaxDefault", 12, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax(x) }"},
    {"SoftmaxLast", 9, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis = 2>(x) }"},
    {"SoftmaxNegative", 11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis = -2>(x) }"},
    {"SoftmaxOnes", 11, "(float[2,3,1,1] x) => (float[2,3,1,1] y) { y = Softmax(x) }"},
    {"SoftmaxZero", 11, "(float[2,3] x) => (float[2,3] y) { y = Softmax<axis = 0>(x) }"},
    {"SoftmaxFreeDims", 11, "(float[N,M,4] x) => (float[N,M,4] y) { y = Softmax(x) }"},
    {"LogSoftmax", 11, "(float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax(x) }"},
    {"Hardmax", 11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax(x) }"},
    {"Squeeze", 11, "(float[2,1,4] x) => (float[2,4] y) { y = Squeeze<axes = [1]>(x) }"},
    {"SqueezeAll", 11, "(float[2,1,4] x) => (float[2,4] y) { y = Squeeze(x) }"},
    {"Unsqueeze", 11, "(float[2,4] x) => (float[1,2,4,1] y) { y = Unsqueeze<axes = [0, 3]>(x) }"},
    {"ReduceSum", 11, "(float[2,3,4] x) => (float[2,4] y) { y = ReduceSum<axes = [1], keepdims = 0>(x) }"},
    {"ReduceSumAll", 11, "(float[2,3,4] x) => (float[1,1,1] y) { y = ReduceSum(x) }"},
    {"ReduceMean", 17, "(float[2,3,4] x) => (float[2,1,1] y) { y = ReduceMean<axes = [1, -1]>(x) }"},
    {"ReduceMax", 17, "(float[2,3,4] x) => (float[3] y) { y = ReduceMax<axes = [0, 2], keepdims = 0>(x) }"},
    {"ReduceMin", 13, "(float[2,3,4] x) => (float[2,1,4] y) { y = ReduceMin<axes = [1]>(x) }"},
    {"ReduceProd", 9, "(float[2,3] x) => (float[2,1] y) { y = ReduceProd<axes = [1]>(x) }"},
    {"ReduceL1", 9, "(float[2,3] x) => (float[2,1] y) { y = ReduceL1<axes = [1]>(x) }"},
    {"ReduceL2", 9, "(float[2,3] x) => (float[2,1] y) { y = ReduceL2<axes = [1]>(x) }"},
    {"ReduceLogSumExp", 9, "(float[2,3] x) => (float[2,1] y) { y = ReduceLogSumExp<axes = [1]>(x) }"},
    {"ReduceSumSquare", 9, "(float[2,3] x) => (float[2,1] y) { y = ReduceSumSquare<axes = [1]>(x) }"},
    {"ReduceLogSum", 9, "(float[2,3] x) => (float[2,1] y) { a = Exp(x) y = ReduceLogSum<axes = [1]>(a) }"},
    {"Clip", 10, "(float[2,3] x) => (float[2,3] y) { y = Clip<min = -0.5, max = 1.25>(x) }"},
    {"ClipBelow", 7, "(float[2,3] x) => (float[2,3] y) { y = Clip<min = 0.25>(x) }"},
    {"ClipAbove", 7, "(float[2,3] x) => (float[2,3] y) { y = Clip<max = 0.25>(x) }"},
    {"ClipNothing", 7, "(float[2,3] x) => (float[2,3] y) { y = Clip(x) }"},
    {"Pad", 10, "(float[2,3] x) => (float[3,6] y) { y = Pad<pads = [1, 0, 0, 3], value = 2.5>(x) }"},
    {"PadReflect", 10, "(float[2,3] x) => (float[2,5] y) { y = Pad<pads = [0, 1, 0, 1], mode = \"reflect\">(x) }"},
    {"Slice", 9, "(float[4,5] x) => (float[2,4] y) { y = Slice<starts = [1, 0], ends = [3, -1]>(x) }"},
    {"SliceAxes", 9, "(float[4,5] x) => (float[4,2] y) { y = Slice<axes = [1], starts = [-2], ends = [9999]>(x) }"},
    {"Dropout", 11, "(float[2,3] x) => (float[2,3] y) { y = Dropout<ratio = 0.3>(x) }"},
    {"DropoutMask", 7, "(float[2,3] x) => (float[2,3] y, float[2,3] m) { y, m = Dropout(x) }",
     "(float[2,3] x) => (float[2,3] y, float[2,3] m) { y, k = Dropout(x) m = Cast<to = 1>(k) }"},
    {"BatchNormalization", 7,
     "(float[2,3,2] x) => (float[2,3,2] y) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, float[3] m = {0.1, 0.2, "
     "0.3}, "
     "float[3] v = {1, 0.5, 2}> { y = BatchNormalization<epsilon = 0.01>(x, s, b, m, v) }"},
    {"BatchNormalizationByPosition", 7,
     "(float[2,3] x) => (float[2,3] y) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, float[3] m = {0.1, 0.2, 0.3}, "
     "float[3] v = {1, 0.5, 2}> { y = BatchNormalization<epsilon = 0.01, spatial = 0>(x, s, b, m, v) }",
     "(float[2,3] x) => (float[2,3] y) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, float[3] m = {0.1, 0.2, 0.3}, "
     "float[3] v = {1, 0.5, 2}> { y = BatchNormalization<epsilon = 0.01>(x, s, b, m, v) }"},
    {"BatchNormalizationTraining", 9,
     "(float[2,3,2] x) => (float[2,3,2] y, float[3] rm, float[3] rv) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, "
     "float[3] m = "
     "{0.1, 0.2, 0.3}, float[3] v = {1, 0.5, 2}> { y, rm, rv, sm, sv = BatchNormalization<momentum = 0.8>(x, s, b, m, "
     "v) }",
     "(float[2,3,2] x) => (float[2,3,2] y, float[3] rm, float[3] rv) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, "
     "float[3] m = "
     "{0.1, 0.2, 0.3}, float[3] v = {1, 0.5, 2}> { y, rm, rv = BatchNormalization<momentum = 0.8, training_mode = "
     "1>(x, s, b, m, v) }"},
    {"BatchNormalizationSaved", 9,
     "(float[2,3,2] x) => (float[2,3,2] y, float[3] sm, float[3] sv) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, "
     "float[3] m = "
     "{0.1, 0.2, 0.3}, float[3] v = {1, 0.5, 2}> { y, rm, rv, sm, sv = BatchNormalization(x, s, b, m, v) }",
     "(float[2,3,2] x) => (float[2,3,2] y, float[3] sm, float[3] sv) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, "
     "float[3] m = "
     "{0.1, 0.2, 0.3}, float[3] v = {1, 0.5, 2}, int64[2] a = {0, 2}> { y, rm, rv = BatchNormalization<training_mode = "
     "1>(x, s, b, m, v) "
     "sm = ReduceMean<keepdims = 0>(x, a) k = ReduceMean(x, a) d = Sub(x, k) q = Mul(d, d) sv = ReduceMean<keepdims = "
     "0>(q, a) }"},
    {"Upsample", 7, "(float[1,1,2,3] x) => (float[1,1,4,9] y) { y = Upsample<scales = [1.0, 1.0, 2.0, 3.0]>(x) }"},
    {"UpsampleLinear", 7,
     "(float[1,1,2,3] x) => (float[1,1,4,6] y) { y = Upsample<mode = \"linear\", scales = [1.0, 1.0, 2.0, 2.0]>(x) }"},
    {"Upsample", 9, "(float[1,1,2,3] x) => (float[1,1,4,6] y) <float[4] s = {1, 1, 2, 2}> { y = Upsample(x, s) }"},
    {"Resize", 10, "(float[1,1,2,3] x) => (float[1,1,4,6] y) <float[4] s = {1, 1, 2, 2}> { y = Resize(x, s) }"},
    {"ResizeDown", 10, "(float[1,1,4,8] x) => (float[1,1,2,4] y) <float[4] s = {1, 1, 0.6, 0.6}> { y = Resize(x, s) }"},
    {"ResizeMixed", 10, "(float[1,1,4,4] x) => (float[1,1,8,2] y) <float[4] s = {1, 1, 2, 0.6}> { y = Resize(x, s) }"},
    {"ResizeLinear", 10,
     "(float[1,1,2,3] x) => (float[1,1,4,6] y) <float[4] s = {1, 1, 2, 2}> { y = Resize<mode = \"linear\">(x, s) }"},
    {"Resize", 11,
     "(float[1,1,2,3] x) => (float[1,1,4,6] y) <float[0] r = {}, float[4] s = {1, 1, 2, 2}> { y = Resize(x, r, s) }"},
    {"ResizeHalfPixelForNearest", 11,
     "(float[1,1,4,6] x) => (float[1,1,3,10] y) <float[0] r = {}, float[0] s = {}, int64[4] z = {1, 1, 3, 10}> "
     "{ y = Resize<coordinate_transformation_mode = \"tf_half_pixel_for_nn\", nearest_mode = \"floor\">(x, r, s, z) }"},
    {"Split", 11, "(float[4,5] x) => (float[4,2] a, float[4,3] b) { a, b = Split<axis = 1, split = [2, 3]>(x) }"},
    {"SplitEvenly", 11, "(float[4,6] x) => (float[4,3] a, float[4,3] b) { a, b = Split<axis = 1>(x) }"},
    {"SplitEvenly", 13, "(float[4,6] x) => (float[2,6] a, float[2,6] b) { a, b = Split(x) }"},
    {"TopK", 9, "(float[4,6] x) => (float[4,2] a, int64[4,2] b) { a, b = TopK<k = 2>(x) }"},
    {"Gemm", 7,
     "(float[2,3] x) => (float[2,4] y) <float[3,4] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[4] b = {1,2,3,4}> { y = "
     "Gemm(x, w, b) }"},
    {"Cast", 7, "(float[2,3] x) => (int32[2,3] y) { y = Cast<to = 6>(x) }"},
    {"Scatter", 9,
     "(float[3,3] x) => (float[3,3] y) <int64[1,3] i = {2, 0, 1}, float[1,3] u = {7, 8, 9}> { y = Scatter(x, i, u) }"},
    {"MaxPool", 7,
     "(float[1,1,4,4] x) => (float[1,1,2,2] y) { y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }"},
    {"AveragePool", 7, "(float[1,1,4,4] x) => (float[1,1,3,3] y) { y = AveragePool<kernel_shape = [2, 2]>(x) }"},
    {"GridSample", 16,
     "(float[1,1,4,4] x) => (float[1,1,1,2] y) <float[1,1,2,2] g = {0.1, 0.2, -0.5, 0.7}> { y = GridSample<mode = "
     "\"bilinear\">(x, g) }"},
    {"GroupNormalization", 18,
     "(float[2,4,3] x) => (float[2,4,3] y) <float[2] s = {1, 2}, float[2] b = {0.5, -1}> { y = "
     "GroupNormalization<num_groups = 2>(x, s, b) }",
     "(float[2,4,3] x) => (float[2,4,3] y) <float[4] s = {1, 1, 2, 2}, float[4] b = {0.5, 0.5, -1, -1}> "
     "{ y = GroupNormalization<num_groups = 2>(x, s, b) }"},
    {"DFT", 17, "(float[1,8,1] x) => (float[1,8,2] y) { y = DFT<axis = 1>(x) }"},
    {"RoiAlign", 10,
     "(float[1,1,6,6] x) => (float[1,1,2,2] y) <float[1,4] r = {1, 1, 4, 4}, int64[1] i = {0}> "
     "{ y = RoiAlign<output_height = 2, output_width = 2, sampling_ratio = 2>(x, r, i) }"},
    {"HardSigmoid", 7, "(float[2,3] x) => (float[2,3] y) { y = HardSigmoid<alpha = 0.3>(x) }"},
    {"Reshape", 7, "(float[2,6] x) => (float[3,4] y) <int64[2] s = {3, -1}> { y = Reshape(x, s) }"},
    {"Broadcast", 7, "(float[2,3] x) => (float[2,3] y) <float[3] b = {1, 2, 3}> { a = Add(x, b) y = Mul(a, b) }"},
    {"OneHot", 9,
     "(float[2,3] x) => (float[2,4] y) <int64[2] i = {1, 3}, int64 d = {4}, float[2] v = {0, 1}> { h = OneHot(i, d, v) "
     "y = Identity(h) }"},
    {"PRelu", 7, "(float[2,3] x) => (float[2,3] y) <float[3] s = {0.1, 0.2, 0.3}> { y = PRelu(x, s) }"},
    {"LSTM", 7,
     "(float[2,1,3] x) => (float[2,1,1,1] y) <float[1,4,3] w = {1,2,3,4,5,6,7,8,9,-1,-2,-3}, float[1,4,1] r = "
     "{0.1,0.2,0.3,0.4}> "
     "{ y = LSTM<hidden_size = 1>(x, w, r) }"},
    {"ConstantOfShape", 9,
     "(float[2] x) => (float[2] y) <int64[1] s = {2}> { c = ConstantOfShape<value = float[1] {3}>(s) y = Add(x, c) }"},
};

INSTANTIATE_TEST_SUITE_P(Rows, Lift, testing::ValuesIn(cases),
                         [](const auto& each) { return cat(each.param.name, '_', each.param.opset, '_', each.index); });

TEST(LiftStructure, SoftmaxOfTheLastAxisStaysOneNode) {
  auto graph = lifted(onnx_bytes("(float[N,10] x) => (float[N,10] y) { y = Softmax(x) }", 11));
  ASSERT_EQ(graph->nodes().size(), 1U);
  EXPECT_EQ(graph->nodes().front()->type, "Softmax");
}

TEST(LiftStructure, ResultsKeepTheirNames) {
  auto graph = lifted(onnx_bytes("(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax(x) }", 11));
  EXPECT_EQ(graph->outputs[0]->name, "y");
  EXPECT_EQ(graph->outputs[0]->producer->type, "Reshape");
}

TEST(LiftStructure, OldFormsWithoutEquivalentAreRefused) {
  TemporaryFolder folder;
  auto load = [&](const std::string& text, int64_t opset) {
    return OnnxModel::load(folder.write("m.onnx", onnx_bytes(text, opset))).graph();
  };
  EXPECT_THROW(load("(float[1,1,2,3] x) => (float[1,1,4,6] y) <float[0] r = {}, float[4] s = {1, 1, 2, 2}> "
                    "{ y = Resize<coordinate_transformation_mode = \"tf_half_pixel_for_nn\">(x, r, s) }",
                    11),
               UnsupportedError);
}

}  // namespace
}  // namespace graft
