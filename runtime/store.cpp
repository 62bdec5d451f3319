#include "runtime/store.h"

namespace graft {
namespace {

int64_t storage_bytes(const ParameterStore::Entry& entry) {
  return checked_mul(entry.layout.storage_count(), static_cast<int64_t>(size_of(entry.dtype)));
}

}  // namespace

void ParameterStore::add(const std::string& name, StateKind kind, Tensor value) {
  const bool takes_over = value.use_count() == 1 && !StatePool::shares_pages(value.bytes());
  Entry entry{kind, value.dtype(), value.dims(), Layout::plain(value.dims()), nullptr};
  entry.bytes = takes_over ? value.share_bytes() : pool_.take(value.bytes(), false);
  if (!takes_over) std::memcpy(entry.bytes.get(), value.raw(), static_cast<size_t>(value.bytes()));
  insert(name, std::move(entry));
}

void ParameterStore::add_zeros(const std::string& name, StateKind kind, DType dtype, const Dims& dims,
                               const Layout& layout) {
  Entry entry{kind, dtype, dims, layout, nullptr};
  entry.bytes = pool_.take(storage_bytes(entry), true);
  insert(name, std::move(entry));
}

void ParameterStore::insert(const std::string& name, Entry entry) {
  if (!entries_.emplace(name, std::move(entry)).second) throw UsageError("state \"", name, "\" exists already");
}

const ParameterStore::Entry& ParameterStore::entry(const std::string& name) const {
  auto found = entries_.find(name);
  if (found != entries_.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [known, unused] : entries_) names.push_back(known);
  std::string near;
  for (const auto& close : nearest_names(name, names)) near += (near.empty() ? "\"" : ", \"") + close + '"';
  throw UsageError("no state \"", name, "\"; nearest: ", near);
}

ParameterStore::Entry& ParameterStore::mutable_entry(const std::string& name) {
  return const_cast<Entry&>(entry(name));
}

Tensor ParameterStore::read(const std::string& name) const {
  const Entry& from = entry(name);
  Tensor tensor = Tensor::uninitialized(from.dtype, from.dims);
  relayout(from.dims, size_of(from.dtype), from.layout, from.bytes.get(), Layout::plain(from.dims), tensor.raw());
  return tensor;
}

void ParameterStore::write(const std::string& name, const Tensor& value) {
  Entry& to = mutable_entry(name);
  if (value.dtype() != to.dtype || value.dims() != to.dims) {
    throw UsageError("state \"", name, "\" is ", to.dtype, to.dims, ", got ", value.dtype(), value.dims());
  }
  relayout(to.dims, size_of(to.dtype), Layout::plain(to.dims), value.raw(), to.layout, to.bytes.get());
  ++value_generation_;
}

void ParameterStore::convert(const std::string& name, const Layout& layout) {
  Entry& state = mutable_entry(name);
  if (state.layout == layout) return;
  Entry moved = state;
  moved.layout = layout;
  moved.bytes = pool_.take(storage_bytes(moved), true);
  relayout(state.dims, size_of(state.dtype), state.layout, state.bytes.get(), layout, moved.bytes.get());
  moved.layout_generation = ++layout_generation_;
  state = std::move(moved);
}

}  // namespace graft
