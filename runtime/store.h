// Where states live: parameters, statistics, moments, counters. One master a state; Programs bind to its address.
#pragma once

#include "graph/graph.h"
#include "runtime/device/cpu/scratch_file.h"
#include "runtime/state_pool.h"

namespace graft {

// A place for a state on the disk; none without a file.
struct DiskPlace {
  std::shared_ptr<ScratchFile> file;
  int64_t offset = 0;
};

class ParameterStore {
 public:
  struct Entry {
    StateKind kind = StateKind::parameter;
    DType dtype = DType::undefined;
    Dims dims;
    Layout layout;
    std::shared_ptr<std::byte[]> bytes;  // nullptr where they lie on the disk
    DiskPlace disk = {};
    bool on_disk() const { return disk.file != nullptr; }
    int64_t storage_bytes() const;
    uint64_t layout_generation = 0;  // when it moved last
  };

  // Takes the tensor over: the bytes of a large one become the master where nobody else holds them, a copy otherwise.
  void add(const std::string& name, StateKind kind, Tensor value);
  // On the disk, what `place` holds must be zero.
  void add_zeros(const std::string& name, StateKind kind, DType dtype, const Dims& dims, const Layout& layout,
                 DiskPlace place = {});
  bool has(const std::string& name) const { return entries_.count(name) != 0; }
  const Entry& entry(const std::string& name) const;  // UsageError with the nearest names
  const std::map<std::string, Entry>& entries() const { return entries_; }

  // A copy in plain layout.
  Tensor read(const std::string& name) const;
  // Overwrites a state with a plain tensor of the same dtype and dims.
  void write(const std::string& name, const Tensor& value);
  // Moves the master to another layout, and to `place` where it was in memory, or into memory where there is no place.
  // Programs that were bound to it are stale (see layout_generation).
  void convert(const std::string& name, const Layout& layout, DiskPlace place = {});

  // Bytes of states that lie on the disk, and the folder of their file.
  struct OnDisk {
    int64_t bytes = 0;
    std::string folder;
  };
  OnDisk on_disk() const;

  // Counts what changed: values (prologues run again), and addresses or layouts (Programs on them must be built again).
  uint64_t value_generation() const { return value_generation_; }
  uint64_t layout_generation() const { return layout_generation_; }
  void values_changed() { ++value_generation_; }

 private:
  void insert(const std::string& name, Entry entry);
  Entry& mutable_entry(const std::string& name);
  using Bytes = std::shared_ptr<std::byte[]>;
  static Bytes bytes_of(const Entry& state);
  // Writes what lies at `from` in `layout`.
  static void fill(const Entry& to, const Layout& layout, const void* from);
  StatePool pool_;
  std::map<std::string, Entry> entries_;
  uint64_t value_generation_ = 1;
  uint64_t layout_generation_ = 1;
};

}  // namespace graft
