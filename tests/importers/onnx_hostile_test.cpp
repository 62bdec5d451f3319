// Broken files: one typed error each, which names the culprit.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>

#include "importers/onnx/model.h"
#include "tests/support/onnx_file.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

namespace fs = std::filesystem;
using test::onnx_bytes;

// "ModelError: message", "" where the file loads.
std::string error_of(const std::string& path) {
  try {
    OnnxModel::load(path).graph();
  } catch (const ModelError& e) {
    return cat("ModelError: ", e.what());
  } catch (const UnsupportedError& e) {
    return cat("UnsupportedError: ", e.what());
  }
  return "";
}

void expect_error(const std::string& path, const std::string& kind, const std::string& part, const std::string& what) {
  std::string error = error_of(path);
  EXPECT_TRUE(error.starts_with(kind + ':')) << what << ": " << error;
  EXPECT_NE(error.find(part), std::string::npos) << what << ": " << error;
  EXPECT_LT(error.size(), 4000U) << what;
}

struct Broken {
  const char* what;
  const char* kind;
  const char* part;  // of the message
  std::function<void(onnx::ModelProto&)> breaks;
};

constexpr const char* sound =
    R"((float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { a = Add (x, w) y = Relu (a) })";

onnx::TensorProto* weight(onnx::ModelProto& m) { return m.mutable_graph()->mutable_initializer(0); }
onnx::NodeProto* node(onnx::ModelProto& m, int i) { return m.mutable_graph()->mutable_node(i); }

onnx::FunctionProto* add_function(onnx::ModelProto& m, const std::string& name, const std::vector<std::string>& calls) {
  auto* f = m.add_functions();
  f->set_name(name);
  f->set_domain("l");
  f->add_input("x");
  f->add_output("y");
  auto* opset = f->add_opset_import();
  opset->set_version(17);
  *f->add_opset_import() = *m.mutable_opset_import(0);
  f->mutable_opset_import(1)->set_domain("l");
  std::string last = "x";
  for (const auto& call : calls) {
    auto* n = f->add_node();
    n->set_op_type(call);
    n->set_domain("l");
    n->add_input(last);
    last = cat("v", f->node_size());
    n->add_output(last);
  }
  auto* n = f->add_node();
  n->set_op_type("Identity");
  n->add_input(last);
  n->add_output("y");
  return f;
}

void call(onnx::ModelProto& m, const std::string& function) {
  auto* opset = m.add_opset_import();
  opset->set_domain("l");
  opset->set_version(1);
  node(m, 1)->set_op_type(function);
  node(m, 1)->set_domain("l");
}

