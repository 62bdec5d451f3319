#include "importers/onnx/tensors.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>

#include "graph/proto.h"

namespace graft {
namespace {

using onnx::TensorProto;

// The typed field that ONNX prescribes for a dtype.
enum class Field : uint8_t { floats, doubles, ints, longs, unsigned_longs, strings };

Field field_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return Field::floats;
    case DType::f64: return Field::doubles;
    case DType::i64: return Field::longs;
    case DType::u32:
    case DType::u64: return Field::unsigned_longs;
    case DType::string: return Field::strings;
    default: return Field::ints;
  }
}

int64_t entries(const TensorProto& proto, Field field) {
  switch (field) {
    case Field::floats: return proto.float_data_size();
    case Field::doubles: return proto.double_data_size();
    case Field::ints: return proto.int32_data_size();
    case Field::longs: return proto.int64_data_size();
    case Field::unsigned_longs: return proto.uint64_data_size();
    case Field::strings: return proto.string_data_size();
  }
  return 0;
}

int64_t typed_entries(const TensorProto& proto) {
  int64_t sum = 0;
  for (auto field : {Field::floats, Field::doubles, Field::ints, Field::longs, Field::unsigned_longs, Field::strings}) {
    sum += entries(proto, field);
  }
  return sum;
}

// Narrow types travel as int32 or uint64: ModelError where a value does not fit.
template <class To, class From>
void narrow(Tensor& out, const From& field, const std::string& where) {
  auto* data = static_cast<To*>(out.raw());
  for (int i = 0; i < field.size(); ++i) {
    auto value = field.Get(i);
    if (!std::in_range<To>(value)) {
      throw ModelError(where, " element ", i, " is ", value, ", which ", out.dtype(), " cannot hold: allowed ",
                       +std::numeric_limits<To>::min(), " to ", +std::numeric_limits<To>::max());
    }
    data[i] = static_cast<To>(value);
  }
}

void read_ints(Tensor& out, const TensorProto& proto, const std::string& where) {
  const auto& field = proto.int32_data();
  switch (out.dtype()) {
    case DType::i32: narrow<int32_t>(out, field, where); break;
    case DType::i16: narrow<int16_t>(out, field, where); break;
    case DType::i8: narrow<int8_t>(out, field, where); break;
    case DType::u8:
    case DType::boolean: narrow<uint8_t>(out, field, where); break;
    default: narrow<uint16_t>(out, field, where); break;  // u16 and the bit patterns of f16, bf16
  }
}

Tensor read_typed(const TensorProto& proto, DType dtype, const Dims& dims, const std::string& where) {
  Tensor out = Tensor::uninitialized(dtype, dims);
  auto copy = [&](const auto& field) {
    if (field.size()) std::memcpy(out.raw(), field.data(), static_cast<size_t>(out.bytes()));
  };
  switch (field_of(dtype)) {
    case Field::floats: copy(proto.float_data()); break;
    case Field::doubles: copy(proto.double_data()); break;
    case Field::longs: copy(proto.int64_data()); break;
    case Field::unsigned_longs:
      if (dtype == DType::u64) copy(proto.uint64_data());
      else narrow<uint32_t>(out, proto.uint64_data(), where);
      break;
    case Field::ints: read_ints(out, proto, where); break;
    case Field::strings: break;
  }
  return out;
}

}  // namespace

void check_bools(const Tensor& tensor, const std::string& where) {
  if (tensor.dtype() != DType::boolean) return;
  const auto* bytes = static_cast<const uint8_t*>(tensor.raw());
  for (int64_t i = 0; i < tensor.count(); ++i) {
    if (bytes[i] > 1) throw ModelError(where, " element ", i, " of a bool tensor is ", +bytes[i], ": allowed 0 and 1");
  }
}

DType checked_dtype(const TensorProto& proto, const std::string& where) {
  try {
    return dtype_of_proto(proto.data_type());
  } catch (const ModelError& error) {
    throw ModelError(where, ' ', error.what());
  } catch (const UnsupportedError& error) {
    throw UnsupportedError(where, ' ', error.what());
  }
}

