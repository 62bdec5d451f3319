// What the frozen part of a model makes of samples, computed once: a data set of features to train the rest on.
#pragma once

#include <functional>
#include <memory>

#include "runtime/session.h"
#include "runtime/training/loader.h"

namespace graft {

enum class FeaturePlace : uint8_t { memory, disk };

struct FeatureCacheOptions {
  FeaturePlace place = FeaturePlace::memory;
  std::string folder;       // of the file on the disk, which has no name and ends with the process
  int64_t limit = -1;       // bytes; -1: half of the machine's memory, or of what the disk has left
  int64_t batch_size = 32;  // of the frozen part's only Program: batches that are smaller are padded
  OnBadSample on_bad_sample = OnBadSample::fail;
  int loader_threads = 1;
  // Once the frozen part is known and compiled, and behind each batch.
  std::function<void(const FrozenPart& frozen, int64_t samples, int64_t batches)> on_begin;
  std::function<void(int64_t samples)> on_batch;
};

// Samples of a data set whose features are wanted.
struct FeatureSource {
  const Dataset* dataset = nullptr;
  std::vector<int64_t> indices;
};

// Splits the session's model (see Session::split) and gives a data set of features for each source: the same samples
// under the same numbers, of which only `indices` can be read. A sample that could not be read before cannot be read
// there either. The sources outlive their data sets.
// UsageError where features cannot be kept: the frozen part is empty, a data set changes its samples, the frozen part
// mixes the samples of a batch, or they take more than the limit. DeviceError where memory or disk refuse.
std::vector<std::unique_ptr<Dataset>> cache_features(Session& session, const TrainingOptions& training,
                                                     const std::vector<FeatureSource>& sources,
                                                     const FeatureCacheOptions& options);

}  // namespace graft
