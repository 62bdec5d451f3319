#include "importers/data/npz.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <set>

#include "importers/data/zip.h"

namespace graft {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are written as they lie in memory");

constexpr std::string_view magic = "\x93NUMPY";
constexpr int64_t largest_header = 64 << 10;
constexpr size_t largest_rank = 64;  // NumPy's own limit

struct Code {
  std::string_view text;
  DType dtype;
};
constexpr std::array<Code, 12> codes{{{"f2", DType::f16},
                                      {"f4", DType::f32},
                                      {"f8", DType::f64},
                                      {"i1", DType::i8},
                                      {"i2", DType::i16},
                                      {"i4", DType::i32},
                                      {"i8", DType::i64},
                                      {"u1", DType::u8},
                                      {"u2", DType::u16},
                                      {"u4", DType::u32},
                                      {"u8", DType::u64},
                                      {"b1", DType::boolean}}};

struct Header {
  std::string descr;
  bool fortran = false;
  bool swapped = false;
  DType dtype = DType::undefined;
  Dims dims;
};

// The literal that NumPy writes: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  Header parse() {
    Header header;
    std::set<std::string> seen;
    expect('{');
    while (!accept('}')) {
      std::string key = quoted();
      if (!seen.insert(key).second) fail("has key '", key, "' twice");
      expect(':');
      if (key == "descr") header.descr = descr();
      else if (key == "fortran_order") header.fortran = boolean();
      else if (key == "shape") header.dims = shape();
      else fail("has the unknown key '", key, "'");
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip();
    if (at_ != text_.size()) fail("goes on after its end");
    if (seen.size() != 3) fail("lacks one of 'descr', 'fortran_order', 'shape'");
    return header;
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw DataError(where_, ": its header ", cat(parts...));
  }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    skip();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail("lacks '", c, "' at byte ", at_);
  }
  std::string quoted() {
    skip();
    char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail("lacks a string at byte ", at_);
    size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("has a string without end at byte ", at_);
    std::string out(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return out;
  }
  std::string descr() {
    skip();
    if (at_ < text_.size() && text_[at_] == '[') {
      throw UnsupportedError(where_, " is a structured array: arrays of numbers are supported");
    }
    return quoted();
  }
  bool boolean() {
    skip();
    for (bool value : {true, false}) {
      std::string_view word = value ? "True" : "False";
      if (text_.substr(at_, word.size()) != word) continue;
      at_ += word.size();
      return value;
    }
    fail("lacks True or False at byte ", at_);
  }
  Dims shape() {
    Dims dims;
    expect('(');
    while (!accept(')')) {
      skip();
      int64_t dim = 0;
      auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), dim);
      if (error != std::errc() || dim < 0) fail("has a shape with a bad number at byte ", at_);
      at_ = static_cast<size_t>(end - text_.data());
      accept('L');  // Python 2 wrote longs so
      dims.push_back(dim);
      if (dims.size() > largest_rank) fail("has a shape of more than ", largest_rank, " dimensions");
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return dims;
  }

  std::string_view text_;
  std::string where_;
  size_t at_ = 0;
};

void resolve_dtype(Header& header, const std::string& where) {
  std::string_view code = header.descr;
  char order = code.empty() ? '\0' : code.front();
  if (order == '<' || order == '>' || order == '|' || order == '=') code.remove_prefix(1);
  header.swapped = order == '>';
  for (const auto& known : codes) {
    if (known.text == code) header.dtype = known.dtype;
  }
  if (header.dtype == DType::undefined) {
    throw UnsupportedError(where, " has the type '", header.descr, "': floats, integers and booleans are supported");
  }
}

Header read_header(ZipStream& stream, const std::string& where) {
  std::array<char, 8> start{};
  stream.read(start.data(), start.size());
  if (std::string_view(start.data(), magic.size()) != magic) throw DataError(where, " is not in .npy format");
  int major = start[6];
  if (major < 1 || major > 3) throw UnsupportedError(where, " has .npy version ", major, ", supported are 1 to 3");
  std::array<uint8_t, 4> length{};
  stream.read(length.data(), major == 1 ? 2 : 4);
  int64_t bytes = length[0] | (length[1] << 8) | (length[2] << 16) | (static_cast<int64_t>(length[3]) << 24);
  if (bytes > largest_header)
    throw DataError(where, ": its header has ", bytes, " bytes, allowed are ", largest_header);
  std::string text(static_cast<size_t>(bytes), '\0');
  stream.read(text.data(), bytes);
  Header header = HeaderParser(text, where).parse();
  resolve_dtype(header, where);
  int64_t payload = 0;
  try {
    payload = byte_count(header.dtype, header.dims);
  } catch (const ModelError& error) {
    throw DataError(where, ": ", error.what());
  }
  if (payload != stream.remaining()) {
    throw DataError(where, ": ", header.dtype, " of shape ", header.dims, " takes ", payload, " bytes, got ",
                    stream.remaining());
  }
  return header;
}

