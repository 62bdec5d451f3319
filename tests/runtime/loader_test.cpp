#include "runtime/training/loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <set>

namespace graft {
namespace {

// Sample i is (i, 2 i), its class i % classes; `bad` ones do not read.
class Numbers : public Dataset {
 public:
  explicit Numbers(int64_t size, int64_t classes = 3) : size_(size), classes_(classes) {}
  int64_t size() const override { return size_; }
  const std::vector<std::string>& input_names() const override { return names_; }
  int64_t label_of(int64_t i) const override { return i % classes_; }
  std::string describe(int64_t i) const override { return cat("number ", i); }
  Sample read(int64_t i) const override {
    ++reads;
    if (slow) std::this_thread::sleep_for(std::chrono::microseconds((i * 7919) % 500));
    if (bad.contains(i)) throw DataError(describe(i), " is broken");
    if (i == fatal) throw DeviceError("disk gone");
    auto x = static_cast<float>(i);
    auto dims = i == ragged ? Dims{1, 2} : Dims{2};
    return {{Tensor::of<float>(dims, {x, 2 * x}), Tensor::scalar<int64_t>(-i)}, Tensor::scalar<int64_t>(i % classes_)};
  }
  std::set<int64_t> bad;
  int64_t fatal = -1;
  int64_t ragged = -1;
  bool slow = false;
  mutable std::atomic<int64_t> reads = 0;

