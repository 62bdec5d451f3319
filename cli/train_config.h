// The settings of a training run: what config.yaml holds. evaluate and predict read their share of it.
#pragma once

#include "cli/progress.h"
#include "cli/settings.h"
#include "importers/data/options.h"
#include "importers/onnx/model.h"
#include "runtime/training/feature_cache.h"
#include "runtime/training/trainer.h"

namespace graft {

struct TrainConfig {
  TrainConfig();
  TrainConfig(const TrainConfig&) = delete;  // `settings` points into it
  TrainConfig& operator=(const TrainConfig&) = delete;

  std::string model, data, val, out;
  double val_split = 0.1;
  std::optional<int64_t> new_head;
  std::string pool, output;
  std::string loss = "cross_entropy";
  double label_smoothing = 0, huber_delta = 1;
  int64_t ignore_index = -100;
  std::vector<double> class_weights;
  int64_t batch_size = 32, accumulate = 1;
  std::optional<int64_t> epochs, max_steps;
  std::string optimizer = "adamw", schedule = "cosine";
  double lr = 1e-3, end_lr = 0, warmup = 0.05, weight_decay = 0.01, clip_norm = 0;
  double momentum = 0.9, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  bool nesterov = false;
  std::vector<std::string> freeze, train, disable;
  std::string batchnorm = "live", dtype = "f32", export_dtype = "f32", device = "cpu", monitor = "loss";
  std::string recompute, memory_limit, optimizer_state = "auto", saved_activations = "f32";
  bool autotune = false;
  int64_t patience = 0, seed = 42, loader_threads = 1;
  std::string on_bad_sample = "fail", length_buckets = "on", cache_features = "off", cache_limit;
  // Data.
  std::string size, layout, color, resize, interpolation, label, task = "auto";
  std::optional<double> scale, padding;
  std::vector<double> mean, std;
  std::vector<std::string> features, classes;

  Settings settings;

  // UnsupportedError for a dtype and a device that training does not know yet; warns of what will be slow.
  void check_device() const;
  LossOptions loss_options() const;
  // The session says to `progress` what it measures, as long as it compiles programs.
  SessionOptions session_options(Progress& progress) const;
  SaveOptions save_options() const;
  TrainerOptions trainer_options() const;
  // Nothing where features are not kept.
  std::optional<FeatureCacheOptions> cache_options() const;
  DatasetOptions dataset_options(const Session& session) const;
  // In the order of the data. `compile`, see find_length_buckets, is for the Programs that its batches will run.
  LoaderOptions loader_options(Session& session, const Dataset& dataset, const Compile& compile) const;
};

// Flags of TrainConfig that evaluate and predict have too.
std::vector<std::string> data_flags();

// "lengths: batches are cut to 16, 24, 32 tokens", for the log.
std::string to_text(const LengthBuckets& buckets);
// "features: the part up to "pooled" is frozen, 8192 bytes a sample, 15.6 MB in memory", for the log.
std::string to_text(const FrozenPart& frozen, int64_t samples, const FeatureCacheOptions& options);
// "bfloat16: 120 nodes; for want of a kernel in float32: 2 Softmax", for the log.
std::string to_text(const MixedNodes& nodes);
// "autotune: 20 cases, 12 measured in 3.1 s, 8 known; ...", for the log.
std::string to_text(const AutotuneReport& report);
// "recompute: 40 values, planned peak 930.6 -> 465.0 MB, about +3.1 % work", for the log.
std::string to_text(const Recomputed& found);
// "saved activations: ...", for the log.
std::string to_text(const NarrowedValues& found);
// "optimizer state: 174.0 MB in a file in /tmp", for the log.
std::string to_text(const ParameterStore::OnDisk& states);
// Where their folder is no disk.
void warn_of_memory(const ParameterStore::OnDisk& states);
// "none", "auto", "all".
Recompute parse_recompute(const std::string& name);

}  // namespace graft
