#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "importers/data/npz.h"
#include "importers/data/zip.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

void expect_same(const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.dtype(), b.dtype());
  ASSERT_EQ(a.dims(), b.dims());
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())), 0);
}

TEST(Npz, round_trip) {
  TemporaryFolder folder;
  std::vector<std::pair<std::string, Tensor>> arrays{{"x", Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, -6})},
                                                     {"grad:a/b.0", Tensor::scalar<double>(0.5)},
                                                     {"labels", Tensor::of<int64_t>({3}, {1, -2, 3})},
                                                     {"mask", Tensor::of<bool>({2}, {true, false})},
                                                     {"half", Tensor::of<float>({2}, {1.5F, 2}).cast(DType::f16)},
                                                     {"none", Tensor(DType::f32, {0, 4})}};
  std::string path = folder / "a.npz";
  write_npz(path, arrays);
  auto read = read_npz(path);
  ASSERT_EQ(read.size(), arrays.size());
  for (const auto& [name, tensor] : arrays) expect_same(read.at(name), tensor);
  auto listed = list_npz(path);
  EXPECT_EQ(listed.at("x").dims, (Dims{2, 3}));
  EXPECT_EQ(listed.at("mask").dtype, DType::boolean);
}

TEST(Npz, bfloat16_is_written_as_float) {
  TemporaryFolder folder;
  write_npz(folder / "a.npz", {{"x", Tensor::of<float>({2}, {1.5F, -2}).cast(DType::bf16)}});
  expect_same(read_npz(folder / "a.npz").at("x"), Tensor::of<float>({2}, {1.5F, -2}));
}

TEST(Npz, agrees_with_numpy) {
  TemporaryFolder folder;
  write_npz(folder / "ours.npz", {{"x", Tensor::of<float>({2, 2}, {1, 2, 3, 4})}, {"n", Tensor::scalar<int32_t>(7)}});
  run_python(R"(
import sys, numpy as np, zipfile
a = np.load(sys.argv[1])
assert sorted(a.files) == ['n', 'x'], a.files
assert a['x'].dtype == np.float32 and (a['x'] == [[1, 2], [3, 4]]).all()
assert a['n'].shape == () and a['n'] == 7
assert zipfile.ZipFile(sys.argv[1]).testzip() is None
x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
arrays = dict(c=x, f=np.asfortranarray(x), big=x.astype('>f8'), small=np.int8(3), flags=x > 5, long=np.arange(300000) % 7)
np.savez(sys.argv[2], **arrays)
np.savez_compressed(sys.argv[3], **arrays)
)",
             {folder / "ours.npz", folder / "stored.npz", folder / "deflated.npz"});
  for (const char* name : {"stored.npz", "deflated.npz"}) {
    auto read = read_npz(folder / name);
    ASSERT_EQ(read.size(), 6U);
    for (int i = 0; i < 24; ++i) {
      EXPECT_EQ(read.at("c").values<float>()[i], static_cast<float>(i));
      EXPECT_EQ(read.at("f").values<float>()[i], static_cast<float>(i)) << "Fortran order";
      EXPECT_EQ(read.at("big").values<double>()[i], i) << "byte order";
      EXPECT_EQ(read.at("flags").values<bool>()[i], i > 5);
    }
    EXPECT_EQ(read.at("small").values<int8_t>()[0], 3);
    for (int i = 0; i < 300000; ++i) ASSERT_EQ(read.at("long").values<int64_t>()[i], i % 7);
  }
}

TEST(Npz, unsupported_types_say_so) {
  TemporaryFolder folder;
  run_python(R"(
import sys, numpy as np
np.savez(sys.argv[1] + '/text.npz', a=np.array(['x', 'yy']))
np.savez(sys.argv[1] + '/complex.npz', a=np.zeros(2, np.complex64))
np.savez(sys.argv[1] + '/object.npz', a=np.array([None]))
np.savez(sys.argv[1] + '/record.npz', a=np.zeros(2, [('x', 'f4')]))
)",
             {folder.path()});
  for (const char* name : {"text.npz", "complex.npz", "object.npz", "record.npz"}) {
    EXPECT_THROW(read_npz(folder / name), UnsupportedError) << name;
  }
}

TEST(Npz, bad_files) {
  TemporaryFolder folder;
  EXPECT_THROW(read_npz(folder / "missing.npz"), DataError);
  EXPECT_THROW(read_npz(folder.path()), DataError);
  EXPECT_THROW(read_npz(folder.write("empty.npz", "")), DataError);
  EXPECT_THROW(read_npz(folder.write("garbage.npz", std::string(5000, 'x'))), DataError);
  EXPECT_THROW(read_npz("/dev/zero"), DataError);
  EXPECT_THROW(write_npz(folder / "twice.npz", {{"a", Tensor::scalar(1.0F)}, {"a", Tensor::scalar(1.0F)}}), UsageError);
  EXPECT_FALSE(std::filesystem::exists(folder / "twice.npz"));
}

