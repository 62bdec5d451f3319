// Where the optimiser's state lies changes no bit, and what lies on the disk takes no memory.
#include <gtest/gtest.h>

#include "runtime/training/checkpoint.h"
#include "tests/support/recording.h"
#include "tests/support/run_op.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_count.h"

namespace graft {
namespace {

using test::random_tensor;
using test::Tensors;
using test::ThreadCount;

constexpr int64_t words = 900, width = 80, hidden = 450, classes = 40, tokens = 5, batch = 6;

// y = MatMul(Tanh(MatMul(Gather(table, Cast(x)), w1) + b), w2): the moments of table and w1 are larger than the pieces
// in which they are stepped, and the table's gradient is one of rows.
std::unique_ptr<Graph> network() {
  auto graph = std::make_unique<Graph>();
  auto call = [&](const char* type, const std::vector<Value*>& operands, Attributes attributes = {}) {
    return graph->add_node("", type, operands, 1, std::move(attributes))->outputs[0];
  };
  auto weight = [&](const char* name, const Dims& dims) {
    return graph->add_constant(random_tensor(DType::f32, dims, static_cast<unsigned>(name[0])), name);
  };
  Value* ids = call("Cast", {graph->add_input("x", DType::f32, {-1, tokens})}, {{"to", int64_t{7}}});
  Value* rows = call("Gather", {weight("table", {words, width}), ids});
  Value* h = call("Add", {call("MatMul", {rows, weight("w1", {width, hidden})}), weight("b", {hidden})});
  graph->outputs = {call("MatMul", {call("Tanh", {h}), weight("w2", {hidden, classes})})};
  graph->rename(graph->outputs[0], "y");
  return graph;
}

class Training {
 public:
  explicit Training(MemoryOptions memory = {}, bool wide = false)
      : dtype_(wide ? DType::f64 : DType::f32), session_(network(), {}, {.double_precision = wide}) {
    options_.loss.type = LossType::mse;
    options_.trainable = session_.parameters();
    options_.memory = std::move(memory);
  }

  Session& session() { return session_; }
  ParameterStore& store() { return session_.store(); }
  TrainingOptions& options() { return options_; }
  int64_t on_disk() { return store().on_disk().bytes; }
  static std::map<std::string, Dims> dims(int64_t samples = batch) { return {{"x", {samples, tokens}}}; }
  TrainingPrograms programs(int64_t samples = batch) { return session_.training(dims(samples), options_); }
  int64_t peak(int64_t samples = batch) { return session_.training_cost(dims(samples), options_).peak_bytes; }

  // Steps `first` to `last`; their losses.
  std::vector<double> run(int64_t first, int64_t last, int64_t samples = batch) {
    TrainingPrograms compiled = programs(samples);
    std::vector<double> losses;
    for (int64_t i = first; i < last; ++i) {
      const auto seed = static_cast<unsigned>(i);
      Tensor x = random_tensor(DType::f32, {samples, tokens}, seed, 0, words).cast(DType::i64).cast(dtype_);
      Tensor y = random_tensor(DType::f32, {samples, tokens, classes}, seed + 1000).cast(dtype_);
      losses.push_back(test::train_step(compiled, x, y, 0.01));
    }
    for (const auto& program : {compiled.step, compiled.apply}) {
      EXPECT_EQ(program ? program->counters().allocations : 0, 0);
    }
    return losses;
  }