const Broken broken[] = {
    {"opset -1", "ModelError", "-1", [](auto& m) { m.mutable_opset_import(0)->set_version(-1); }},
    {"opset 6", "UnsupportedError", "allowed are 7 to 28", [](auto& m) { m.mutable_opset_import(0)->set_version(6); }},
    {"opset 9999", "UnsupportedError", "allowed are 7 to 28",
     [](auto& m) { m.mutable_opset_import(0)->set_version(9999); }},
    {"IR 9999", "UnsupportedError", "allowed are 3 to 14", [](auto& m) { m.set_ir_version(9999); }},
    {"IR 2", "UnsupportedError", "allowed are 3 to 14", [](auto& m) { m.set_ir_version(2); }},
    {"no opset", "ModelError", "opset", [](auto& m) { m.clear_opset_import(); }},
    {"no graph", "ModelError", "no graph", [](auto& m) { m.clear_graph(); }},
    {"two opsets", "ModelError", "17 and 16", [](auto& m) { m.add_opset_import()->set_version(16); }},
    {"domain not imported", "UnsupportedError", "com.x.Relu", [](auto& m) { node(m, 1)->set_domain("com.x"); }},
    {"all unknown operators at once", "UnsupportedError", "2 nodes",
     [](auto& m) {
       node(m, 0)->set_op_type("Foo");
       node(m, 1)->set_op_type("Bar");
     }},
    {"cycle", "ModelError", "cycle", [](auto& m) { node(m, 0)->set_input(1, "y"); }},
    {"missing name", "ModelError", "nowhere", [](auto& m) { node(m, 0)->set_input(1, "nowhere"); }},
    {"duplicate name", "ModelError", "\"a\"", [](auto& m) { node(m, 1)->set_output(0, "a"); }},
    {"shadowed input", "ModelError", "\"x\"", [](auto& m) { node(m, 0)->set_output(0, "x"); }},
    {"duplicate initializer", "ModelError", "\"w\"",
     [](auto& m) { *m.mutable_graph()->add_initializer() = *weight(m); }},
    {"initializer without name", "ModelError", "without a name", [](auto& m) { weight(m)->clear_name(); }},
    {"duplicate output", "ModelError", "\"y\"",
     [](auto& m) { *m.mutable_graph()->add_output() = m.graph().output(0); }},
    {"no output", "ModelError", "no output", [](auto& m) { m.mutable_graph()->clear_output(); }},
    {"output that nothing gives", "ModelError", "\"z\"",
     [](auto& m) { m.mutable_graph()->mutable_output(0)->set_name("z"); }},
    {"input without type", "ModelError", "no type", [](auto& m) { m.mutable_graph()->mutable_input(0)->clear_type(); }},
    {"sequence input", "UnsupportedError", "no tensor",
     [](auto& m) { m.mutable_graph()->mutable_input(0)->mutable_type()->mutable_sequence_type(); }},
    {"attribute of wrong type", "ModelError", "axis",
     [](auto& m) {
       node(m, 1)->set_op_type("Softmax");
       auto* a = node(m, 1)->add_attribute();
       a->set_name("axis");
       a->set_type(onnx::AttributeProto::STRING);
       a->set_s("one");
     }},
    {"attribute twice", "ModelError", "twice",
     [](auto& m) {
       for (int i : {0, 1}) {
         auto* a = node(m, 1)->add_attribute();
         a->set_name("alpha");
         a->set_type(onnx::AttributeProto::FLOAT);
         a->set_f(static_cast<float>(i));
       }
     }},
    {"body on an ordinary operator", "ModelError", "Relu",
     [](auto& m) {
       auto* a = node(m, 1)->add_attribute();
       a->set_name("body");
       a->set_type(onnx::AttributeProto::GRAPH);
       a->mutable_g()->set_name("b");
     }},
    {"graph in an integer", "ModelError", "axis",
     [](auto& m) {
       node(m, 1)->set_op_type("Softmax");
       auto* a = node(m, 1)->add_attribute();
       a->set_name("axis");
       a->set_type(onnx::AttributeProto::INT);
       a->mutable_g()->set_name("b");
     }},
    {"bad UTF-8", "ModelError", "UTF-8", [](auto& m) { node(m, 1)->set_name("a\xff\xfe"); }},
    {"bad UTF-8 in metadata", "ModelError", "UTF-8", [](auto& m) { m.add_metadata_props()->set_key("\xc0\x80"); }},
    {"negative dim", "ModelError", "(-4)", [](auto& m) { weight(m)->set_dims(0, -4); }},
    {"dims that wrap", "ModelError", "2^63",
     [](auto& m) {
       weight(m)->set_dims(0, int64_t{1} << 32);
       weight(m)->add_dims(int64_t{1} << 32);
     }},
    {"dim of 2^40", "ModelError", "1099511627776", [](auto& m) { weight(m)->set_dims(0, int64_t{1} << 40); }},
    {"bytes that wrap", "ModelError", "w", [](auto& m) { weight(m)->set_dims(0, int64_t{1} << 62); }},
    {"undefined type", "ModelError", "type 0", [](auto& m) { weight(m)->set_data_type(0); }},
    {"4-bit type", "UnsupportedError", "INT4", [](auto& m) { weight(m)->set_data_type(onnx::TensorProto::INT4); }},
    {"typed data short", "ModelError", "3 values", [](auto& m) { weight(m)->mutable_float_data()->RemoveLast(); }},
    {"raw beside typed", "ModelError", "beside", [](auto& m) { weight(m)->set_raw_data(std::string(16, '\0')); }},
    {"raw short", "ModelError", "want 16",
     [](auto& m) {
       weight(m)->clear_float_data();
       weight(m)->set_raw_data(std::string(12, '\0'));
     }},
    {"typed data of another type", "ModelError", "another type", [](auto& m) { weight(m)->add_int64_data(1); }},
    {"int8 out of range", "ModelError", "300",
     [](auto& m) {
       weight(m)->clear_float_data();
       weight(m)->set_data_type(onnx::TensorProto::INT8);
       for (int i : {1, 2, 3, 300}) weight(m)->add_int32_data(i);
     }},
    {"bool of 7", "ModelError", "7",
     [](auto& m) {
       weight(m)->clear_float_data();
       weight(m)->set_data_type(onnx::TensorProto::BOOL);
       weight(m)->set_raw_data("\1\0\1\7", 4);
     }},
    {"raw strings", "ModelError", "string",
     [](auto& m) {
       weight(m)->clear_float_data();
       weight(m)->set_data_type(onnx::TensorProto::STRING);
       weight(m)->set_raw_data("abcd");
     }},
    {"sparse weights", "UnsupportedError", "sparse", [](auto& m) { m.mutable_graph()->add_sparse_initializer(); }},
    {"segments", "UnsupportedError", "segments", [](auto& m) { weight(m)->mutable_segment()->set_begin(0); }},
    {"recursion", "ModelError", "calls itself",
     [](auto& m) {
       call(m, "f");
       add_function(m, "f", {"g"});
       add_function(m, "g", {"f"});
     }},
    {"functions 5000 deep", "ModelError", "deeper than",
     [](auto& m) {
       call(m, "f0");
       for (int i = 0; i < 5000; ++i) add_function(m, cat("f", i), {cat("f", i + 1)});
       add_function(m, "f5000", {});
     }},
    {"functions that double", "UnsupportedError", "nodes",
     [](auto& m) {
       call(m, "f0");
       for (int i = 0; i < 60; ++i) add_function(m, cat("f", i), {cat("f", i + 1), cat("f", i + 1)});
       add_function(m, "f60", {});
     }},
    {"function twice", "ModelError", "twice",
     [](auto& m) {
       add_function(m, "f", {});
       add_function(m, "f", {});
     }},
    {"too many operands of a function", "ModelError", "inputs",
     [](auto& m) {
       call(m, "f");
       add_function(m, "f", {});
       node(m, 1)->add_input("x");
     }},
    {"attribute of a function outside of one", "ModelError", "outside",
     [](auto& m) {
       node(m, 1)->set_op_type("LeakyRelu");
       auto* a = node(m, 1)->add_attribute();
       a->set_name("alpha");
       a->set_type(onnx::AttributeProto::FLOAT);
       a->set_ref_attr_name("by");
     }},
};

