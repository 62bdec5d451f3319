// Batches read ahead on background threads.
#pragma once

#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "runtime/training/length_buckets.h"

namespace graft {

struct Batch {
  std::map<std::string, Tensor> inputs;  // first dim is the batch
  Tensor labels;                         // undefined where the data set has no labels
  int64_t count = 0;
  std::vector<int64_t> indices;
  int64_t position = 0;  // in the order of the epoch, behind this batch: where start_epoch can go on
};

enum class OnBadSample : uint8_t { fail, skip };

struct LoaderOptions {
  int64_t batch_size = 32;
  bool shuffle = true;
  uint64_t seed = 0;
  bool drop_last = false;  // else the last batch is delivered as small as it is
  OnBadSample on_bad_sample = OnBadSample::fail;
  int64_t prefetch = 2;                       // batches read ahead
  int threads = 1;                            // that read samples; batches do not depend on it
  std::optional<LengthBuckets> buckets = {};  // batches are cut to these lengths
};

// Samples come in the order f(seed, epoch), whatever the number of threads. With OnBadSample::skip a sample whose
// reading throws DataError is counted and left out, its place taken by the next. Used by one thread; `dataset` outlives
// it.
class Loader {
 public:
  Loader(const Dataset& dataset, std::vector<int64_t> indices, LoaderOptions options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Begins an epoch at a place in its order (Batch::position), giving up the one that runs.
  void start_epoch(int64_t epoch, int64_t position = 0);
  // False at the end of the epoch. Throws what reading threw, at the batch where it belongs, and again when called
  // again.
  bool next(Batch& batch);

  int64_t size() const { return static_cast<int64_t>(indices_.size()); }
  const std::optional<LengthBuckets>& buckets() const { return options_.buckets; }
  // Batches an epoch when no sample is skipped.
  int64_t batches() const;
  // Samples left out since start_epoch, up to the batch delivered last, and the messages of the first hundred.
  int64_t skipped() const { return skipped_; }
  const std::vector<std::string>& skip_reasons() const { return skip_reasons_; }

 private:
  struct Read {
    Sample sample;
    std::exception_ptr error;
    std::string bad;  // why the sample is to be left out
  };
  // A batch on its way: first its samples, then stacked.
  struct Pending {
    int64_t number = 0;
    std::vector<Sample> samples;
    Batch batch;
    std::exception_ptr error;
    bool end = false;  // of the epoch; carries no batch
    int64_t skipped = 0;
    std::vector<std::string> reasons;
  };

  void stop();
  void work();
  Read read(int64_t position) const;
  // Takes the samples whose turn it is and returns the batches that are complete. The lock is held.
  std::vector<Pending> arrange();
  Pending close(bool end);
  void stack(Pending& pending) const;

  const Dataset& dataset_;
  std::vector<int64_t> indices_;
  LoaderOptions options_;
  int64_t skipped_ = 0;
  std::vector<std::string> skip_reasons_;
  int64_t delivered_ = 0;  // samples of the epoch
  int64_t next_ = 0;       // number of the batch to deliver next

  // Written while no thread runs.
  std::vector<int64_t> order_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Under the mutex.
  std::map<int64_t, Read> done_;      // by position, waiting for its turn
  std::map<int64_t, Pending> ready_;  // by number
  Pending building_;
  int64_t claimed_ = 0;  // first position that no thread has taken
  int64_t ordered_ = 0;  // first position that is in no batch
  int64_t held_ = 0;     // samples taken and neither delivered nor left out
  bool failed_ = false;
  bool stopping_ = false;
};

}  // namespace graft