// A stored .npz with one member whose .npy header is `text`.
std::string with_header(const TemporaryFolder& folder, const std::string& text, size_t payload) {
  std::string member = std::string("\x93NUMPY\x01\x00", 8);
  member.push_back(static_cast<char>(text.size() & 0xff));
  member.push_back(static_cast<char>(text.size() >> 8));
  member += text + std::string(payload, '\1');
  std::string path = folder / "header.npz";
  ZipWriter writer(path);
  writer.add("a.npy", {{member.data(), static_cast<int64_t>(member.size())}});
  writer.commit();
  return path;
}

TEST(Npz, hostile_headers) {
  TemporaryFolder folder;
  auto sound = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
  EXPECT_EQ(read_npz(with_header(folder, sound, 8)).at("a").dims(), (Dims{2}));
  for (const char* text : {
           "",
           "{",
           "}",
           "{'descr'",
           "{'descr': '<f4', 'fortran_order': False}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
           "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,), }",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (2, }",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
           "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 2)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 2)}",
       }) {
    EXPECT_THROW(read_npz(with_header(folder, text, 8)), DataError) << text;
  }
  EXPECT_THROW(read_npz(with_header(folder, "{'descr': 'f', 'fortran_order': False, 'shape': (2,), }", 8)),
               UnsupportedError);
}

// Any single changed byte and any cut must give the same arrays or a typed error.
TEST(Npz, survives_corruption) {
  TemporaryFolder folder;
  run_python(
      "import sys, numpy as np\nnp.savez_compressed(sys.argv[1], x=np.arange(64.), y=np.ones((3, 4), 'f4'))\n"
      "np.savez(sys.argv[2], x=np.arange(8.))",
      {folder / "deflated.npz", folder / "stored.npz"});
  int errors = 0;
  for (const char* name : {"deflated.npz", "stored.npz"}) {
    std::string sound = read_text(folder / name);
    auto original = read_npz(folder / name);
    auto attempt = [&](const std::string& bytes) {
      std::string path = folder.write("changed.npz", bytes);
      try {
        for (const auto& [key, tensor] : read_npz(path)) {  // a name in the directory has no checksum
          if (original.contains(key)) expect_same(tensor, original.at(key));
        }
      } catch (const DataError&) {
        ++errors;
      } catch (const UnsupportedError&) {
        ++errors;
      }
    };
    for (size_t cut = 0; cut < sound.size(); ++cut) attempt(sound.substr(0, cut));
    std::mt19937 random(1);
    for (size_t at = 0; at < sound.size(); ++at) {
      for (int value : {0, 0xff, static_cast<int>(random() & 0xff)}) {
        std::string changed = sound;
        changed[at] = static_cast<char>(value);
        attempt(changed);
      }
    }
    for (int i = 0; i < 300; ++i) {
      std::string changed = sound;
      for (int k = 0; k < 4; ++k) changed[random() % changed.size()] = static_cast<char>(random());
      attempt(changed);
    }
  }
  EXPECT_GT(errors, 1500);
}

TEST(Npz, overlapping_members_are_refused) {
  TemporaryFolder folder;
  run_python(R"(
import sys, numpy as np, io, zipfile, struct
b = io.BytesIO(); np.save(b, np.zeros(100000, 'f4'))
with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_STORED) as z: z.writestr('a.npy', b.getvalue())
d = open(sys.argv[1], 'rb').read()
end = d.rfind(b'PK\5\6'); start = struct.unpack('<I', d[end+16:end+20])[0]; entry = d[start:end]
many = b''.join(entry.replace(b'a.npy', b'%c.npy' % (97 + i)) for i in range(20))
d = d[:start] + many + struct.pack('<IHHHHIIH', 0x06054b50, 0, 0, 20, 20, len(many), start, 0)
open(sys.argv[1], 'wb').write(d)
)",
             {folder / "overlap.npz"});
  EXPECT_THROW(read_npz(folder / "overlap.npz"), DataError);
}

TEST(Zip, checksum) {
  EXPECT_EQ(zip_crc(0, "123456789", 9), 0xCBF43926U);
  EXPECT_EQ(zip_crc(zip_crc(0, "1234", 4), "56789", 5), 0xCBF43926U);
  std::string text = "The quick brown fox jumps over the lazy dog";
  EXPECT_EQ(zip_crc(0, text.data(), static_cast<int64_t>(text.size())), 0x414FA339U);
}

}  // namespace
}  // namespace graft