TEST(OnnxHostile, Messages) {
  TemporaryFolder folder;
  ASSERT_EQ(error_of(folder.write("sound.onnx", onnx_bytes(sound))), "");
  for (const auto& each : broken) {
    onnx::ModelProto model;
    model.ParseFromString(onnx_bytes(sound));
    each.breaks(model);
    expect_error(folder.write("broken.onnx", model.SerializeAsString()), each.kind, each.part, each.what);
  }
}

TEST(OnnxHostile, Bodies) {
  TemporaryFolder folder;
  auto text = [&](const std::string& body) {
    return folder.write("m.onnx", onnx_bytes("(float[2] x, bool c) => (float[2] y) { " + body + " }"));
  };
  expect_error(text("y = If (c) <then_branch = t () => (float[2] x) { x = Relu (x) }, else_branch = e () => (float[2] "
                    "s) { s = Neg (x) }>"),
               "ModelError", "around", "a body's result shadows");
  expect_error(text("y = If (c) <then_branch = t (float[2] p) => (float[2] r) { r = Relu (p) }, else_branch = e () => "
                    "(float[2] s) { s = Neg (x) }>"),
               "ModelError", "then_branch", "a branch with inputs");
  expect_error(text("y = If (c) <then_branch = t () => (float[2] r) { r = Relu (q) }, else_branch = e () => (float[2] "
                    "s) { s = Neg (x) }>"),
               "ModelError", "\"q\"", "a body reads what nothing defines");
  expect_error(text("y = If (c) <then_branch = t () => (float[2] r) { r = Relu (y) }, else_branch = e () => (float[2] "
                    "s) { s = Neg (x) }>"),
               "ModelError", "cycle", "a body reads its own node");
  expect_error(text("y = Loop (, c, x) <body = b (int64 i, bool g, float[2] v) => (bool m, float[2] r) <float[2] v = "
                    "{1, 2}> { m = Identity (g) r = Relu (v) }>"),
               "ModelError", "\"v\"", "a loop's input is an initializer");
}

