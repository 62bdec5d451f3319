#include "importers/data/table.h"

#include <arrow/array.h>
#include <arrow/table.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "importers/data/table_file.h"

namespace graft {
namespace {

bool is_whole(arrow::Type::type type) { return arrow::is_integer(type) || type == arrow::Type::BOOL; }
bool is_real(arrow::Type::type type) {
  return type == arrow::Type::FLOAT || type == arrow::Type::DOUBLE || type == arrow::Type::HALF_FLOAT;
}
bool is_text(const arrow::DataType& type) {
  if (type.id() == arrow::Type::DICTIONARY)
    return is_text(*static_cast<const arrow::DictionaryType&>(type).value_type());
  return type.id() == arrow::Type::STRING || type.id() == arrow::Type::LARGE_STRING;
}
const arrow::DataType* list_value(const arrow::DataType& type) {
  bool list = type.id() == arrow::Type::LIST || type.id() == arrow::Type::LARGE_LIST ||
              type.id() == arrow::Type::FIXED_SIZE_LIST;
  return list ? type.field(0)->type().get() : nullptr;
}

template <class Array, class Value, class F>
void visit_values(const arrow::Array& array, const F& f) {
  const auto& typed = static_cast<const Array&>(array);
  for (int64_t i = 0; i < typed.length(); ++i) {
    bool valid = typed.IsValid(i);
    f(i, valid, valid ? static_cast<Value>(typed.Value(i)) : Value{});
  }
}

// Calls f(index, valid, value) for each number of an array; the value is an int64_t, uint64_t or double.
template <class F>
void visit_numbers(const arrow::Array& array, const F& f) {
  switch (array.type_id()) {
    case arrow::Type::BOOL: return visit_values<arrow::BooleanArray, int64_t>(array, f);
    case arrow::Type::INT8: return visit_values<arrow::Int8Array, int64_t>(array, f);
    case arrow::Type::INT16: return visit_values<arrow::Int16Array, int64_t>(array, f);
    case arrow::Type::INT32: return visit_values<arrow::Int32Array, int64_t>(array, f);
    case arrow::Type::INT64: return visit_values<arrow::Int64Array, int64_t>(array, f);
    case arrow::Type::UINT8: return visit_values<arrow::UInt8Array, int64_t>(array, f);
    case arrow::Type::UINT16: return visit_values<arrow::UInt16Array, int64_t>(array, f);
    case arrow::Type::UINT32: return visit_values<arrow::UInt32Array, int64_t>(array, f);
    case arrow::Type::UINT64: return visit_values<arrow::UInt64Array, uint64_t>(array, f);
    case arrow::Type::FLOAT: return visit_values<arrow::FloatArray, double>(array, f);
    case arrow::Type::DOUBLE: return visit_values<arrow::DoubleArray, double>(array, f);
    case arrow::Type::HALF_FLOAT: {
      const auto& half = static_cast<const arrow::HalfFloatArray&>(array);
      for (int64_t i = 0; i < half.length(); ++i) {
        f(i, half.IsValid(i), half.IsValid(i) ? static_cast<double>(from_f16(half.Value(i))) : 0.0);
      }
      return;
    }
    default: throw UnsupportedError("numbers of type ", array.type()->ToString());
  }
}

void append_text(const arrow::Array& array, std::vector<std::string>& texts, std::vector<bool>& missing) {
  auto append = [&](const auto& strings) {
    for (int64_t i = 0; i < strings.length(); ++i) {
      texts.emplace_back(strings.IsValid(i) ? strings.GetView(i) : std::string_view());
      missing.push_back(!strings.IsValid(i));
    }
  };
  if (array.type_id() == arrow::Type::STRING) return append(static_cast<const arrow::StringArray&>(array));
  if (array.type_id() == arrow::Type::LARGE_STRING) return append(static_cast<const arrow::LargeStringArray&>(array));
  const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
  std::vector<std::string> words;
  std::vector<bool> absent;
  append_text(*coded.dictionary(), words, absent);
  for (int64_t i = 0; i < coded.length(); ++i) {
    int64_t word = coded.IsValid(i) ? coded.GetValueIndex(i) : -1;
    bool found = word >= 0 && word < static_cast<int64_t>(words.size()) && !absent[static_cast<size_t>(word)];
    texts.push_back(found ? words[static_cast<size_t>(word)] : "");
    missing.push_back(!found);
  }
}

// Calls f(row, first, count) for each list: its place among the values, which are returned. Absent lists have count -1.
template <class F>
std::shared_ptr<arrow::Array> visit_lists(const arrow::Array& array, const F& f) {
  auto each = [&](const auto& lists) {
    for (int64_t i = 0; i < lists.length(); ++i) {
      if (lists.IsValid(i))
        f(i, static_cast<int64_t>(lists.value_offset(i)), static_cast<int64_t>(lists.value_length(i)));
      else f(i, int64_t{0}, int64_t{-1});
    }
    return lists.values();
  };
  if (array.type_id() == arrow::Type::LIST) return each(static_cast<const arrow::ListArray&>(array));
  if (array.type_id() == arrow::Type::LARGE_LIST) return each(static_cast<const arrow::LargeListArray&>(array));
  return each(static_cast<const arrow::FixedSizeListArray&>(array));
}

}  // namespace

Table::Table(const std::string& path) : path_(path) {
  table_ = read_table(path);
  auto valid = table_->ValidateFull();
  if (!valid.ok()) throw DataError("\"", path, "\": ", valid.message());
  columns_ = table_->ColumnNames();
  std::set<std::string> seen;
  for (const auto& name : columns_) {
    if (!seen.insert(name).second) throw DataError("\"", path, "\" has two columns named \"", name, "\"");
  }
  if (rows() == 0 || columns_.empty()) throw DataError("\"", path, "\" has no rows");
}

Table::~Table() = default;

int64_t Table::rows() const { return table_->num_rows(); }
bool Table::has(const std::string& column) const {
  return std::find(columns_.begin(), columns_.end(), column) != columns_.end();
}

void Table::expect(const std::string& column) const {
  if (has(column)) return;
  std::string nearest;
  for (const auto& name : nearest_names(column, columns_)) nearest += cat(nearest.empty() ? "\"" : ", \"", name, "\"");
  throw UsageError("\"", path_, "\" has no column \"", column, "\"; nearest: ", nearest);
}

const arrow::ChunkedArray& Table::column(const std::string& name) const {
  expect(name);
  return *table_->column(static_cast<int>(std::find(columns_.begin(), columns_.end(), name) - columns_.begin()));
}

std::string Table::type_name(const std::string& name) const { return column(name).type()->ToString(); }

Table::Kind Table::kind(const std::string& name) const {
  const arrow::DataType& type = *column(name).type();
  if (is_whole(type.id())) return Kind::whole_numbers;
  if (is_real(type.id())) return Kind::real_numbers;
  if (is_text(type)) return Kind::text;
  const arrow::DataType* value = list_value(type);
  return value && (is_whole(value->id()) || is_real(value->id())) ? Kind::lists : Kind::other;
}

int64_t Table::width(const std::string& name) const {
  if (kind(name) != Kind::lists) return 1;
  int64_t width = -1;
  int64_t row = 0;
  for (const auto& chunk : column(name).chunks()) {
    visit_lists(*chunk, [&](int64_t i, int64_t, int64_t count) {
      if (count < 0) return;
      if (width >= 0 && count != width) {
        throw DataError("\"", path_, "\" row ", row + i + 1, ": column \"", name, "\" has ", count, " numbers, ", width,
                        " in the rows before");
      }
      width = count;
    });
    row += chunk->length();
  }
  return std::max<int64_t>(width, 0);
}

template <class T>
void Table::copy_numbers(const std::string& name, T* out, int64_t stride, std::vector<std::string>& bad) const {
  auto mark = [&](int64_t row, const char* what) {
    bad.resize(static_cast<size_t>(rows()));
    auto& reason = bad[static_cast<size_t>(row)];
    if (reason.empty()) reason = cat("column \"", name, "\" ", what);
  };
  auto put = [&](int64_t row, T* to, bool valid, auto value) {
    *to = valid ? static_cast<T>(value) : T{};
    if (!valid) mark(row, "has no value");
    if constexpr (std::is_floating_point_v<T>) {
      if (!std::isfinite(*to)) mark(row, "is not a finite number");
    }
  };
  Kind wanted = kind(name);
  int64_t row = 0;
  for (const auto& chunk : column(name).chunks()) {
    if (wanted == Kind::lists) {
      // Values by list: the places are gathered first, the values visited once.
      std::vector<std::pair<int64_t, int64_t>> places;  // first value, its row
      auto values = visit_lists(*chunk, [&](int64_t i, int64_t first, int64_t count) {
        if (count < 0) mark(row + i, "has no value");
        else places.emplace_back(first, row + i);
      });
      int64_t count = width(name);
      for (auto [first, at] : places) {
        visit_numbers(*values->Slice(first, count), [&, at = at](int64_t k, bool valid, auto value) {
          if constexpr (!std::is_floating_point_v<T> && std::is_floating_point_v<decltype(value)>) {
            throw DataError("\"", path_, "\": column \"", name, "\" has fractions, the model takes integers");
          } else {
            put(at, out + at * stride + k, valid, value);
          }
        });
      }
    } else {
      visit_numbers(*chunk, [&](int64_t i, bool valid, auto value) {
        if constexpr (!std::is_floating_point_v<T> && std::is_floating_point_v<decltype(value)>) {
          throw DataError("\"", path_, "\": column \"", name, "\" has fractions, the model takes integers");
        } else {
          put(row + i, out + (row + i) * stride, valid, value);
        }
      });
    }
    row += chunk->length();
  }
}
template void Table::copy_numbers(const std::string&, float*, int64_t, std::vector<std::string>&) const;
template void Table::copy_numbers(const std::string&, int64_t*, int64_t, std::vector<std::string>&) const;

std::vector<int64_t> Table::whole_numbers(const std::string& name, std::vector<bool>& missing) const {
  std::vector<int64_t> numbers;
  numbers.reserve(static_cast<size_t>(rows()));
  for (const auto& chunk : column(name).chunks()) {
    visit_numbers(*chunk, [&](int64_t, bool valid, auto value) {
      if constexpr (std::is_same_v<decltype(value), uint64_t>) {
        if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
          throw DataError("\"", path_, "\": column \"", name, "\" has the label ", value);
      }
      numbers.push_back(static_cast<int64_t>(value));
      missing.push_back(!valid);
    });
  }
  return numbers;
}

std::vector<std::string> Table::text(const std::string& name, std::vector<bool>& missing) const {
  std::vector<std::string> texts;
  texts.reserve(static_cast<size_t>(rows()));
  for (const auto& chunk : column(name).chunks()) append_text(*chunk, texts, missing);
  return texts;
}

}  // namespace graft
