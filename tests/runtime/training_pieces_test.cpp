#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <limits>

#include "runtime/training/early_stopping.h"
#include "runtime/training/event_file.h"
#include "runtime/training/metrics.h"
#include "runtime/training/metrics_csv.h"
#include "runtime/training/schedule.h"
#include "tests/support/temporary_folder.h"

namespace graft {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

TEST(Schedule, follows_its_formulas) {
  Schedule linear({.decay = Decay::linear, .rate = 1, .warmup = 0.2, .steps = 10});
  EXPECT_EQ(linear.warmup_steps(), 2);
  EXPECT_DOUBLE_EQ(linear.rate(0), 0.5);
  EXPECT_DOUBLE_EQ(linear.rate(1), 1);
  EXPECT_DOUBLE_EQ(linear.rate(2), 1);
  EXPECT_DOUBLE_EQ(linear.rate(6), 0.5);
  EXPECT_DOUBLE_EQ(linear.rate(9), 0.125);
  EXPECT_DOUBLE_EQ(linear.rate(100), 0);
  Schedule cosine({.decay = Decay::cosine, .rate = 2, .end_rate = 1, .steps = 8});
  EXPECT_DOUBLE_EQ(cosine.rate(0), 2);
  EXPECT_DOUBLE_EQ(cosine.rate(2), 1.5 + std::sqrt(0.125));
  EXPECT_DOUBLE_EQ(cosine.rate(4), 1.5);
  EXPECT_DOUBLE_EQ(cosine.rate(8), 1);
  Schedule constant({.decay = Decay::constant, .rate = 3, .warmup = 3});
  EXPECT_DOUBLE_EQ(constant.rate(0), 1);
  EXPECT_DOUBLE_EQ(constant.rate(2), 3);
  EXPECT_DOUBLE_EQ(constant.rate(1000000), 3);
}

TEST(Schedule, odd_lengths) {
  Schedule warm_only({.decay = Decay::cosine, .rate = 1, .warmup = 10, .steps = 10});
  EXPECT_DOUBLE_EQ(warm_only.rate(9), 1);
  EXPECT_DOUBLE_EQ(warm_only.rate(10), 0);
  Schedule short_run({.decay = Decay::linear, .rate = 1, .warmup = 20, .steps = 10});
  EXPECT_DOUBLE_EQ(short_run.rate(9), 0.5);
  EXPECT_THROW(Schedule({.decay = Decay::cosine}), UsageError);
  EXPECT_THROW(Schedule({.decay = Decay::constant, .rate = nan}), UsageError);
  EXPECT_THROW(Schedule({.decay = Decay::constant, .warmup = -1}), UsageError);
  EXPECT_THROW(parse_decay("cosin"), UsageError);
  EXPECT_EQ(parse_decay("linear"), Decay::linear);
}

TEST(EarlyStopping, waits_for_its_patience) {
  EarlyStopping stop(Goal::lower, 2, 0.1);
  EXPECT_FALSE(stop.update(nan));
  EXPECT_TRUE(stop.update(1.0));
  EXPECT_FALSE(stop.update(0.95)) << "gains too little";
  EXPECT_FALSE(stop.should_stop());
  EXPECT_TRUE(stop.update(0.5));
  EXPECT_FALSE(stop.update(nan));
  EXPECT_FALSE(stop.should_stop());
  EXPECT_FALSE(stop.update(0.6));
  EXPECT_TRUE(stop.should_stop());
  EXPECT_EQ(stop.best(), 0.5);
  EXPECT_EQ(stop.best_update(), 3);
  EarlyStopping again(Goal::lower, 2, 0.1);
  again.restore(0.5, 3, 5);
  EXPECT_FALSE(again.should_stop());
  again.update(0.6);
  EXPECT_TRUE(again.should_stop());
  EarlyStopping never(Goal::higher);
  EXPECT_TRUE(never.update(0.1));
  EXPECT_TRUE(never.update(0.2));
  for (int i = 0; i < 9; ++i) EXPECT_FALSE(never.update(0.2));
  EXPECT_FALSE(never.should_stop());
}

TEST(ClassMetrics, agrees_with_scikit_learn) {
  // Values from sklearn 1.7: accuracy_score, f1_score(average="macro"), top_k_accuracy_score(k=2), confusion_matrix.
  ClassMetrics metrics(3, 2);
  metrics.add(Tensor::of<float>({4, 3}, {0.9F, 0.1F, 0, 0.2F, 0.7F, 0.1F, 0.3F, 0.4F, 0.35F, 0.8F, 0.1F, 0.1F}),
              Tensor::of<int64_t>({4}, {0, 1, 2, 2}));
  metrics.add(Tensor::of<float>({1, 3}, {0.1F, 0.2F, 0.7F}), Tensor::of<int32_t>({1}, {2}));
  EXPECT_EQ(metrics.count(), 5);
  EXPECT_DOUBLE_EQ(metrics.accuracy(), 0.6);
  EXPECT_DOUBLE_EQ(metrics.macro_f1(), (2.0 / 3 + 2.0 / 3 + 0.5) / 3);
  EXPECT_DOUBLE_EQ(metrics.top_k(), 0.8);
  EXPECT_DOUBLE_EQ(metrics.precision(0), 0.5);
  EXPECT_DOUBLE_EQ(metrics.recall(2), 1.0 / 3);
  EXPECT_EQ(metrics.confusion(), (std::vector<int64_t>{1, 0, 0, 0, 1, 0, 1, 1, 1}));
  EXPECT_EQ(metrics.values().size(), 3U);
  metrics.reset();
  EXPECT_TRUE(std::isnan(metrics.accuracy()));
}

TEST(ClassMetrics, edges) {
  ClassMetrics metrics(2, 1, -1);
  metrics.add(Tensor::of<double>({3, 2}, {1, 1, nan, 0, 5, 0}), Tensor::of<int64_t>({3}, {0, 0, -1}));
  EXPECT_EQ(metrics.count(), 2) << "an ignored label does not count";
  EXPECT_DOUBLE_EQ(metrics.accuracy(), 0.5) << "the first of equal scores; NaN is wrong";
  EXPECT_THROW(metrics.add(Tensor::of<float>({1, 2}, {0, 1}), Tensor::of<int64_t>({1}, {2})), DataError);
  EXPECT_THROW(metrics.add(Tensor::of<float>({1, 3}, {0, 1, 2}), Tensor::of<int64_t>({1}, {1})), UsageError);
  EXPECT_THROW(metrics.add(Tensor::of<float>({2, 2}, {0, 1, 2, 3}), Tensor::of<int64_t>({1}, {1})), UsageError);
  ClassMetrics pixels(2);
  pixels.add(Tensor::of<float>({1, 2, 3}, {1, 0, 1, 0, 1, 2}), Tensor::of<int64_t>({1, 3}, {0, 1, 0}));
  EXPECT_DOUBLE_EQ(pixels.accuracy(), 2.0 / 3) << "classes on axis 1";
  ClassMetrics many(5000);
  EXPECT_TRUE(many.confusion().empty());
}

TEST(BinaryMetrics, counts) {
  BinaryMetrics metrics;
  metrics.add(Tensor::of<float>({4, 1}, {2, -1, 0.5F, -3}), Tensor::of<float>({4}, {1, 1, 0, 0}));
  EXPECT_DOUBLE_EQ(metrics.accuracy(), 0.5);
  EXPECT_DOUBLE_EQ(metrics.f1(), 0.5);
  EXPECT_DOUBLE_EQ(metrics.precision(), 0.5);
}

TEST(RegressionMetrics, agree_with_scikit_learn) {
  // The example of sklearn's r2_score: 0.948...
  RegressionMetrics metrics;
  metrics.add(Tensor::of<float>({2, 1}, {2.5F, 0}), Tensor::of<float>({2, 1}, {3, -0.5F}));
  metrics.add(Tensor::of<float>({2}, {2, 8}), Tensor::of<double>({2}, {2, 7}));
  EXPECT_DOUBLE_EQ(metrics.mae(), 0.5);
  EXPECT_NEAR(metrics.rmse(), std::sqrt(0.375), 1e-12);
  EXPECT_NEAR(metrics.r2(), 0.9486081370449679, 1e-12);
  RegressionMetrics flat;
  flat.add(Tensor::of<float>({2}, {1, 2}), Tensor::of<float>({2}, {1, 1}));
  EXPECT_TRUE(std::isnan(flat.r2()));
}

TEST(MetricsCsv, writes_and_goes_on) {
  TemporaryFolder folder;
  std::string path = folder / "metrics.csv";
  {
    MetricsCsv csv(path, {"epoch", "loss", "accuracy"});
    csv.add({1, 0.1, {}});
    csv.add({2, nan, 0.5});
    csv.add({3, 1e-20, 0.75});
    EXPECT_THROW(csv.add({1}), UsageError);
  }
  EXPECT_EQ(read_text(path), "epoch,loss,accuracy\n1,0.1,\n2,nan,0.5\n3,1e-20,0.75\n");
  std::ofstream(path, std::ios::app) << "4,0.";  // cut off
  {
    MetricsCsv csv(path, {"epoch", "loss", "accuracy"}, 2);
    csv.add({3, 7, 8});
  }
  EXPECT_EQ(read_text(path), "epoch,loss,accuracy\n1,0.1,\n2,nan,0.5\n3,7,8\n");
  auto rows = read_metrics_csv(path);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0], (std::map<std::string, double>{{"epoch", 1}, {"loss", 0.1}}));
  EXPECT_TRUE(std::isnan(rows[1].at("loss")));
  EXPECT_EQ(rows[2].at("accuracy"), 8);
  EXPECT_THROW(read_metrics_csv(folder.path() + "/none.csv"), DataError);
  EXPECT_THROW(read_metrics_csv(folder.write("ragged.csv", "a,b\n1\n")), DataError);
  EXPECT_THROW(read_metrics_csv(folder.write("text.csv", "a,b\n1,x\n")), DataError);
  EXPECT_THROW(MetricsCsv(path, {"epoch", "loss"}, 2), DataError);
  EXPECT_THROW(MetricsCsv(folder.path() + "/no/metrics.csv", {"epoch"}), DeviceError);
}