TEST(OnnxHostile, NestedFiles) {
  TemporaryFolder folder;
  for (int depth : {130, 20000}) {  // messages inside each other, far deeper than protobuf's own writer would go
    std::string bytes;
    for (int i = 0; i < depth; ++i) {
      auto wrap = [&](char field) {
        std::string header(1, field);
        for (size_t size = bytes.size();; size >>= 7) {
          header += static_cast<char>((size & 127) | (size > 127 ? 128 : 0));
          if (size <= 127) break;
        }
        bytes = header + bytes;
      };
      wrap(0x32);  // AttributeProto.g
      wrap(0x2a);  // NodeProto.attribute
      wrap(0x0a);  // GraphProto.node
    }
    std::string header = "\x3a";
    for (size_t size = bytes.size();; size >>= 7) {
      header += static_cast<char>((size & 127) | (size > 127 ? 128 : 0));
      if (size <= 127) break;
    }
    expect_error(folder.write("deep.onnx", "\x08\x08\x42\x02\x10\x11" + header + bytes), "ModelError",
                 depth < 1000 ? "holds a graph" : "nested", cat(depth, " deep"));
  }
}

TEST(OnnxHostile, Files) {
  TemporaryFolder folder;
  std::string good = onnx_bytes(sound);
  expect_error(folder.path() + "/none.onnx", "ModelError", "none.onnx", "missing");
  expect_error(folder.write("empty.onnx", ""), "ModelError", "empty", "empty");
  expect_error(folder.write("garbage.onnx", std::string(1000, '\xa5')), "ModelError", "no ONNX model", "garbage");
  expect_error(folder.write("text.onnx", "not a model\n"), "ModelError", "no ONNX model", "text");
  expect_error(folder.path(), "ModelError", "no regular file", "folder");
  ASSERT_EQ(mkfifo((folder.path() + "/fifo").c_str(), 0600), 0);
  expect_error(folder.path() + "/fifo", "ModelError", "no regular file", "FIFO");
  // Wherever a file is cut it either fails to parse or says what it lacks.
  for (size_t cut = 1; cut < good.size(); cut += 3) {
    EXPECT_NE(error_of(folder.write("cut.onnx", good.substr(0, cut))), "") << cut;
  }
  // Single changed bytes never crash.
  for (size_t at = 0; at < good.size(); ++at) {
    for (char change : {'\x01', '\x80', '\xff'}) {
      std::string changed = good;
      changed[at] = static_cast<char>(changed[at] ^ change);
      error_of(folder.write("changed.onnx", changed));
    }
  }
}

// --- External data ---

class External : public testing::Test {
 protected:
  External() {
    folder_.write("model/inside.bin", std::string(64, '\1'));
    folder_.write("outside.bin", std::string(64, '\2'));
    fs::create_symlink(folder_.path() + "/outside.bin", folder_.path() + "/model/link.bin");
    fs::create_symlink(folder_.path() + "/model/inside.bin", folder_.path() + "/model/inner_link.bin");
    fs::create_directory_symlink(folder_.path(), folder_.path() + "/model/parent");
    fs::create_hard_link(folder_.path() + "/outside.bin", folder_.path() + "/model/hard.bin");
    mkfifo((folder_.path() + "/model/fifo").c_str(), 0600);
    fs::create_directory(folder_.path() + "/model/folder");
  }

  std::string model(const std::map<std::string, std::string>& entries) const {
    onnx::ModelProto model;
    model.ParseFromString(onnx_bytes(sound));
    auto* tensor = weight(model);
    tensor->clear_float_data();
    tensor->set_data_location(onnx::TensorProto::EXTERNAL);
    for (const auto& [key, value] : entries) {
      auto* entry = tensor->add_external_data();
      entry->set_key(key);
      entry->set_value(value);
    }
    return model.SerializeAsString();
  }

  std::string write(const std::map<std::string, std::string>& entries) const {
    return folder_.write("model/m.onnx", model(entries));
  }

