#include <gtest/gtest.h>

#include <functional>

#include "importers/data/data_card.h"
#include "importers/data/npz.h"
#include "importers/data/open_dataset.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

template <class E>
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    return cat("another error: ", error.what());
  }
  return "no error";
}

std::vector<float> floats(const Tensor& t) { return {t.values<float>().begin(), t.values<float>().end()}; }

bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  ADD_FAILURE() << "\"" << part << "\" is not in \"" << text << "\"";
  return false;
}

TEST(Csv, text_labels) {
  TemporaryFolder folder;
  auto path = folder.write("iris.csv", "length,width,species\n1,2.5,setosa\n3,4,\"virginica\"\n-5,6e1,setosa\n");
  auto data = open_dataset(path, {.inputs = {{"x", DType::f32, {-1, 2}}}});
  EXPECT_EQ(data->size(), 3);
  EXPECT_EQ(data->class_names(), (std::vector<std::string>{"setosa", "virginica"}));
  Sample sample = data->read(2);
  EXPECT_EQ(sample.inputs[0].dims(), (Dims{2}));
  EXPECT_EQ(floats(sample.inputs[0]), (std::vector<float>{-5, 60}));
  EXPECT_EQ(sample.label.to_int64(), (std::vector<int64_t>{0}));
  EXPECT_TRUE(sample.label.dims().empty());
  EXPECT_EQ(data->label_of(1), 1);
  EXPECT_TRUE(has(data->describe(1), "row 2"));
}

TEST(Csv, integer_labels_are_sorted_as_numbers) {
  TemporaryFolder folder;
  auto path = folder.write("a.csv", "y,a\n10,1\n9,2\n-1,3\n");
  auto data = open_dataset(path, {.label = "y"});
  EXPECT_EQ(data->class_names(), (std::vector<std::string>{"-1", "9", "10"}));
  EXPECT_EQ(data->label_of(0), 2);
  auto fixed = open_dataset(path, {.label = "y", .class_names = {"10", "9", "-1"}});
  EXPECT_EQ(fixed->label_of(0), 0);
  EXPECT_TRUE(has(error_of<DataError>([&] {
                    open_dataset(path, {.label = "y", .class_names = {"10", "9"}});
                  }),
                  "row 3"));
}

TEST(Csv, regression) {
  TemporaryFolder folder;
  auto path = folder.write("a.csv", "a,b,price\n1,2,0.5\n3,4,7\n");
  auto data = open_dataset(path, {});
  EXPECT_TRUE(data->class_names().empty());
  EXPECT_EQ(data->label_of(0), -1);
  EXPECT_EQ(floats(data->read(1).label), (std::vector<float>{7}));
  auto whole = folder.write("b.csv", "a,price\n1,2\n3,4\n");
  EXPECT_EQ(open_dataset(whole, {.task = Task::regression})->read(1).label.dtype(), DType::f32);
}

TEST(Csv, columns_go_to_inputs_by_name) {
  TemporaryFolder folder;
  auto path = folder.write("a.csv", "id,age,height,label\n7,30,1.5,0\n8,40,1.75,1\n");
  DatasetOptions options{.inputs = {{"height", DType::f32, {-1, 1}}, {"age", DType::i64, {-1}}}};
  auto data = open_dataset(path, options);
  EXPECT_EQ(data->input_names(), (std::vector<std::string>{"height", "age"}));
  Sample sample = data->read(1);
  EXPECT_EQ(sample.inputs[0].dims(), (Dims{1}));
  EXPECT_EQ(floats(sample.inputs[0]), (std::vector<float>{1.75F}));
  EXPECT_EQ(sample.inputs[1].dtype(), DType::i64);
  EXPECT_TRUE(sample.inputs[1].dims().empty());
  options.inputs[0].name = "hight";
  EXPECT_TRUE(has(error_of<UsageError>([&] { open_dataset(path, options); }), "nearest: \"height\""));
  options.inputs = {{"height", DType::i64, {-1}}};
  EXPECT_TRUE(has(error_of<DataError>([&] { open_dataset(path, options); }), "fractions"));
}