 private:
  int64_t size_, classes_;
  std::vector<std::string> names_{"x", "n"};
};

std::vector<Batch> epoch_of(Loader& loader, int64_t epoch, int64_t position = 0) {
  loader.start_epoch(epoch, position);
  std::vector<Batch> batches;
  Batch batch;
  while (loader.next(batch)) batches.push_back(batch);
  return batches;
}

std::vector<int64_t> order_of(Loader& loader, int64_t epoch, int64_t position = 0) {
  std::vector<int64_t> order;
  for (const auto& batch : epoch_of(loader, epoch, position)) {
    order.insert(order.end(), batch.indices.begin(), batch.indices.end());
  }
  return order;
}

TEST(Loader, stacks_samples_into_batches) {
  Numbers numbers(7);
  Loader loader(numbers, all_indices(numbers), {.batch_size = 3, .shuffle = false});
  auto batches = epoch_of(loader, 0);
  ASSERT_EQ(batches.size(), 3U);
  EXPECT_EQ(loader.batches(), 3);
  EXPECT_EQ(batches[1].inputs.at("x").dims(), (Dims{3, 2}));
  EXPECT_EQ(batches[1].inputs.at("x").values<float>()[3], 8.0F);
  EXPECT_EQ(batches[1].inputs.at("n").values<int64_t>()[2], -5);
  EXPECT_EQ(batches[1].labels.to_int64(), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(batches[2].count, 1) << "the last batch is as small as it is";
  EXPECT_EQ(batches[2].inputs.at("x").dims(), (Dims{1, 2}));
  Loader dropping(numbers, all_indices(numbers), {.batch_size = 3, .shuffle = false, .drop_last = true});
  EXPECT_EQ(epoch_of(dropping, 0).size(), 2U);
  EXPECT_EQ(dropping.batches(), 2);
}

TEST(Loader, order_depends_on_seed_and_epoch_alone) {
  Numbers numbers(100);
  numbers.slow = true;
  Loader one(numbers, all_indices(numbers), {.batch_size = 8, .seed = 5, .prefetch = 0});
  Loader many(numbers, all_indices(numbers), {.batch_size = 8, .seed = 5, .prefetch = 3, .threads = 4});
  Loader other(numbers, all_indices(numbers), {.batch_size = 8, .seed = 6});
  auto first = order_of(one, 0);
  EXPECT_EQ(first, order_of(many, 0));
  EXPECT_EQ(order_of(one, 1), order_of(many, 1));
  EXPECT_EQ(first, order_of(one, 0)) << "again";
  EXPECT_NE(first, order_of(one, 1));
  EXPECT_NE(first, order_of(other, 0));
  std::set<int64_t> distinct(first.begin(), first.end());
  EXPECT_EQ(distinct.size(), 100U);
  auto whole = epoch_of(one, 2);
  auto rest = order_of(many, 2, whole[4].position);
  EXPECT_EQ(rest.size(), 60U);
  EXPECT_EQ(rest[0], whole[5].indices[0]) << "goes on in the middle";
}

// Computed apart, in Python: another order on another machine would break resumed runs.
TEST(Loader, order_is_portable) {
  EXPECT_EQ(shuffled({0, 1, 2, 3, 4, 5, 6, 7}, 42, 0), (std::vector<int64_t>{7, 0, 3, 2, 5, 1, 6, 4}));
}

TEST(Loader, skips_bad_samples_and_counts_them) {
  Numbers numbers(20);
  numbers.bad = {0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 19};
  for (int threads : {1, 4}) {
    Loader loader(
        numbers, all_indices(numbers),
        {.batch_size = 4, .shuffle = false, .on_bad_sample = OnBadSample::skip, .prefetch = 0, .threads = threads});
    auto batches = epoch_of(loader, 0);
    ASSERT_EQ(batches.size(), 3U);
    EXPECT_EQ(batches[0].indices, (std::vector<int64_t>{9, 10, 12, 13})) << "batches stay full";
    EXPECT_EQ(batches[2].count, 1);
    EXPECT_EQ(loader.skipped(), 11);
    ASSERT_EQ(loader.skip_reasons().size(), 11U);
    EXPECT_EQ(loader.skip_reasons()[9], "number 11 is broken");
    epoch_of(loader, 1);
    EXPECT_EQ(loader.skipped(), 11) << "counted by epoch";
  }
}

TEST(Loader, nothing_readable_is_an_error) {
  Numbers numbers(3);
  numbers.bad = {0, 1, 2};
  Loader loader(numbers, all_indices(numbers), {.on_bad_sample = OnBadSample::skip});
  loader.start_epoch(0);
  Batch batch;
  EXPECT_THROW(loader.next(batch), DataError);
}

TEST(Loader, errors_cross_threads_in_their_place) {
  Numbers numbers(40);
  numbers.bad = {21};
  numbers.slow = true;
  for (int threads : {1, 3}) {
    Loader loader(numbers, all_indices(numbers), {.batch_size = 4, .shuffle = false, .threads = threads});
    loader.start_epoch(0);
    Batch batch;
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(loader.next(batch));
    for (int again = 0; again < 2; ++again) {
      try {
        loader.next(batch);
        FAIL() << "no error";
      } catch (const DataError& error) {
        EXPECT_STREQ(error.what(), "number 21 is broken");
      }
    }
  }
  numbers.bad.clear();
  numbers.fatal = 3;
  Loader skipping(numbers, all_indices(numbers), {.shuffle = false, .on_bad_sample = OnBadSample::skip});
  skipping.start_epoch(0);
  Batch batch;
  EXPECT_THROW(skipping.next(batch), DeviceError) << "only bad samples are skipped";
}

TEST(Loader, unequal_shapes_are_named) {
  Numbers numbers(4);
  numbers.ragged = 2;
  Loader loader(numbers, all_indices(numbers), {.batch_size = 4, .shuffle = false});
  loader.start_epoch(0);
  Batch batch;
  try {
    loader.next(batch);
    FAIL() << "no error";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("number 2: input \"x\" is float (1,2)"), std::string::npos)
        << error.what();
  }
}

TEST(Loader, reads_ahead_within_bounds) {
  Numbers numbers(1000);
  Loader loader(numbers, all_indices(numbers), {.batch_size = 5, .prefetch = 2, .threads = 2});
  loader.start_epoch(0);
  Batch batch;
  ASSERT_TRUE(loader.next(batch));
  for (int wait = 0; wait < 200 && numbers.reads < 20; ++wait)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(numbers.reads, 20) << "the delivered batch and three that wait";
}

TEST(Loader, can_be_left_at_any_time) {
  Numbers numbers(200);
  numbers.slow = true;
  for (int i = 0; i < 20; ++i) {
    Loader loader(numbers, all_indices(numbers), {.batch_size = 7, .threads = 3});
    if (i % 4 == 0) continue;
    loader.start_epoch(0);
    Batch batch;
    for (int k = 0; k < i % 3; ++k) loader.next(batch);
    if (i % 2) loader.start_epoch(1);
  }
}

TEST(Loader, refuses_wrong_use) {
  Numbers numbers(3);
  EXPECT_THROW(Loader(numbers, {}, {}), DataError);
  EXPECT_THROW(Loader(numbers, {3}, {}), UsageError);
  EXPECT_THROW(Loader(numbers, {0}, {.batch_size = 0}), UsageError);
  Loader loader(numbers, {0}, {});
  Batch batch;
  EXPECT_THROW(loader.next(batch), UsageError);
  EXPECT_THROW(loader.start_epoch(0, 2), UsageError);
  loader.start_epoch(0, 1);
  EXPECT_FALSE(loader.next(batch));
}

TEST(StratifiedSplit, keeps_shares) {
  Numbers numbers(300);
  auto split = stratified_split(numbers, 0.2, 1);
  EXPECT_EQ(split.validation.size(), 60U);
  EXPECT_EQ(split.train.size(), 240U);
  std::vector<int64_t> by_class(3);
  std::set<int64_t> all(split.train.begin(), split.train.end());
  for (int64_t i : split.validation) {
    ++by_class[i % 3];
    all.insert(i);
  }
  EXPECT_EQ(by_class, (std::vector<int64_t>{20, 20, 20}));
  EXPECT_EQ(all.size(), 300U);
  EXPECT_EQ(stratified_split(numbers, 0.2, 1).validation, split.validation);
  EXPECT_NE(stratified_split(numbers, 0.2, 2).validation, split.validation);
}

TEST(StratifiedSplit, small_classes_are_on_both_sides) {
  Numbers pairs(6, 3);
  EXPECT_EQ(stratified_split(pairs, 0.01, 1).validation.size(), 3U);
  EXPECT_EQ(stratified_split(pairs, 0.99, 1).train.size(), 3U);
  Numbers lone(3, 3);
  EXPECT_THROW(stratified_split(lone, 0.5, 1), DataError);
  EXPECT_THROW(stratified_split(pairs, 0, 1), UsageError);
  EXPECT_THROW(stratified_split(pairs, 1, 1), UsageError);
}

}  // namespace
}  // namespace graft