  TemporaryFolder folder_;
};

TEST_F(External, OutsideIsNeverRead) {
  std::string absolute = folder_.path() + "/outside.bin";
  for (const std::string& location :
       {std::string("../outside.bin"), std::string("folder/../../outside.bin"), absolute, std::string("link.bin"),
        std::string("parent/outside.bin"), std::string("hard.bin"), std::string("fifo"), std::string("folder"),
        std::string("none.bin"), std::string(""), std::string("inside.bin\0x", 12), std::string("/dev/zero"),
        std::string("inner_link.bin"), std::string("."), std::string("inside.bin/"), std::string("C:\\x")}) {
    expect_error(write({{"location", location}}), "ModelError", "external data", location);
  }
}

TEST_F(External, ExtentsAreChecked) {
  const std::map<std::string, std::string> wrong[] = {{{"offset", "49"}},
                                                      {{"offset", "-4"}},
                                                      {{"offset", "18446744073709551608"}},
                                                      {{"offset", "ten"}},
                                                      {{"length", "8"}},
                                                      {{"length", "999"}},
                                                      {{"length", "-16"}},
                                                      {{"offset", "9223372036854775807"}},
                                                      {{"offset", " 4"}},
                                                      {{"offset", ""}}};
  for (auto entries : wrong) {
    entries["location"] = "inside.bin";
    expect_error(write(entries), "ModelError", "\"w\"", entries.begin()->first + entries.begin()->second);
  }
  EXPECT_EQ(error_of(write({{"location", "inside.bin"}, {"offset", "48"}, {"length", "16"}})), "");
  EXPECT_EQ(error_of(write({{"location", "./inside.bin"}, {"checksum", "x"}})), "");
}

TEST_F(External, ASmallFileCannotAskForMuch) {
  onnx::ModelProto proto;
  proto.ParseFromString(model({{"location", "inside.bin"}}));
  for (int i = 1; i < 8; ++i) {
    auto* tensor = proto.mutable_graph()->add_initializer();
    *tensor = proto.graph().initializer(0);
    tensor->set_name(cat("w", i));
    auto* entry = tensor->add_external_data();
    entry->set_key("offset");
    entry->set_value(std::to_string(i * 4));
  }
  expect_error(folder_.write("model/m.onnx", proto.SerializeAsString()), "ModelError", "overlaps", "overlap");
}

TEST_F(External, SymbolicLinksToModelsInACacheAreFollowed) {
  // As in a content-addressed cache: names are links to blobs in one other folder.
  std::string blob = folder_.write("blobs/1234", model({{"location", "model.onnx_data"}}));
  folder_.write("blobs/5678", std::string(16, '\3'));
  fs::create_directories(folder_.path() + "/snapshot");
  fs::create_symlink("../blobs/1234", folder_.path() + "/snapshot/model.onnx");
  fs::create_symlink("../blobs/5678", folder_.path() + "/snapshot/model.onnx_data");
  EXPECT_EQ(error_of(folder_.path() + "/snapshot/model.onnx"), "");
  fs::remove(folder_.path() + "/snapshot/model.onnx_data");
  fs::create_symlink("../outside.bin", folder_.path() + "/snapshot/model.onnx_data");
  expect_error(folder_.path() + "/snapshot/model.onnx", "ModelError", "model.onnx_data", "a link out of the cache");
}

TEST_F(External, SurvivesARoundTrip) {
  std::string file = write({{"location", "inside.bin"}, {"offset", "16"}});
  OnnxModel loaded = OnnxModel::load(file);
  std::string out = folder_ / "out/m.onnx";
  loaded.save(out, [](const std::string& name) {
    return name == "w" ? Tensor::of<float>({4}, {1, 2, 3, 4}) : Tensor{};
  });
  EXPECT_EQ(fs::file_size(folder_.path() + "/out/m.onnx.data"), 16U);
  auto graph = OnnxModel::load(out).graph();
  EXPECT_EQ(graph->find("w")->data.values<float>()[3], 4);
  loaded.save(file, nullptr);  // in place
  EXPECT_EQ(static_cast<const char*>(OnnxModel::load(file).graph()->find("w")->data.raw())[0], '\1');
}

}  // namespace
}  // namespace graft