TEST(Csv, features_are_shaped_as_the_model_wants) {
  TemporaryFolder folder;
  auto path = folder.write("a.csv", "a,b,c,d,y\n1,2,3,4,0\n5,6,7,8,1\n");
  auto dims_for = [&](Dims dims) {
    return open_dataset(path, {.inputs = {{"x", DType::f32, std::move(dims)}}})->read(0).inputs[0].dims();
  };
  EXPECT_EQ(dims_for({-1, 1, 2, 2}), (Dims{1, 2, 2}));
  EXPECT_EQ(dims_for({-1, -1}), (Dims{4}));
  EXPECT_EQ(dims_for({-1, 2, -1}), (Dims{2, 2}));
  EXPECT_THROW(dims_for({-1, 5}), UsageError);
  EXPECT_THROW(dims_for({-1, -1, -1}), UsageError);
  auto chosen = open_dataset(path, {.inputs = {{"x", DType::f32, {-1, 2}}}, .features = {"d", "a"}});
  EXPECT_EQ(floats(chosen->read(0).inputs[0]), (std::vector<float>{4, 1}));
}

TEST(Csv, missing_values_belong_to_their_row) {
  TemporaryFolder folder;
  auto path = folder.write("a.csv", "a,b,y\n1,2,u\n3,,v\n4,5,\n6,inf,u\n7,8,v\n");
  auto data = open_dataset(path, {});
  EXPECT_EQ(data->read(0).inputs[0].dims(), (Dims{2}));
  EXPECT_TRUE(has(error_of<DataError>([&] { data->read(1); }), "row 2: column \"b\" has no value"));
  EXPECT_TRUE(has(error_of<DataError>([&] { data->read(2); }), "row 3: column \"y\" has no label"));
  EXPECT_TRUE(has(error_of<DataError>([&] { data->read(3); }), "not a finite number"));
  EXPECT_EQ(data->label_of(2), -1);
  EXPECT_EQ(data->read(4).label.to_int64(), (std::vector<int64_t>{1}));
}

TEST(Csv, without_labels) {
  TemporaryFolder folder;
  auto path = folder.write("a.csv", "a,b\n1,2\n3,4\n");
  auto data = open_dataset(path, {.inputs = {{"x", DType::f32, {-1, 2}}}, .labels_wanted = false});
  EXPECT_FALSE(data->has_labels());
  EXPECT_EQ(floats(data->read(1).inputs[0]), (std::vector<float>{3, 4}));
  EXPECT_TRUE(open_dataset(path, {.inputs = {{"x", DType::f32, {-1, 1}}}, .labels_wanted = false})->has_labels());
}

TEST(Csv, bad_files) {
  TemporaryFolder folder;
  auto error = [&](const std::string& contents) {
    return error_of<DataError>([&] { open_dataset(folder.write("a.csv", contents), {}); });
  };
  EXPECT_TRUE(has(error(""), "is empty"));
  EXPECT_TRUE(has(error("a,b\n"), "has no rows"));
  EXPECT_TRUE(has(error("a,b\n1,2\n3\n"), "Expected 2 columns, got 1"));
  EXPECT_TRUE(has(error("a,a\n1,2\n"), "two columns named \"a\""));
  EXPECT_TRUE(has(error("a,y\n1,0\n2,0\n"), "1 classes"));
  EXPECT_TRUE(has(error("y\n1\n2\n"), "no column but the label"));
  EXPECT_TRUE(has(error_of<UnsupportedError>([&] { open_dataset(folder.write("a.csv", "a,y\nx,0\ny,1\n"), {}); }),
                  "holds text, such as \"x\" in row 1"));
  EXPECT_TRUE(has(error_of<UsageError>([&] { open_dataset(folder.write("a.csv", "a,y\n1,0\n"), {.label = "z"}); }),
                  "no column \"z\""));
  EXPECT_THROW(open_dataset(folder / "missing.csv", {}), DataError);
  EXPECT_THROW(open_dataset(folder.write("a.txt", "x"), {}), UsageError);
  EXPECT_TRUE(has(error_of<UnsupportedError>([&] { open_dataset(folder.write("a.jsonl", "{}"), {}); }), "tokeniser"));
}

