#include "runtime/training/feature_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "runtime/training/evaluation.h"
#include "runtime/training/feature_store.h"

namespace graft {
namespace {

// What the data sets of one cache share.
struct Features {
  FrozenPart frozen;
  std::vector<std::string> names;
  std::unique_ptr<FeatureStore> store;
};

class FeatureDataset : public Dataset {
 public:
  FeatureDataset(const Dataset& source, std::shared_ptr<const Features> features)
      : source_(source), features_(std::move(features)), places_(static_cast<size_t>(source.size())) {}

  void add(int64_t index, int64_t record, Tensor label) {
    places_.at(static_cast<size_t>(index)) = {record, std::move(label)};
  }

  int64_t size() const override { return source_.size(); }
  const std::vector<std::string>& input_names() const override { return features_->names; }
  bool has_labels() const override { return source_.has_labels(); }
  std::vector<std::string> class_names() const override { return source_.class_names(); }
  int64_t label_of(int64_t index) const override { return source_.label_of(index); }
  std::string describe(int64_t index) const override { return source_.describe(index); }

  Sample read(int64_t index) const override {
    const Place& place = places_.at(static_cast<size_t>(index));
    if (place.record < 0) {
      source_.read(index);  // says why
      throw DataError(source_.describe(index), ": could not be read when its features were computed");
    }
    std::vector<std::byte> record(static_cast<size_t>(features_->frozen.bytes()));
    features_->store->read(place.record, record.data());
    Sample sample;
    const std::byte* from = record.data();
    for (const auto& feature : features_->frozen.features) {
      Tensor value = Tensor::uninitialized(feature.dtype, feature.dims);
      auto bytes = static_cast<size_t>(value.bytes());
      if (bytes) std::memcpy(value.raw(), from, bytes);
      from += bytes;
      sample.inputs.push_back(std::move(value));
    }
    sample.label = place.label;
    return sample;
  }

 private:
  struct Place {
    int64_t record = -1;
    Tensor label;
  };
  const Dataset& source_;
  std::shared_ptr<const Features> features_;
  std::vector<Place> places_;
};

// Row `row` of a tensor whose first axis is the batch.
const std::byte* row_of(const Tensor& batch, int64_t row) {
  return static_cast<const std::byte*>(batch.raw()) + row * (batch.bytes() / batch.dims()[0]);
}

Tensor copy_of_row(const Tensor& batch, int64_t row) {
  if (!batch.defined()) return {};
  Tensor one = Tensor::uninitialized(batch.dtype(), Dims(batch.dims().begin() + 1, batch.dims().end()));
  if (one.bytes()) std::memcpy(one.raw(), row_of(batch, row), static_cast<size_t>(one.bytes()));
  return one;
}

using Inputs = std::map<std::string, Tensor>;

// As many rows as are wanted: those of the batch from `first` on, its last one again and again behind them.
Tensor rows_from(const Tensor& batch, int64_t first, int64_t rows) {
  Dims dims = batch.dims();
  dims[0] = rows;
  Tensor taken = Tensor::uninitialized(batch.dtype(), dims);
  auto bytes = static_cast<size_t>(taken.bytes() / rows);
  for (int64_t row = 0; bytes && row < rows; ++row)
    std::memcpy(static_cast<std::byte*>(taken.raw()) + static_cast<size_t>(row) * bytes,
                row_of(batch, std::min(first + row, batch.dims()[0] - 1)), bytes);
  return taken;
}

bool is_about(const Tensor& a, const Tensor& b) {
  constexpr double tolerance = 1e-4;  // of the largest: rounding is far below, other samples that count far above
  Tensor x = a.cast(DType::f64), y = b.cast(DType::f64);
  double largest = 0, difference = 0;
  for (int64_t i = 0; i < x.count(); ++i) {
    double p = x.data<double>()[i], q = y.data<double>()[i];
    if (p == q || (std::isnan(p) && std::isnan(q))) continue;
    difference = std::max(difference, std::isfinite(p - q) ? std::abs(p - q) : HUGE_VAL);
    largest = std::max(largest, std::abs(p));
  }
  return difference <= tolerance * largest;
}

class Cacher {
 public:
  Cacher(Session& session, const TrainingOptions& training, const std::vector<FeatureSource>& sources,
         const FeatureCacheOptions& options)
      : session_(session), sources_(sources), options_(options) {
    for (const auto& source : sources) {
      if (!source.dataset->repeats())
        throw UsageError("features cannot be kept: the data set changes its samples from epoch to epoch");
      samples_ += static_cast<int64_t>(source.indices.size());
    }
    dims_ = with_batch(sample_dims(), options.batch_size);
    features_->frozen = session.split(dims_, training);
    for (const auto& feature : features_->frozen.features) features_->names.push_back(feature.name);
    take_room();
  }

  std::vector<std::unique_ptr<Dataset>> fill() {
    program_ = session_.frozen(dims_);
    if (options_.on_begin) options_.on_begin(features_->frozen, samples_, batches());
    std::vector<std::unique_ptr<Dataset>> filled;
    for (const auto& source : sources_) filled.push_back(fill(source));
    program_ = nullptr;
    session_.forget_programs();
    return filled;
  }

