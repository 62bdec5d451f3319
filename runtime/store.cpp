#include "runtime/store.h"

namespace graft {

int64_t ParameterStore::Entry::storage_bytes() const {
  return checked_mul(layout.storage_count(), static_cast<int64_t>(size_of(dtype)));
}

void ParameterStore::add(const std::string& name, StateKind kind, Tensor value) {
  const bool takes_over = value.use_count() == 1 && !StatePool::shares_pages(value.bytes());
  Entry entry{kind, value.dtype(), value.dims(), Layout::plain(value.dims()), nullptr};
  entry.bytes = takes_over ? value.share_bytes() : pool_.take(value.bytes(), false);
  if (!takes_over) std::memcpy(entry.bytes.get(), value.raw(), static_cast<size_t>(value.bytes()));
  insert(name, std::move(entry));
}

void ParameterStore::add_zeros(const std::string& name, StateKind kind, DType dtype, const Dims& dims,
                               const Layout& layout, DiskPlace place) {
  Entry entry{kind, dtype, dims, layout, nullptr, std::move(place)};
  if (!entry.on_disk()) entry.bytes = pool_.take(entry.storage_bytes(), true);
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
  if (from.on_disk() && from.layout.is_plain(from.dims)) {
    from.disk.file->read(from.disk.offset, tensor.raw(), tensor.bytes());
    return tensor;
  }
  const Bytes bytes = bytes_of(from);
  relayout(from.dims, size_of(from.dtype), from.layout, bytes.get(), Layout::plain(from.dims), tensor.raw());
  return tensor;
}

void ParameterStore::write(const std::string& name, const Tensor& value) {
  Entry& to = mutable_entry(name);
  if (value.dtype() != to.dtype || value.dims() != to.dims) {
    throw UsageError("state \"", name, "\" is ", to.dtype, to.dims, ", got ", value.dtype(), value.dims());
  }
  fill(to, Layout::plain(to.dims), value.raw());
  ++value_generation_;
}

void ParameterStore::convert(const std::string& name, const Layout& layout, DiskPlace place) {
  Entry& state = mutable_entry(name);
  Entry moved = state;
  moved.layout = layout;
  moved.disk = std::move(place);
  if (state.layout == layout && state.on_disk() == moved.on_disk()) return;
  Bytes before = bytes_of(state);
  const bool same_place = state.bytes && !moved.on_disk() && state.storage_bytes() == moved.storage_bytes();
  if (same_place) {
    // Other bytes would leave a gap that nothing may fill.
    before = allocate_bytes(state.storage_bytes(), false);
    std::memcpy(before.get(), state.bytes.get(), static_cast<size_t>(state.storage_bytes()));
  } else {
    moved.bytes = moved.on_disk() ? nullptr : pool_.take(moved.storage_bytes(), true);
  }
  fill(moved, state.layout, before.get());
  moved.layout_generation = ++layout_generation_;
  state = std::move(moved);
}

// Those of a state on the disk are a copy.
ParameterStore::Bytes ParameterStore::bytes_of(const Entry& state) {
  if (!state.on_disk()) return state.bytes;
  Bytes copy = allocate_bytes(state.storage_bytes(), false);
  state.disk.file->read(state.disk.offset, copy.get(), state.storage_bytes());
  return copy;
}

void ParameterStore::fill(const Entry& to, const Layout& layout, const void* from) {
  if (to.on_disk() && to.layout == layout) return to.disk.file->write(to.disk.offset, from, to.storage_bytes());
  const Bytes bytes = to.on_disk() ? allocate_bytes(to.storage_bytes(), true) : to.bytes;
  relayout(to.dims, size_of(to.dtype), layout, from, to.layout, bytes.get());
  if (to.on_disk()) to.disk.file->write(to.disk.offset, bytes.get(), to.storage_bytes());
}

ParameterStore::OnDisk ParameterStore::on_disk() const {
  OnDisk found;
  for (const auto& [name, entry] : entries_) {
    if (!entry.on_disk()) continue;
    found.bytes += entry.storage_bytes();
    found.folder = entry.disk.file->folder();
  }
  return found;
}

}  // namespace graft