 private:
  DType dtype_;
  Session session_;
  TrainingOptions options_;
};

MemoryOptions in(OptimiserState place) { return {.optimiser = place}; }
constexpr auto memory = OptimiserState::memory, disk = OptimiserState::disk, automatic = OptimiserState::automatic;

int64_t moment_bytes(const ParameterStore& store) {
  int64_t sum = 0;
  for (const auto& [name, entry] : store.entries()) sum += entry.kind == StateKind::moment ? entry.storage_bytes() : 0;
  return sum;
}

TEST(OptimiserStateOnDisk, LeavesEveryBit) {
  const std::vector<OptimiserOptions> rules{{.type = OptimiserType::sgd, .momentum = 0.9, .weight_decay = 0.1},
                                            {.type = OptimiserType::sgd, .momentum = 0.9, .nesterov = true},
                                            {.type = OptimiserType::adam, .weight_decay = 0.1},
                                            {.type = OptimiserType::adamw, .weight_decay = 0.1}};
  for (bool wide : {false, true}) {
    for (bool accumulate : {false, true}) {
      for (const auto& rule : rules) {
        auto trained = [&](OptimiserState place, int threads) {
          ThreadCount count(threads);
          Training training(in(place), wide);
          training.options().optimiser = rule;
          training.options().accumulate = accumulate;
          std::vector<double> losses = training.run(0, 4);
          EXPECT_EQ(training.on_disk(), place == disk ? moment_bytes(training.store()) : 0);
          EXPECT_GT(moment_bytes(training.store()), 0);
          return std::pair(losses, test::states(training.store()));
        };
        auto wanted = trained(memory, 1);
        for (int threads : {1, 2, 3}) {
          auto got = trained(disk, threads);
          EXPECT_EQ(got.first, wanted.first);
          test::expect_same_bits(got.second, wanted.second);
        }
      }
    }
  }
}

TEST(OptimiserStateOnDisk, TakesNoMemoryButBuffers) {
  Training kept(in(memory)), moved(in(disk));
  auto plan = [](Training& training) { return training.programs().step->plan(); };
  const MemoryPlan in_memory = plan(kept), on_disk = plan(moved);
  EXPECT_EQ(in_memory.disk_bytes, 0);
  EXPECT_EQ(in_memory.state_bytes - on_disk.state_bytes, on_disk.disk_bytes);
  EXPECT_GE(on_disk.disk_bytes, moment_bytes(moved.store()));
  EXPECT_LT(on_disk.peak_bytes(), in_memory.peak_bytes());
  for (const auto& [name, entry] : moved.store().entries())
    EXPECT_EQ(entry.bytes == nullptr, entry.kind == StateKind::moment) << name;
}

TEST(OptimiserStateOnDisk, IsForWhatComputingAgainCannotReach) {
  auto least = [](OptimiserState place, int64_t samples = batch) {
    return Training({.recompute = Recompute::all, .optimiser = place}).peak(samples);
  };
  const int64_t of_memory = least(memory), of_disk = least(disk), of_fewer = least(disk, batch - 1);
  EXPECT_LT(of_disk, of_memory);
  for (auto recompute : {Recompute::automatic, Recompute::all}) {
    auto trained = [&](int64_t limit, OptimiserState place) {
      Training training({.recompute = recompute, .limit = limit, .optimiser = place});
      auto losses = training.run(0, 3);
      EXPECT_LE(training.programs().step->plan().peak_bytes(), limit);
      EXPECT_EQ(training.session().recomputed().peak_after, training.programs().step->plan().peak_bytes());
      EXPECT_EQ(training.session().recomputed().peak_before, Training({.recompute = Recompute::none}).peak());
      return std::tuple(training.on_disk() > 0, losses, test::states(training.store()));
    };
    auto [keeps, wanted, states] = trained(of_memory, automatic);
    EXPECT_FALSE(keeps);
    for (int64_t limit : {of_memory - 1, of_disk}) {
      auto [moves, losses, moved] = trained(limit, automatic);
      EXPECT_TRUE(moves) << limit;
      EXPECT_EQ(losses, wanted);
      test::expect_same_bits(moved, states);
    }
    auto refusal = [&](int64_t limit, OptimiserState place) {
      try {
        trained(limit, place);
      } catch (const UsageError& error) {
        return std::string(error.what());
      }
      return std::string("fits");
    };
    EXPECT_NE(refusal(of_memory - 1, memory).find("at the very least with the optimizer state in memory"),
              std::string::npos);
    for (OptimiserState place : {automatic, disk}) {
      std::string said = refusal(of_fewer, place);
      EXPECT_NE(said.find("at the very least; the memory limit is"), std::string::npos) << said;
      EXPECT_NE(said.find("largest batch that fits is 5"), std::string::npos) << said;
    }
  }
}

// Moments come on top of a step that only accumulates.
TEST(OptimiserStateOnDisk, IsForWhatComesOnTopOfAccumulation) {
  Training probe;
  probe.options().accumulate = true;
  const int64_t step = probe.peak();
  probe.programs();
  const int64_t both = step + moment_bytes(probe.store());
  for (int64_t limit : {both, both - 1}) {
    Training training({.recompute = Recompute::none, .limit = limit});
    training.options().accumulate = true;
    training.run(0, 1);
    EXPECT_EQ(training.on_disk() > 0, limit < both);
  }
}

TEST(OptimiserStateOnDisk, IsSharedByProgramsOfOtherShapes) {
  Training kept(in(memory)), moved;
  moved.options().memory.limit = Training({.recompute = Recompute::all, .optimiser = memory}).peak() - 1;
  auto both = [&](int64_t first, int64_t last, int64_t samples) {
    EXPECT_EQ(moved.run(first, last, samples), kept.run(first, last, samples));
    test::expect_same_bits(test::states(moved.store()), test::states(kept.store()));
  };
  both(0, 2, batch);
  const int64_t bytes = moved.on_disk();
  EXPECT_GT(bytes, 0);
  both(2, 4, 1);  // fits the limit in memory
  EXPECT_EQ(moved.on_disk(), bytes);
  both(4, 5, batch);
  EXPECT_EQ(moved.session().program_counts().compiled, 2);
  auto before = moved.programs();
  moved.options().memory = in(memory);
  both(5, 7, batch);
  EXPECT_EQ(moved.on_disk(), 0);
  EXPECT_TRUE(before.step->stale());
  kept.options().memory = in(disk);
  both(7, 9, batch);
  EXPECT_GT(kept.on_disk(), 0);
}

TEST(OptimiserStateOnDisk, GoesOnFromWhereverItLay) {
  for (bool compiled_before : {false, true}) {
    for (auto [first, second] : {std::pair(memory, disk), {disk, memory}, {disk, disk}}) {
      Training whole(in(memory)), begun(in(first)), resumed(in(second));
      std::vector<double> wanted = whole.run(0, 6);
      begun.run(0, 3);
      if (compiled_before) resumed.programs();
      put_states(resumed.store(), take_states(begun.store()));
      EXPECT_EQ(resumed.run(3, 6), std::vector<double>(wanted.begin() + 3, wanted.end()));
      test::expect_same_bits(test::states(resumed.store()), test::states(whole.store()));
      EXPECT_EQ(resumed.on_disk() > 0, second == disk);
    }
  }
}

TEST(OptimiserStateOnDisk, IsRefusedWhereTheFolderIsNone) {
  TemporaryFolder folder;
  const std::string below_a_file = folder.write("file", "") + "/states";
  Training training({.optimiser = disk, .folder = below_a_file});
  try {
    training.programs();
    FAIL();
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find(below_a_file), std::string::npos) << error.what();
  }
  training.options().memory.folder = folder / "new";
  training.run(0, 1);
  EXPECT_EQ(training.store().on_disk().folder, folder / "new");
  EXPECT_TRUE(std::filesystem::is_empty(folder / "new"));  // the file has no name
}

TEST(OptimiserStateOnDisk, SaysWhatTheFileDoesNotGive) {
  TemporaryFolder folder;
  auto file = std::make_shared<ScratchFile>(folder.path(), 4096);
  Training training(in(disk));
  const Dims dims{width, hidden};
  training.store().add_zeros("w1/adam.m", StateKind::moment, DType::f32, dims, Layout::plain(dims), {file, 0});
  for (int threads : {1, 2}) {
    ThreadCount count(threads);
    EXPECT_THROW(training.run(0, 1), DeviceError);
  }
}

TEST(ParameterStore, KeepsStatesOnTheDiskInAnyLayout) {
  TemporaryFolder folder;
  const Dims dims{5, 7};
  const Layout plain = Layout::plain(dims), turned{{5, 7}, {1, 5}, {}}, blocked{{8, 7}, {56, 8}, {{0, 8}}};
  auto file = std::make_shared<ScratchFile>(folder.path(), 1 << 16);
  int64_t offset = 0;
  auto place = [&] { return DiskPlace{file, offset += 4096}; };
  ParameterStore store;
  store.add_zeros("m", StateKind::moment, DType::f32, dims, plain, place());
  Tensor value = random_tensor(DType::f32, dims, 1);
  auto expect = [&](const Tensor& wanted) {
    EXPECT_EQ(std::memcmp(store.read("m").raw(), wanted.raw(), static_cast<size_t>(wanted.bytes())), 0);
  };
  expect(Tensor(DType::f32, dims));
  store.write("m", value);
  for (const Layout& layout : {turned, blocked, plain, blocked}) {
    const uint64_t before = store.layout_generation();
    store.convert("m", layout, place());
    EXPECT_GT(store.layout_generation(), before);
    expect(value);
    value = random_tensor(DType::f32, dims, static_cast<unsigned>(before));
    store.write("m", value);
    expect(value);
  }
  EXPECT_EQ(store.on_disk().bytes, store.entry("m").storage_bytes());
  store.convert("m", blocked);
  expect(value);
  EXPECT_EQ(store.on_disk().bytes, 0);
}

}  // namespace
}  // namespace graft