void swap_bytes(Tensor& tensor) {
  auto* bytes = static_cast<std::byte*>(tensor.raw());
  size_t size = size_of(tensor.dtype());
  for (int64_t i = 0; i < tensor.count(); ++i, bytes += size) std::reverse(bytes, bytes + size);
}

// Elements of a column-major array put into row-major order.
Tensor to_row_major(const Tensor& in) {
  Tensor out = Tensor::uninitialized(in.dtype(), in.dims());
  size_t rank = in.dims().size();
  Dims stride(rank, 1);
  for (size_t i = 1; i < rank; ++i) stride[i] = stride[i - 1] * in.dims()[i - 1];
  Dims index(rank, 0);
  size_t size = size_of(in.dtype());
  const auto* source = static_cast<const std::byte*>(in.raw());
  auto* target = static_cast<std::byte*>(out.raw());
  int64_t from = 0;
  for (int64_t i = 0; i < in.count(); ++i, target += size) {
    std::memcpy(target, source + from * static_cast<int64_t>(size), size);
    for (size_t d = rank; d-- > 0;) {
      from += stride[d];
      if (++index[d] < in.dims()[d]) break;
      from -= stride[d] * in.dims()[d];
      index[d] = 0;
    }
  }
  return out;
}

Tensor read_array(ZipStream& stream, const Header& header) {
  Tensor tensor = Tensor::uninitialized(header.dtype, header.dims);
  stream.read(tensor.raw(), tensor.bytes());
  stream.finish();
  if (header.swapped) swap_bytes(tensor);
  if (header.dtype == DType::boolean) {  // any byte but 0 and 1 would be undefined behaviour in a bool
    auto* bytes = static_cast<uint8_t*>(tensor.raw());
    for (int64_t i = 0; i < tensor.count(); ++i) bytes[i] = bytes[i] != 0;
  }
  return header.fortran && header.dims.size() > 1 ? to_row_major(tensor) : tensor;
}

// Calls f(name, stream, header) for each array of the file.
template <class F>
void for_each_array(const std::string& path, const F& f) {
  InputFile file(path);
  std::set<std::string> names;
  for (const auto& member : read_zip_directory(file)) {
    std::string where = cat("\"", path, "\": array \"", member.name, "\"");
    constexpr std::string_view suffix = ".npy";
    if (!member.name.ends_with(suffix)) throw DataError(where, " is not named *.npy");
    std::string name = member.name.substr(0, member.name.size() - suffix.size());
    if (!names.insert(name).second) throw DataError(where, " is there twice");
    ZipStream stream(file, member);
    Header header = read_header(stream, where);
    f(name, stream, header);
  }
}

std::string format_header(const Tensor& tensor) {
  std::string_view code;
  for (const auto& known : codes) {
    if (known.dtype == tensor.dtype()) code = known.text;
  }
  std::string text =
      cat("{'descr': '", size_of(tensor.dtype()) == 1 ? '|' : '<', code, "', 'fortran_order': False, 'shape': (");
  for (size_t i = 0; i < tensor.dims().size(); ++i) text += cat(i ? ", " : "", tensor.dims()[i]);
  text += tensor.dims().size() == 1 ? ",), }" : "), }";
  constexpr size_t alignment = 64;
  size_t start = magic.size() + 4;
  text.append((alignment - (start + text.size() + 1) % alignment) % alignment, ' ');
  text += '\n';
  std::string header = cat(magic, '\1', '\0');
  header.push_back(static_cast<char>(text.size() & 0xff));
  header.push_back(static_cast<char>(text.size() >> 8));
  return header + text;
}

}  // namespace

std::map<std::string, Tensor> read_npz(const std::string& path) {
  std::map<std::string, Tensor> arrays;
  for_each_array(path, [&](const std::string& name, ZipStream& stream, const Header& header) {
    arrays[name] = read_array(stream, header);
  });
  return arrays;
}

std::map<std::string, ArrayInfo> list_npz(const std::string& path) {
  std::map<std::string, ArrayInfo> arrays;
  for_each_array(path, [&](const std::string& name, ZipStream&, const Header& header) {
    arrays[name] = {header.dtype, header.dims};
  });
  return arrays;
}

void NpzWriter::add(const std::string& name, const Tensor& array) {
  if (!names_.insert(name).second) throw UsageError("\"", path_, "\": two arrays are named \"", name, "\"");
  if (!size_of(array.dtype()))
    throw UnsupportedError("\"", path_, "\": array \"", name, "\" of ", array.dtype(), " cannot be written");
  Tensor tensor = array.dtype() == DType::bf16 ? array.cast(DType::f32) : array;
  std::string header = format_header(tensor);
  writer_.add(name + ".npy", {{header.data(), static_cast<int64_t>(header.size())}, {tensor.raw(), tensor.bytes()}});
}

void write_npz(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& arrays) {
  NpzWriter writer(path);
  for (const auto& [name, array] : arrays) writer.add(name, array);
  writer.commit();
}

}  // namespace graft
