#include "importers/data/checkpoint_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "importers/data/npz.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

Checkpoint sample() {
  Checkpoint checkpoint;
  checkpoint.progress = {.epoch = 3,
                         .position = 40,
                         .batch = 5,
                         .step = 17,
                         .loss_sum = 0.1,
                         .loss_weight = 40,
                         .right = 31,
                         .counted = 40,
                         .best = 0.25,
                         .best_update = 1,
                         .updates = 3};
  checkpoint.states["a/w"] = {StateKind::parameter, Tensor::of<float>({2, 2}, {1, 2, 3, 4})};
  checkpoint.states["a/w/adam.m"] = {StateKind::moment, Tensor::of<double>({2}, {0.5, -0.5})};
  checkpoint.states["mean"] = {StateKind::statistic, Tensor::of<float>({0}, {})};
  checkpoint.states["optimiser/step"] = {StateKind::counter, Tensor::scalar<int64_t>(17)};
  return checkpoint;
}

// As a run does; its accumulators are left out.
void write(const std::string& path, const Checkpoint& checkpoint, const std::string& config) {
  ParameterStore store;
  for (const auto& [name, state] : checkpoint.states) store.add(name, state.kind, state.value);
  store.add("a/w/gradient", StateKind::accumulator, Tensor(DType::f32, {2, 2}));
  write_checkpoint(path, checkpoint.progress, store, config);
}

TEST(CheckpointFile, KeepsEverything) {
  TemporaryFolder folder;
  std::string path = folder / "last.ckpt";
  Checkpoint before = sample();
  write(path, before, "lr: 0.1\n");
  SavedRun run = read_checkpoint(path);
  EXPECT_EQ(run.config, "lr: 0.1\n");
  const TrainingProgress& progress = run.checkpoint.progress;
  EXPECT_EQ(progress.epoch, 3);
  EXPECT_EQ(progress.position, 40);
  EXPECT_EQ(progress.batch, 5);
  EXPECT_EQ(progress.step, 17);
  EXPECT_EQ(progress.loss_sum, 0.1);
  EXPECT_EQ(progress.right, 31);
  EXPECT_EQ(progress.best, 0.25);
  EXPECT_EQ(progress.best_update, 1);
  EXPECT_EQ(progress.updates, 3);
  ASSERT_EQ(run.checkpoint.states.size(), before.states.size());
  for (const auto& [name, state] : before.states) {
    const SavedState& got = run.checkpoint.states.at(name);
    EXPECT_EQ(got.kind, state.kind) << name;
    EXPECT_EQ(got.value.dtype(), state.value.dtype()) << name;
    EXPECT_EQ(got.value.dims(), state.value.dims()) << name;
    if (state.value.bytes() == 0) continue;
    EXPECT_EQ(std::memcmp(got.value.raw(), state.value.raw(), static_cast<size_t>(state.value.bytes())), 0) << name;
  }
}

// Whatever byte is changed, no changed number comes out.
TEST(CheckpointFile, RefusesDamage) {
  TemporaryFolder folder;
  std::string path = folder / "last.ckpt";
  write(path, sample(), "lr: 0.1\n");
  std::string good = read_text(path);
  for (size_t at = 0; at < good.size(); at += 97) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x41);
    std::ofstream(path, std::ios::binary) << bad;
    try {
      SavedRun run = read_checkpoint(path);
      EXPECT_EQ(run.checkpoint.states.at("a/w").value.data<float>()[3], 4) << at;  // a byte that nothing reads
    } catch (const Error&) {
      continue;
    } catch (const std::out_of_range&) {
      continue;  // another name of a state: put_states refuses it
    }
  }
  for (size_t size : {size_t{0}, size_t{10}, good.size() / 2, good.size() - 1}) {
    std::ofstream(path, std::ios::binary) << good.substr(0, size);
    EXPECT_THROW(read_checkpoint(path), DataError) << size;
  }
}

TEST(CheckpointFile, RefusesOtherArrays) {
  TemporaryFolder folder;
  std::string path = folder / "last.ckpt";
  write_npz(path, {{"x", Tensor::of<float>({1}, {1})}});
  EXPECT_THROW(read_checkpoint(path), DataError);
  write(path, sample(), "");
  auto arrays = read_npz(path);
  auto with = [&](const std::string& name, Tensor value) {
    std::vector<std::pair<std::string, Tensor>> changed(arrays.begin(), arrays.end());
    std::erase_if(changed, [&](const auto& array) { return array.first == name; });
    if (value.defined()) changed.emplace_back(name, std::move(value));
    write_npz(path, changed);
  };
  with("format", Tensor::scalar<int64_t>(2));
  EXPECT_THROW(read_checkpoint(path), DataError);
  with("progress/step", {});
  EXPECT_THROW(read_checkpoint(path), DataError);
  with("progress/step", Tensor::of<int64_t>({2}, {1, 2}));
  EXPECT_THROW(read_checkpoint(path), DataError);
  with("config", Tensor::of<int64_t>({1}, {1}));
  EXPECT_THROW(read_checkpoint(path), DataError);
  with("state/secret/w", Tensor::of<float>({1}, {1}));
  EXPECT_THROW(read_checkpoint(path), DataError);
  EXPECT_THROW(read_checkpoint(folder / "none.ckpt"), DataError);
}

}  // namespace
}  // namespace graft
