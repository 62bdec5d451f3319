#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "importers/data/image.h"
#include "importers/data/image_header.h"
#include "importers/data/open_dataset.h"
#include "runtime/training/loader.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

// Images made once, by Pillow: red on the left, blue on the right, 6 wide and 4 high, unless said otherwise.
class Images : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    run_python(R"(
import sys, numpy as np, struct, zlib
from PIL import Image
out = sys.argv[1] + '/'
a = np.zeros((4, 6, 3), np.uint8); a[:, :3, 0] = 255; a[:, 3:, 2] = 255
rgb = Image.fromarray(a)
for ext in 'png bmp tif gif'.split(): rgb.save(out + 'rgb.' + ext)
rgb.save(out + 'rgb.webp', lossless=True)
rgb.resize((60, 40), 0).save(out + 'rgb.jpg', quality=95, subsampling=0)
rgb.resize((60, 40), 0).save(out + 'progressive.jpg', quality=95, subsampling=0, progressive=True)
rgb.quantize(4).save(out + 'palette.png')
grey = Image.fromarray(np.full((4, 6), 51, np.uint8)); grey.save(out + 'grey.png')
Image.fromarray(np.full((4, 6), 51 * 257, np.uint16)).save(out + 'grey16.png')
rgba = np.dstack([a, np.full((4, 6), 10, np.uint8)]); Image.fromarray(rgba).save(out + 'alpha.png')
Image.fromarray(rgba).save(out + 'alpha.webp', lossless=True)
# turned: stored on its side, EXIF says how to hold it
for orientation in range(1, 9):
    exif = Image.Exif(); exif[0x0112] = orientation
    rgb.resize((60, 40), 0).save(out + f'exif{orientation}.jpg', exif=exif, quality=95, subsampling=0)
def chunk(name, data): return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
bomb = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0))
bomb += chunk(b'IDAT', zlib.compress(b'\0' * 1000000)) + chunk(b'IEND', b'')
open(out + 'bomb.png', 'wb').write(bomb)
)",
               {folder_->path()});
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static Tensor decode(const std::string& name, const ImageOptions& options, Dims dims = {-1, 3, 4, 6}) {
    std::string bytes = read_text(*folder_ / name);
    return decode_bytes(bytes, options, std::move(dims));
  }
  static Tensor decode_bytes(const std::string& bytes, const ImageOptions& options, Dims dims = {-1, 3, 4, 6}) {
    return decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
                        image_format(options, {"x", DType::f32, dims}), "it");
  }
  // Of a (3, H, W) tensor: the colour at a place.
  static std::vector<float> pixel(const Tensor& x, int64_t h, int64_t w) {
    std::vector<float> color;
    for (int64_t c = 0; c < 3; ++c)
      color.push_back(x.values<float>()[static_cast<size_t>((c * x.dims()[1] + h) * x.dims()[2] + w)]);
    return color;
  }
  static TemporaryFolder* folder_;
};
TemporaryFolder* Images::folder_ = nullptr;

void expect_near(const std::vector<float>& got, const std::vector<float>& wanted, float tolerance = 1e-6F) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], wanted[i], tolerance) << "at " << i;
}

TEST_F(Images, formats) {
  for (const char* name : {"rgb.png", "rgb.bmp", "rgb.tif", "rgb.webp", "palette.png", "alpha.png", "alpha.webp"}) {
    SCOPED_TRACE(name);
    Tensor x = decode(name, {});
    ASSERT_EQ(x.dims(), (Dims{3, 4, 6}));
    expect_near(pixel(x, 0, 0), {1, 0, 0});
    expect_near(pixel(x, 3, 2), {1, 0, 0});
    expect_near(pixel(x, 3, 3), {0, 0, 1});
  }
  for (const char* name : {"rgb.jpg", "progressive.jpg"}) {
    SCOPED_TRACE(name);
    Tensor x = decode(name, {});
    expect_near(pixel(x, 1, 1), {1, 0, 0}, 0.03F);
    expect_near(pixel(x, 2, 5), {0, 0, 1}, 0.03F);
  }
}