Dims checked_dims(const TensorProto& proto, DType dtype, const std::string& where) {
  Dims dims(proto.dims().begin(), proto.dims().end());
  constexpr size_t largest_rank = 64;
  if (dims.size() > largest_rank) throw ModelError(where, " has rank ", dims.size(), ": allowed up to ", largest_rank);
  try {
    byte_count(dtype, dims);
  } catch (const ModelError& error) {
    throw ModelError(where, " has dims ", dims, ": ", error.what());
  }
  return dims;
}

bool is_external(const TensorProto& proto) { return proto.data_location() == TensorProto::EXTERNAL; }

Tensor read_tensor(const TensorProto& proto, const std::string& where) {
  DType dtype = checked_dtype(proto, where);
  Dims dims = checked_dims(proto, dtype, where);
  if (proto.has_segment()) throw UnsupportedError(where, " is stored in segments: allowed is one piece");
  Field field = field_of(dtype);
  int64_t typed = entries(proto, field);
  int64_t strangers = typed_entries(proto) - typed;
  if (strangers)
    throw ModelError(where, " of type ", dtype, " has ", strangers, " values in the field of another type");
  int64_t count = element_count(dims);
  if (!proto.has_raw_data() || (proto.raw_data().empty() && typed)) {
    if (typed != count) throw ModelError(where, " has ", typed, " values, its dims ", dims, " want ", count);
    Tensor out = read_typed(proto, dtype, dims, where);
    check_bools(out, where);
    return out;
  }
  if (typed)
    throw ModelError(where, " has ", typed, " typed values beside ", proto.raw_data().size(),
                     " raw bytes: allowed is one of them");
  if (dtype == DType::string) throw ModelError(where, " is a string tensor in raw bytes: allowed is string_data");
  int64_t wanted = byte_count(dtype, dims);
  if (static_cast<int64_t>(proto.raw_data().size()) != wanted) {
    throw ModelError(where, " has ", proto.raw_data().size(), " raw bytes, its dims ", dims, " of ", dtype, " want ",
                     wanted);
  }
  Tensor out = Tensor::uninitialized(dtype, dims);
  if (wanted) std::memcpy(out.raw(), proto.raw_data().data(), static_cast<size_t>(wanted));
  check_bools(out, where);
  return out;
}

namespace {

template <class From, class Field>
void widen(const Tensor& tensor, Field* field) {
  const auto* data = static_cast<const From*>(tensor.raw());
  field->Reserve(static_cast<int>(tensor.count()));
  for (int64_t i = 0; i < tensor.count(); ++i) field->AddAlreadyReserved(data[i]);
}

void write_typed(TensorProto& proto, const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::f32: return widen<float>(tensor, proto.mutable_float_data());
    case DType::f64: return widen<double>(tensor, proto.mutable_double_data());
    case DType::i64: return widen<int64_t>(tensor, proto.mutable_int64_data());
    case DType::u64: return widen<uint64_t>(tensor, proto.mutable_uint64_data());
    case DType::u32: return widen<uint32_t>(tensor, proto.mutable_uint64_data());
    case DType::i32: return widen<int32_t>(tensor, proto.mutable_int32_data());
    case DType::i16: return widen<int16_t>(tensor, proto.mutable_int32_data());
    case DType::i8: return widen<int8_t>(tensor, proto.mutable_int32_data());
    case DType::u8:
    case DType::boolean: return widen<uint8_t>(tensor, proto.mutable_int32_data());
    case DType::u16:
    case DType::f16:
    case DType::bf16: return widen<uint16_t>(tensor, proto.mutable_int32_data());
    default: throw UsageError("a ", tensor.dtype(), " tensor has no bytes to write");
  }
}

}  // namespace

// What a message clears it keeps the memory of: bytes and lists are taken out of it to be freed.
void clear_data(TensorProto& proto) {
  std::unique_ptr<std::string> raw(proto.release_raw_data());
  auto drop = [](auto* list) { std::remove_pointer_t<decltype(list)>().Swap(list); };
  drop(proto.mutable_float_data());
  drop(proto.mutable_double_data());
  drop(proto.mutable_int32_data());
  drop(proto.mutable_int64_data());
  drop(proto.mutable_uint64_data());
}

void write_tensor(TensorProto& proto, const Tensor& tensor, bool raw) {
  clear_data(proto);
  if (raw) proto.set_raw_data(tensor.raw(), static_cast<size_t>(tensor.bytes()));
  else write_typed(proto, tensor);
}

}  // namespace graft