TEST(EventFile, checksums) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);  // RFC 3720
  EXPECT_EQ(masked_crc32c(std::string(32, '\0')), ((0x8A9136AAU >> 15) | (0x8A9136AAU << 17)) + 0xa282ead8U);
}

// Frames and events are taken apart by a reader that shares no code with the writer.
TEST(EventFile, is_read_by_another) {
  TemporaryFolder folder;
  EventFile events(folder.path());
  events.scalar("train/loss", 1.5, 0);
  events.scalar("train/loss", -0.25, 300);
  events.flush();
  EXPECT_NE(events.path(), EventFile(folder.path()).path());
  std::string text = run_python(R"(
import struct, sys
def crc(data):
    c = 0xffffffff
    for b in data:
        c ^= b
        for _ in range(8): c = (c >> 1) ^ (0x82f63b78 if c & 1 else 0)
    c ^= 0xffffffff
    return (((c >> 15) | (c << 17)) + 0xa282ead8) & 0xffffffff
def fields(data):
    at = 0
    def varint():
        nonlocal at
        value = shift = 0
        while True:
            b = data[at]; at += 1
            value |= (b & 127) << shift; shift += 7
            if b < 128: return value
    while at < len(data):
        key = varint(); wire = key & 7
        if wire == 0: value = varint()
        elif wire == 1: value, = struct.unpack('<d', data[at:at+8]); at += 8
        elif wire == 5: value, = struct.unpack('<f', data[at:at+4]); at += 4
        else:
            n = varint(); value = data[at:at+n]; at += n
        yield key >> 3, value
data = open(sys.argv[1], 'rb').read()
at = 0
while at < len(data):
    n, c = struct.unpack('<QI', data[at:at+12])
    assert crc(data[at:at+8]) == c
    body = data[at+12:at+12+n]
    assert crc(body) == struct.unpack('<I', data[at+12+n:at+16+n])[0]
    at += 16 + n
    event = dict(fields(body))
    assert event[1] > 1.6e9
    if 3 in event: print(event[3].decode())
    else:
        value = dict(fields(dict(fields(event[5]))[1]))
        print(event.get(2, 0), value[1].decode(), value[2])
)",
                                {events.path()});
  EXPECT_EQ(text, "brain.Event:2\n0 train/loss 1.5\n300 train/loss -0.25\n");
}

}  // namespace
}  // namespace graft