TEST_F(Images, grey_and_depth) {
  for (const char* name : {"grey.png", "grey16.png"}) {
    SCOPED_TRACE(name);
    expect_near(pixel(decode(name, {}), 2, 2), {0.2F, 0.2F, 0.2F});
    Tensor one = decode(name, {}, {-1, 1, 4, 6});
    EXPECT_EQ(one.dims(), (Dims{1, 4, 6}));
    EXPECT_NEAR(one.values<float>()[7], 0.2F, 1e-6F);
  }
  EXPECT_NEAR(decode("rgb.png", {}, {-1, 1, 4, 6}).values<float>()[0], 0.299F, 2e-3F) << "luma of red";
}

TEST_F(Images, exif_turns) {
  // Where red ends up, for each of the eight orientations of TIFF: left, right, right, left, top, top, bottom, bottom.
  const char* red[] = {"left", "right", "right", "left", "top", "top", "bottom", "bottom"};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    SCOPED_TRACE(orientation);
    Tensor x = decode(cat("exif", orientation, ".jpg"), {}, {-1, 3, 8, 8});
    std::string side = red[orientation - 1];
    bool at_left_top = side == "left" || side == "top";
    bool across = side == "left" || side == "right";
    auto first = pixel(x, across ? 4 : 1, across ? 1 : 4);
    auto second = pixel(x, across ? 4 : 6, across ? 6 : 4);
    EXPECT_GT(at_left_top ? first[0] : second[0], 0.9F);
    EXPECT_GT(at_left_top ? second[2] : first[2], 0.9F);
  }
}

TEST_F(Images, layout_color_and_normalisation) {
  ImageOptions options;
  options.color = ImageColor::bgr;
  Tensor x = decode("rgb.png", options, {-1, 4, 6, 3});
  ASSERT_EQ(x.dims(), (Dims{4, 6, 3}));
  expect_near({x.values<float>()[0], x.values<float>()[1], x.values<float>()[2]}, {0, 0, 1});
  options.color = ImageColor::rgb;
  options.scale = 1;
  options.mean = {100, 50, 0};
  options.std = {2, 1, 0.5};
  expect_near(pixel(decode("rgb.png", options), 0, 0), {77.5F, -50, 0}, 1e-4F);
  options.mean = {100, 50};
  EXPECT_THROW(decode("rgb.png", options), UsageError);
  options.mean = {0};
  options.std = {0};
  EXPECT_THROW(decode("rgb.png", options), UsageError);
}

TEST_F(Images, resizing) {
  ImageOptions options;
  Dims square{-1, 3, 4, 4};
  options.resize = ImageResize::crop;
  Tensor x = decode("rgb.png", options, square);
  expect_near(pixel(x, 0, 1), {1, 0, 0});
  expect_near(pixel(x, 0, 2), {0, 0, 1});
  options.resize = ImageResize::fit;
  options.padding = 255;
  x = decode("rgb.png", options, {-1, 3, 6, 6});
  expect_near(pixel(x, 0, 0), {1, 1, 1});
  expect_near(pixel(x, 1, 0), {1, 0, 0});
  expect_near(pixel(x, 4, 5), {0, 0, 1});
  expect_near(pixel(x, 5, 5), {1, 1, 1});
  options.resize = ImageResize::stretch;
  for (auto kind :
       {ImageInterpolation::area, ImageInterpolation::linear, ImageInterpolation::cubic, ImageInterpolation::nearest}) {
    options.interpolation = kind;
    EXPECT_EQ(decode("rgb.png", options, {-1, 3, 9, 2}).dims(), (Dims{3, 9, 2}));
  }
}