TEST(Parquet, kinds_of_columns) {
  TemporaryFolder folder;
  run_python(R"(
import sys, pyarrow as pa, pyarrow.parquet as pq
t = pa.table({'ids': pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.int32())),
              'mask': pa.array([[1, 1, 0], [1, 1, 1]], pa.list_(pa.int64(), 3)),
              'score': pa.array([0.5, 1.5], pa.float32()), 'flag': pa.array([True, False]),
              'kind': pa.array(['b', 'a']).dictionary_encode(), 'when': pa.array([0, 1], pa.timestamp('s'))})
pq.write_table(t, sys.argv[1] + '/a.parquet')
pq.write_table(pa.table({'ids': [[1, 2], [3]], 'y': [0, 1]}), sys.argv[1] + '/ragged.parquet')
)",
             {folder.path()});
  std::string path = folder / "a.parquet";
  DatasetOptions options{.inputs = {{"ids", DType::i64, {-1, -1}}, {"mask", DType::i64, {-1, 3}}}, .label = "kind"};
  auto data = open_dataset(path, options);
  EXPECT_EQ(data->read(1).inputs[0].to_int64(), (std::vector<int64_t>{4, 5, 6}));
  EXPECT_EQ(data->read(0).inputs[1].to_int64(), (std::vector<int64_t>{1, 1, 0}));
  EXPECT_EQ(data->class_names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(data->label_of(0), 1);
  auto mixed = open_dataset(path, {.label = "flag", .features = {"score", "mask"}});
  EXPECT_EQ(floats(mixed->read(0).inputs[0]), (std::vector<float>{0.5, 1, 1, 0}));
  EXPECT_TRUE(has(error_of<UnsupportedError>([&] { open_dataset(path, {.label = "kind", .features = {"when"}}); }),
                  "timestamp"));
  EXPECT_TRUE(has(error_of<DataError>([&] { open_dataset(folder / "ragged.parquet", {}); }),
                  "row 2: column \"ids\" has 1 numbers, 2 in the rows before"));
  std::string whole = read_text(path);
  for (size_t cut = 0; cut < whole.size(); cut += 97) {
    EXPECT_THROW(open_dataset(folder.write("cut.parquet", whole.substr(0, cut)), options), DataError) << cut;
  }
}

TEST(NpzDataset, reads_samples) {
  TemporaryFolder folder;
  std::string path = folder / "a.npz";
  write_npz(path,
            {{"x", Tensor::of<double>({3, 2}, {1, 2, 3, 4, 5, 6})}, {"labels", Tensor::of<int64_t>({3}, {0, 2, 0})}});
  auto data = open_dataset(path, {.inputs = {{"input.1", DType::f32, {-1, 2}}}});
  EXPECT_EQ(data->input_names(), (std::vector<std::string>{"input.1"}));
  EXPECT_EQ(floats(data->read(1).inputs[0]), (std::vector<float>{3, 4}));
  EXPECT_EQ(data->read(1).label.to_int64(), (std::vector<int64_t>{2}));
  EXPECT_EQ(data->class_names().size(), 3U);
  EXPECT_TRUE(has(data->describe(0), "sample 1"));
  EXPECT_THROW(open_dataset(path, {.inputs = {{"x", DType::f32, {-1, 3}}}}), DataError);
  EXPECT_THROW(open_dataset(path, {.inputs = {{"x", DType::i64, {-1, 2}}}}), DataError);
  EXPECT_TRUE(has(error_of<DataError>([&] {
                    open_dataset(path, {.class_names = {"a", "b"}});
                  }),
                  "sample 2: label 2 out of range, allowed are 0 to 1"));
}