 private:
  LoaderOptions order() const {
    return {.batch_size = options_.batch_size,
            .shuffle = false,
            .on_bad_sample = options_.on_bad_sample,
            .threads = options_.loader_threads};
  }

  int64_t batches() const {
    int64_t sum = 0;
    for (const auto& source : sources_)
      sum += (static_cast<int64_t>(source.indices.size()) + options_.batch_size - 1) / options_.batch_size;
    return sum;
  }

  // Of the first sample that can be read.
  std::map<std::string, Dims> sample_dims() const {
    const FeatureSource& source = sources_.at(0);
    Loader loader(*source.dataset, source.indices,
                  {.batch_size = 1, .shuffle = false, .on_bad_sample = options_.on_bad_sample, .prefetch = 0});
    Batch first;
    loader.start_epoch(0);
    loader.next(first);
    auto dims = dims_of(first);
    for (auto& [name, shape] : dims) shape.erase(shape.begin());
    return dims;
  }

  void take_room() {
    int64_t bytes = features_->frozen.bytes(), all = checked_mul(samples_, bytes);
    bool memory = options_.place == FeaturePlace::memory;
    int64_t limit = options_.limit;
    if (limit < 0) limit = (memory ? physical_memory() : free_on_disk()) / 2;
    if (all > limit) {
      throw UsageError("features of ", samples_, " samples take ", all, " bytes, ", bytes, " each; the limit is ",
                       limit, ": allow more with --cache-limit", memory ? ", take the disk," : "",
                       " or do not keep them");
    }
    if (memory) features_->store = std::make_unique<MemoryFeatures>(samples_, bytes);
    else features_->store = std::make_unique<DiskFeatures>(options_.folder, samples_, bytes);
  }

  int64_t free_on_disk() const {
    std::error_code error;
    std::filesystem::create_directories(options_.folder, error);
    auto space = std::filesystem::space(options_.folder, error);
    if (error) throw DeviceError("cannot keep features in \"", options_.folder, "\": ", error.message());
    constexpr auto largest = static_cast<uintmax_t>(std::numeric_limits<int64_t>::max());
    return static_cast<int64_t>(std::min(space.available, largest));
  }

  std::unique_ptr<Dataset> fill(const FeatureSource& source) {
    auto filled = std::make_unique<FeatureDataset>(*source.dataset, features_);
    Loader loader(*source.dataset, source.indices, order());
    loader.start_epoch(0);
    Batch batch;
    std::vector<std::byte> record(static_cast<size_t>(features_->frozen.bytes()));
    while (loader.next(batch)) {
      if (records_ == 0) refuse_mixing(batch);
      std::vector<Tensor> values = run(batch, 0);
      for (int64_t row = 0; row < batch.count; ++row) {
        std::byte* to = record.data();
        for (const Tensor& value : values) {
          auto bytes = static_cast<size_t>(value.bytes() / value.dims()[0]);
          if (bytes) std::memcpy(to, row_of(value, row), bytes);
          to += bytes;
        }
        features_->store->write(records_, record.data());
        filled->add(batch.indices.at(static_cast<size_t>(row)), records_++, copy_of_row(batch.labels, row));
      }
      if (options_.on_batch) options_.on_batch(batch.count);
    }
    return filled;
  }

  // The features of a batch from row `first` on, padded to the Program's size.
  std::vector<Tensor> run(const Batch& batch, int64_t first) {
    Inputs inputs;
    for (const auto& [name, tensor] : batch.inputs) inputs[name] = rows_from(tensor, first, options_.batch_size);
    for (const auto& [name, tensor] : inputs) {
      if (program_->has_input(name)) program_->set_input(name, tensor);
    }
    program_->run();
    std::vector<Tensor> values;
    for (const std::string& name : features_->names)
      values.push_back(inputs.contains(name) ? inputs.at(name) : program_->output(name));
    return values;
  }

  // A sample must have the same features wherever it stands in a batch and whatever else is there: the last of a batch
  // must have them in a batch of nothing else.
  void refuse_mixing(const Batch& batch) {
    int64_t last = batch.count - 1;
    if (last == 0) return;
    std::vector<Tensor> among_others = run(batch, 0), alone = run(batch, last);
    for (size_t i = 0; i < alone.size(); ++i) {
      if (is_about(copy_of_row(among_others[i], last), copy_of_row(alone[i], 0))) continue;
      throw UsageError("features cannot be kept: \"", features_->names[i],
                       "\" of a sample depends on the other samples of its batch");
    }
  }

  Session& session_;
  const std::vector<FeatureSource>& sources_;
  const FeatureCacheOptions& options_;
  std::shared_ptr<Features> features_ = std::make_shared<Features>();
  std::map<std::string, Dims> dims_;
  std::shared_ptr<Program> program_;
  int64_t samples_ = 0, records_ = 0;
};

}  // namespace

std::vector<std::unique_ptr<Dataset>> cache_features(Session& session, const TrainingOptions& training,
                                                     const std::vector<FeatureSource>& sources,
                                                     const FeatureCacheOptions& options) {
  return Cacher(session, training, sources, options).fill();
}

}  // namespace graft