TEST_F(Images, formats_are_completed_from_the_model) {
  auto of = [](Dims dims, ImageOptions options = {}) {
    return image_format(options, {"x", DType::f32, std::move(dims)});
  };
  EXPECT_EQ(of({-1, 224, 192, 3}).layout, ImageLayout::nhwc);
  EXPECT_EQ(of({-1, 3, 224, 192}).width, 192);
  EXPECT_EQ(of({-1, 3, 8, 3}).layout, ImageLayout::nchw);
  EXPECT_EQ(of({-1, 1, 28, 28}).channels, 1);
  EXPECT_THROW(of({-1, 3, -1, -1}), UsageError);
  EXPECT_EQ(of({-1, 3, -1, -1}, {.height = 8, .width = 9}).width, 9);
  EXPECT_THROW(of({-1, 3, 7, 7}, {.height = 8, .width = 9}), UsageError);
  EXPECT_THROW(of({-1, 3}), UsageError);
  EXPECT_THROW(of({-1, 4, 8, 8}), UsageError);
  EXPECT_THROW(of({-1, 3, 1 << 20, 8}), UsageError);
}

TEST_F(Images, damage_is_a_data_error) {
  EXPECT_THROW(decode_bytes("", {}), DataError);
  EXPECT_THROW(decode_bytes(std::string(1000, 'x'), {}), DataError);
  EXPECT_THROW(decode("bomb.png", {}), DataError);
  EXPECT_THROW(decode("rgb.jpg", {.largest_pixels = 2399}), DataError);
  for (const char* name : {"rgb.png", "rgb.bmp", "rgb.tif", "rgb.webp", "rgb.jpg", "progressive.jpg"}) {
    std::string whole = read_text(*folder_ / name);
    for (int percent : {1, 20, 50, 80, 95}) {
      EXPECT_THROW(decode_bytes(whole.substr(0, whole.size() * static_cast<size_t>(percent) / 100), {}), DataError)
          << name << " " << percent << " %";
    }
  }
}

// Headers of changed files give a size or a DataError; decoding never does worse.
TEST_F(Images, survives_corruption) {
  std::mt19937 random(3);
  for (const char* name : {"rgb.png", "rgb.bmp", "rgb.tif", "rgb.webp", "rgb.jpg", "exif6.jpg", "rgb.gif"}) {
    std::string whole = read_text(*folder_ / name);
    for (int i = 0; i < 150; ++i) {
      std::string changed = whole;
      for (int k = 0; k < 3; ++k)
        changed[random() % std::min<size_t>(changed.size(), 400)] = static_cast<char>(random());
      try {
        decode_bytes(changed, {.largest_pixels = 1 << 20});
      } catch (const DataError&) {
      }
    }
  }
}

std::vector<std::string> make_classes(const TemporaryFolder& target, const std::string& source) {
  std::vector<std::string> paths;
  for (const char* name : {"b/2.png", "b/1.PNG", "a/x.png", "a/deep/y.png", "c/z.png"}) {
    paths.push_back(target.write(name, read_text(source)));
  }
  return paths;
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const DataError& error) {
    return error.what();
  }
  return "no DataError";
}

