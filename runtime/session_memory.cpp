// A session's states where a graph has them, in memory or on the disk, and steps that exceed a limit of memory.
#include <cmath>
#include <filesystem>

#include "ops/part.h"
#include "runtime/session.h"

namespace graft {
namespace {

std::string temporary_folder() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  if (error) throw DeviceError("no folder for temporary files, see the environment's TMPDIR: ", error.message());
  return folder.string();
}

}  // namespace

void Session::place_states(const Graph& graph, const std::string& folder) {
  auto stays = [&](const Value& in) {
    if (!store_.has(in.name)) return false;
    const auto& entry = store_.entry(in.name);
    return entry.on_disk() == in.on_disk && entry.layout == in.layout;
  };
  constexpr int64_t page = 4096;
  // One file for all that come to the disk now.
  std::map<const Value*, int64_t> offsets;
  int64_t bytes = 0;
  for (const auto& state : graph.states) {
    if (!state.in->on_disk || stays(*state.in)) continue;
    offsets[state.in] = bytes;
    bytes = checked_add(bytes, (checked_add(storage_bytes(*state.in), page - 1)) / page * page);
  }
  std::shared_ptr<ScratchFile> file;
  if (!offsets.empty()) {
    file = std::make_shared<ScratchFile>(folder.empty() ? temporary_folder() : folder, bytes);
  }
  auto place_of = [&](const Value& in) {
    auto offset = offsets.find(&in);
    return offset == offsets.end() ? DiskPlace{} : DiskPlace{file, offset->second};
  };
  // Masters move before moments come, which then take the memory that is left behind.
  for (bool fresh : {false, true}) {
    for (const auto& state : graph.states) {
      const Value& in = *state.in;
      if (store_.has(in.name) == fresh) continue;
      if (fresh) store_.add_zeros(in.name, in.kind, in.dtype, in.dims, in.layout, place_of(in));
      else if (store_.entry(in.name).dims == in.dims && !stays(in)) store_.convert(in.name, in.layout, place_of(in));
    }
  }
}

// The batch is the first axis of the inputs, where the model leaves it open.
void Session::refuse(const std::map<std::string, Dims>& dims, const TrainingOptions& options, int64_t least) {
  const MemoryOptions& memory = options.memory;
  std::vector<std::string> with_batch;
  for (const Value* input : graph_->inputs) {
    if (input->ranked && !input->dims.empty() && input->dims[0] < 0) with_batch.push_back(input->name);
  }
  constexpr double mib = 1 << 20, tenths = 10;
  auto up = [](int64_t bytes) { return std::ceil(static_cast<double>(bytes) / mib * tenths) / tenths; };
  std::string how = memory.recompute == Recompute::none ? "where nothing is computed again" : "at the very least";
  if (memory.optimiser == OptimiserState::memory) how += " with the optimizer state in memory";
  auto needs = [&](int64_t batch, int64_t bytes) {
    return cat("a step ", batch > 0 ? cat("with a batch of ", batch, ' ') : "", "needs ", up(bytes), " MiB ", how);
  };
  const std::string limit =
      cat("; the memory limit is ", std::floor(static_cast<double>(memory.limit) / mib * tenths) / tenths, " MiB");
  if (with_batch.empty()) throw UsageError(needs(0, least), limit);
  auto of_batch = [&](int64_t batch) {
    auto some = dims;
    for (const auto& name : with_batch) some.at(name).at(0) = batch;
    return training_cost(some, options).peak_bytes;
  };
  const int64_t batch = dims.at(with_batch[0]).at(0);
  int64_t fitting = largest_batch(batch, [&](int64_t some) { return of_batch(some) <= memory.limit; });
  throw UsageError(needs(batch, least), limit,
                   fitting > 0 ? cat(", and the largest batch that fits is ", fitting)
                               : cat(", and no batch fits: ", needs(1, of_batch(1))));
}

}  // namespace graft