TEST(NpzDataset, labels) {
  TemporaryFolder folder;
  std::string path = folder / "a.npz";
  auto x = Tensor::of<float>({2, 1}, {1, 2});
  auto open = [&](const Tensor& y, const DatasetOptions& options = {}) {
    write_npz(path, {{"x", x}, {"y", y}});
    return open_dataset(path, options);
  };
  EXPECT_EQ(open(Tensor::of<uint8_t>({2, 1}, {1, 0}))->label_of(0), 1);
  EXPECT_EQ(open(Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6}))->read(1).label.dims(), (Dims{3}));
  EXPECT_EQ(open(Tensor::of<int64_t>({2, 2}, {1, -100, 3, 4}))->read(0).label.to_int64(),
            (std::vector<int64_t>{1, -100}));
  EXPECT_EQ(open(Tensor::of<int64_t>({2}, {3, 4}), {.task = Task::regression})->read(0).label.dtype(), DType::f32);
  EXPECT_THROW(open(Tensor::of<int64_t>({2}, {0, -1})), DataError);
  EXPECT_THROW(open(Tensor::of<int64_t>({2}, {0, int64_t{1} << 40})), DataError);
  EXPECT_THROW(open(Tensor::of<int64_t>({2}, {1, 1})), DataError);
  EXPECT_THROW(open(Tensor::of<int64_t>({3}, {0, 1, 2})), DataError);
  EXPECT_THROW(open(Tensor::scalar<int64_t>(0)), DataError);
  write_npz(path, {{"x", x}});
  EXPECT_THROW(open_dataset(path, {}), DataError);
  EXPECT_FALSE(open_dataset(path, {.labels_wanted = false})->has_labels());
  write_npz(path, {{"x", Tensor(DType::f32, {0, 2})}, {"y", Tensor(DType::i64, {0})}});
  EXPECT_THROW(open_dataset(path, {}), DataError);
}

TEST(DataCard, sets_what_is_not_set) {
  TemporaryFolder folder;
  folder.write("data/a.csv", "id,a,b,kind,more\n1,2,3,x,0\n2,4,5,y,0\n");
  auto path = folder.write("card.yaml", "data: data/a.csv\nlabel: kind\nfeatures: [b, a]\n");
  auto data = open_dataset(path, {});
  EXPECT_EQ(floats(data->read(1).inputs[0]), (std::vector<float>{5, 4}));
  EXPECT_EQ(data->class_names(), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(open_dataset(path, {.label = "more", .task = Task::regression})->class_names().size(), 0U) << "flags win";
  auto images =
      folder.write("images.yaml",
                   "data: /data\nimages:\n  size: [32, 48]\n  mean: [0.5, 0.4, 0.3]\n  std: 0.25\n  layout: nhwc\n"
                   "  color: bgr\n  resize: fit\n  interpolation: linear\n  scale: 1\n  padding: 114\n");
  auto options = read_data_card(images, {.images = {.scale = 2}}).options.images;
  EXPECT_EQ(options.height, 32);
  EXPECT_EQ(options.width, 48);
  EXPECT_EQ(options.mean, (std::vector<double>{0.5, 0.4, 0.3}));
  EXPECT_EQ(options.layout, ImageLayout::nhwc);
  EXPECT_EQ(options.color, ImageColor::bgr);
  EXPECT_EQ(options.resize, ImageResize::fit);
  EXPECT_EQ(options.scale, 2);
}

TEST(DataCard, mistakes_are_named) {
  TemporaryFolder folder;
  auto error = [&](const std::string& text) {
    return error_of<DataError>([&] { open_dataset(folder.write("card.yaml", text), {}); });
  };
  EXPECT_TRUE(has(error("data: x\nlable: y\n"), "line 2: unknown key \"lable\"; nearest: label"));
  EXPECT_TRUE(has(error("data: x\nimages: {resize: fitt}\n"),
                  "line 2: unknown value \"fitt\", allowed are stretch, fit, crop"));
  EXPECT_TRUE(has(error("label: y\n"), "lacks the key `data`"));
  EXPECT_TRUE(has(error("data: [x\n"), "line"));
  EXPECT_TRUE(has(error("just text"), "keys and values"));
  EXPECT_TRUE(has(error(""), "keys and values"));
  EXPECT_TRUE(has(error("data: x\nimages: {scale: much}\n"), "a number is wanted"));
  EXPECT_TRUE(has(error("data: x\ndata: y\n"), "twice"));
  EXPECT_TRUE(has(error("data: card.yaml\n"), "another card"));
  EXPECT_NE(error(std::string(20000, '[')), "no error");
  EXPECT_NE(error("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"), "no error");
}

}  // namespace
}  // namespace graft