TEST_F(Images, folder) {
  TemporaryFolder folder;
  make_classes(folder, *folder_ / "rgb.png");
  folder.write("a/notes.txt", "ignored");
  folder.write(".hidden/x.png", "ignored");
  std::filesystem::create_symlink(*folder_ / "grey.png", folder / "c/link.png");
  std::filesystem::create_directory_symlink("..", folder / "c/loop");
  DatasetOptions options{.inputs = {{"image", DType::f32, {-1, 3, 4, 6}}}};
  auto data = open_dataset(folder.path(), options);
  EXPECT_EQ(data->class_names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(data->input_names(), (std::vector<std::string>{"image"}));
  EXPECT_EQ(data->size(), 6);
  EXPECT_EQ(data->label_of(0), 0);
  EXPECT_EQ(data->label_of(2), 1);
  EXPECT_NE(data->describe(2).find("1.PNG"), std::string::npos);
  Sample sample = data->read(2);
  EXPECT_EQ(sample.inputs[0].dims(), (Dims{3, 4, 6}));
  EXPECT_EQ(sample.label.to_int64(), (std::vector<int64_t>{1}));
  options.class_names = {"c", "b", "a", "d"};
  EXPECT_EQ(open_dataset(folder.path(), options)->label_of(0), 2) << "classes of the training data";
  options.class_names = {"a", "b"};
  EXPECT_NE(error_of([&] { open_dataset(folder.path(), options); }).find("no class \"c\""), std::string::npos);
}

TEST_F(Images, folders_that_cannot_be) {
  DatasetOptions options{.inputs = {{"image", DType::f32, {-1, 3, 4, 6}}}};
  TemporaryFolder folder;
  auto open = [&] { open_dataset(folder.path(), options); };
  EXPECT_NE(error_of(open).find("no images"), std::string::npos);
  folder.write("a/x.png", "x");
  EXPECT_NE(error_of(open).find("one class"), std::string::npos);
  std::filesystem::create_directory(folder / "b");
  EXPECT_NE(error_of(open).find("has no images"), std::string::npos);
  folder.write("b/x.png", "x");
  EXPECT_EQ(error_of(open), "no DataError");
  folder.write("x.png", "x");
  EXPECT_NE(error_of(open).find("beside its class folders"), std::string::npos);
  EXPECT_THROW(open_dataset(folder / "nothing", options), DataError);
  options.inputs.push_back({"more", DType::f32, {-1}});
  EXPECT_THROW(open(), UsageError);
}

TEST_F(Images, without_labels) {
  TemporaryFolder folder;
  folder.write("x.png", read_text(*folder_ / "rgb.png"));
  auto data = open_dataset(folder.path(), {.inputs = {{"image", DType::f32, {-1, 3, 4, 6}}}, .labels_wanted = false});
  EXPECT_FALSE(data->has_labels());
  EXPECT_EQ(data->label_of(0), -1);
  EXPECT_FALSE(data->read(0).label.defined());
}

TEST_F(Images, broken_files_are_named_or_skipped) {
  TemporaryFolder folder;
  make_classes(folder, *folder_ / "rgb.png");
  folder.write("b/broken.png", "not an image");
  folder.write("c/empty.png", "");
  std::filesystem::create_symlink("/nowhere", folder / "a/dangling.png");
  auto data = open_dataset(folder.path(), {.inputs = {{"image", DType::f32, {-1, 3, 4, 6}}}});
  ASSERT_EQ(data->size(), 8);
  LoaderOptions options{.batch_size = 4, .shuffle = false, .on_bad_sample = OnBadSample::skip, .threads = 2};
  Loader loader(*data, all_indices(*data), options);
  loader.start_epoch(0);
  Batch batch;
  int64_t good = 0;
  while (loader.next(batch)) good += batch.count;
  EXPECT_EQ(good, 5);
  EXPECT_EQ(loader.skipped(), 3);
  ASSERT_EQ(loader.skip_reasons().size(), 3U);
  EXPECT_NE(loader.skip_reasons()[0].find("dangling.png"), std::string::npos);
  EXPECT_NE(loader.skip_reasons()[1].find("broken.png"), std::string::npos);
  options.on_bad_sample = OnBadSample::fail;
  Loader failing(*data, all_indices(*data), options);
  failing.start_epoch(0);
  EXPECT_NE(error_of([&] {
              while (failing.next(batch)) {
              }
            }).find("dangling.png"),
            std::string::npos);
}

TEST_F(Images, integer_models_get_pixels) {
  auto format = image_format({}, {"x", DType::u8, {-1, 3, 4, 6}});
  std::string bytes = read_text(*folder_ / "rgb.png");
  Tensor x = decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, format, "it");
  ASSERT_EQ(x.dtype(), DType::u8);
  EXPECT_EQ(x.values<uint8_t>()[0], 255);
}

}  // namespace
}  // namespace graft
