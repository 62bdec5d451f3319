#include "cli/train_config.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "cli/command.h"
#include "runtime/device/cpu/system.h"

namespace graft {
namespace {

constexpr int64_t default_epochs = 3;

template <class T>
std::optional<T> choice(const std::string& name, std::initializer_list<std::pair<const char*, T>> choices) {
  for (const auto& [known, value] : choices) {
    if (name == known) return value;
  }
  return std::nullopt;
}

// "48" or "48x96": height and width.
void set_size(ImageOptions& images, const std::string& size) {
  if (size.empty()) return;
  size_t cross = size.find('x');
  auto side = [&](const std::string& text) {
    bool digits = !text.empty() && text.size() < 7 && text.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || std::stoll(text) == 0) throw UsageError("--size wants HEIGHTxWIDTH or one side, got \"", size, '"');
    return std::stoll(text);
  };
  images.height = side(size.substr(0, cross));
  images.width = cross == std::string::npos ? *images.height : side(size.substr(cross + 1));
}

}  // namespace

TrainConfig::TrainConfig() {
  auto add = [&](std::string flag, Settings::Target target, std::string help, std::string value = "",
                 std::vector<std::string> choices = {}) {
    settings.add({std::move(flag), target, std::move(help), std::move(value), std::move(choices)});
  };
  add("model", &model, "The .onnx file to fine-tune", "FILE");
  add("data", &data, "Training data: folder of images, .csv, .tsv, .parquet, .npz, or a .yaml data card", "SPEC");
  add("val", &val, "Validation data", "SPEC");
  add("val-split", &val_split, "Share of the data put aside for validation where there is no --val; 0: none", "0.1");
  add("out", &out, "Folder for the model, checkpoint, metrics and report", "DIR");
  add("new-head", &new_head, "Replace the classifier by a fresh one with N outputs", "N");
  add("pool", &pool, "Pool token embeddings before the new head", "mean|cls", {"mean", "cls"});
  add("output", &output, "Value to train on; the first output, or its logits, unless given", "NAME");
  add("loss", &loss, "Loss", "cross_entropy|bce|mse|l1|huber", {"cross_entropy", "bce", "mse", "l1", "huber"});
  add("label-smoothing", &label_smoothing, "Of cross_entropy", "0");
  add("ignore-index", &ignore_index, "Label that does not count", "-100");
  add("class-weights", &class_weights, "Of cross_entropy, one for each class", "W,W,...");
  add("huber-delta", &huber_delta, "Of huber", "1");
  add("epochs", &epochs, "Passes over the data; 3 unless updates are counted by --max-steps", "N");
  add("max-steps", &max_steps, "Updates of the whole run at most; without --epochs: exactly these", "N");
  add("batch-size", &batch_size, "Samples a forward pass", "32");
  add("accumulate", &accumulate, "Batches an update", "1");
  add("optimizer", &optimizer, "Optimiser", "sgd|adam|adamw", {"sgd", "adam", "adamw"});
  add("lr", &lr, "Learning rate at its peak", "1e-3");
  add("schedule", &schedule, "Learning rate over the run", "constant|linear|cosine", {"constant", "linear", "cosine"});
  add("warmup", &warmup, "Rising rate at the beginning: below 1 a share of the run, else steps", "0.05");
  add("end-lr", &end_lr, "What linear and cosine go down to", "0");
  add("weight-decay", &weight_decay, "As the optimiser has it: decoupled in adamw", "0.01");
  add("clip-norm", &clip_norm, "Largest norm of all gradients together; 0: no clipping", "0");
  add("momentum", &momentum, "Of sgd", "0.9");
  add("nesterov", &nesterov, "Nesterov's momentum in sgd");
  add("beta1", &beta1, "Of adam and adamw", "0.9");
  add("beta2", &beta2, "Of adam and adamw", "0.999");
  add("eps", &eps, "Of adam and adamw", "1e-8");
  add("freeze", &freeze, "Parameters that stay as they are", "GLOB");
  add("train", &train, "Parameters to train, all others stay; all unless given", "GLOB");
  add("batchnorm", &batchnorm, "Statistics of BatchNormalization follow the data, or stay", "live|frozen",
      {"live", "frozen"});
  add("dtype", &dtype, "Precision: float32, or bfloat16 between operators with float32 weights and sums", "f32|bf16",
      {"f32", "bf16", "f16"});
  add("export-dtype", &export_dtype, "Type in which model.onnx stores its weights, with a Cast behind each",
      "f32|bf16|f16", {"f32", "bf16", "f16"});
  add("device", &device, "Device", "cpu");
  add("recompute", &recompute,
      "What backward reads is computed again instead of kept: nothing; what costs next to nothing and what "
      "--memory-limit wants (default); or all that makes the step smaller",
      "none|auto|all", {"none", "auto", "all"});
  add("saved-activations", &saved_activations,
      "Type in which activations wait for backward: bf16 takes half the bytes and rounds gradients to about 3 digits; "
      "the step's loss and outputs stay as they are",
      "f32|bf16", {"f32", "bf16"});
  add("memory-limit", &memory_limit, "Most that a step may take: 500M, 1.5G, 2GiB (units are powers of 1024)", "SIZE");
  add("optimizer-state", &optimizer_state,
      "Where the moments of the optimiser lie: on disk, in --out, where the step exceeds --memory-limit otherwise "
      "(default); in memory; or on disk in any case",
      "auto|memory|disk", {"auto", "memory", "disk"});
  add("autotune", &autotune,
      "Measure once on this machine which kernel of each product and convolution is the fastest, and remember it");
  add("disable", &disable, disable_help(), "NAME");
  add("seed", &seed, "Of the head, the split, the order of samples and dropout", "42");
  add("monitor", &monitor, "What is best by validation: loss or a metric", "loss");
  add("patience", &patience, "Epochs without gain before the run ends; 0: never early", "0");
  add("on-bad-sample", &on_bad_sample, "What to do with a sample that cannot be read", "fail|skip", {"fail", "skip"});
  add("loader-threads", &loader_threads, "Threads that read samples", "1");
  add("length-buckets", &length_buckets, "Cut batches of token sequences to the next of a few lengths", "on|off",
      {"on", "off"});
  add("cache-features", &cache_features, "Compute what is frozen once a sample and keep it", "off|memory|disk",
      {"off", "memory", "disk"});
  add("cache-limit", &cache_limit, "Bytes that it may take; half of the memory, or of what the disk has left", "8G");
  add("size", &size, "Images are resized to this; the model's own size unless given", "HxW");
  add("layout", &layout, "Images for the model", "nchw|nhwc", {"nchw", "nhwc"});
  add("color", &color, "Images for the model", "rgb|bgr|grey", {"rgb", "bgr", "grey"});
  add("resize", &resize, "How images get their size", "stretch|fit|crop", {"stretch", "fit", "crop"});
  add("interpolation", &interpolation, "How images get their size", "area|linear|cubic|nearest",
      {"area", "linear", "cubic", "nearest"});
  add("scale", &scale, "x = (pixel * scale - mean) / std; 1/255 unless given", "S");
  add("mean", &mean, "One, or one a channel", "M,M,M");
  add("std", &std, "One, or one a channel", "S,S,S");
  add("padding", &padding, "Pixel value beside an image that is fit", "0");
  add("label", &label, "Column or array with the label", "NAME");
  add("features", &features, "Columns with the features", "NAME");
  add("task", &task, "What labels are", "auto|classification|regression", {"auto", "classification", "regression"});
  add("classes", &classes, "Names of the classes in the order of the model's outputs", "NAME");
}

void TrainConfig::check_device() const {
  if (dtype == "f16") throw UnsupportedError("--dtype f16: training is in f32 and bf16 so far");
  if (dtype == "bf16" && !has_bfloat16())
    spdlog::warn("this CPU has no instructions for bfloat16: products run in float32, and --dtype f32 is faster");
  if (device != "cpu") throw UnsupportedError("--device ", device, ": training is on cpu so far");
}

LossOptions TrainConfig::loss_options() const {
  LossOptions options;
  options.type = loss_type(loss);
  options.label_smoothing = label_smoothing;
  options.ignore_index = ignore_index;
  options.class_weights = class_weights;
  options.huber_delta = huber_delta;
  return options;
}

SessionOptions TrainConfig::session_options(Progress& progress) const {
  SessionOptions options{.disabled = {disable.begin(), disable.end()}, .seed = static_cast<uint64_t>(seed)};
  if (!autotune) return options;
  AutotuneOptions& tuning = options.autotune.emplace();
  tuning.on_case = [&progress](int64_t done, int64_t cases) {
    if (done == 0) progress.note(fmt::format("autotune: measuring the kernels of {} cases", cases));
    progress.hold_up("autotune", done, cases);
  };
  // Programs of other shapes come later; what they know already is no news.
  tuning.on_end = [&progress, first = true](const AutotuneReport& report) mutable {
    if (std::exchange(first, false) || report.measured > 0) progress.note(to_text(report));
  };
  tuning.warn = [](const std::string& text) { spdlog::warn(text); };
  return options;
}

SaveOptions TrainConfig::save_options() const {
  SaveOptions options;
  if (export_dtype != "f32") options.weights = export_dtype == "bf16" ? DType::bf16 : DType::f16;
  return options;
}

TrainerOptions TrainConfig::trainer_options() const {
  TrainerOptions options;
  options.training.output = output;
  options.training.loss = loss_options();
  options.training.optimiser = {.type = optimiser_type(optimizer),
                                .momentum = momentum,
                                .nesterov = nesterov,
                                .beta1 = beta1,
                                .beta2 = beta2,
                                .eps = eps,
                                .weight_decay = weight_decay};
  options.training.batchnorm_live = batchnorm == "live";
  options.training.clip_norm = clip_norm;
  MemoryOptions& memory = options.training.memory;
  if (!memory_limit.empty()) memory.limit = parse_bytes("--memory-limit", memory_limit);
  memory.optimiser = choice<OptimiserState>(optimizer_state, {{"auto", OptimiserState::automatic},
                                                              {"memory", OptimiserState::memory},
                                                              {"disk", OptimiserState::disk}})
                         .value_or(OptimiserState::automatic);
  memory.folder = out;
  if (!recompute.empty()) memory.recompute = parse_recompute(recompute);
  options.training.saved = saved_activations == "bf16" ? DType::bf16 : DType::f32;
  options.training.dtype = dtype == "bf16" ? DType::bf16 : DType::f32;
  options.schedule = {.decay = parse_decay(schedule), .rate = lr, .warmup = warmup, .end_rate = end_lr};
  if (epochs && *epochs < 0) throw UsageError("--epochs wants 0 or more, got ", *epochs);
  if (max_steps && *max_steps < 0) throw UsageError("--max-steps wants 0 or more, got ", *max_steps);
  options.epochs = epochs.value_or(max_steps ? -1 : default_epochs);
  options.max_steps = max_steps.value_or(-1);
  options.batch_size = batch_size;
  options.accumulate = accumulate;
  options.monitor = monitor;
  options.patience = patience;
  options.seed = static_cast<uint64_t>(seed);
  options.on_bad_sample = on_bad_sample == "skip" ? OnBadSample::skip : OnBadSample::fail;
  if (loader_threads < 1 || loader_threads > 256)
    throw UsageError("--loader-threads wants 1 to 256, got ", loader_threads);
  options.loader_threads = static_cast<int>(loader_threads);
  options.length_buckets = length_buckets == "on";
  return options;
}

LoaderOptions TrainConfig::loader_options(Session& session, const Dataset& dataset, const Compile& compile) const {
  TrainerOptions options = trainer_options();
  LoaderOptions order{.batch_size = options.batch_size,
                      .shuffle = false,
                      .on_bad_sample = options.on_bad_sample,
                      .threads = options.loader_threads};
  if (options.length_buckets) order.buckets = find_length_buckets(session, dataset, all_indices(dataset), compile);
  return order;
}

std::optional<FeatureCacheOptions> TrainConfig::cache_options() const {
  if (cache_features == "off" && !cache_limit.empty())
    throw UsageError("--cache-limit is there for --cache-features memory or disk");
  if (cache_features == "off") return {};
  TrainerOptions run = trainer_options();
  FeatureCacheOptions options{.place = cache_features == "disk" ? FeaturePlace::disk : FeaturePlace::memory,
                              .folder = out,
                              .batch_size = run.batch_size,
                              .on_bad_sample = run.on_bad_sample,
                              .loader_threads = run.loader_threads};
  if (!cache_limit.empty()) options.limit = parse_bytes("--cache-limit", cache_limit);
  return options;
}

DatasetOptions TrainConfig::dataset_options(const Session& session) const {
  DatasetOptions options;
  for (const Value* input : session.graph().inputs) options.inputs.push_back({input->name, input->dtype, input->dims});
  options.label = label;
  options.features = features;
  options.class_names = classes;
  LossType type = loss_type(loss);
  bool classes_wanted = type == LossType::cross_entropy || type == LossType::bce;
  if (task != "auto") options.task = task == "regression" ? Task::regression : Task::classification;
  else if (!classes_wanted) options.task = Task::regression;
  ImageOptions& images = options.images;
  set_size(images, size);
  images.layout = choice<ImageLayout>(layout, {{"nchw", ImageLayout::nchw}, {"nhwc", ImageLayout::nhwc}});
  images.color =
      choice<ImageColor>(color, {{"rgb", ImageColor::rgb}, {"bgr", ImageColor::bgr}, {"grey", ImageColor::grey}});
  images.resize = choice<ImageResize>(
      resize, {{"stretch", ImageResize::stretch}, {"fit", ImageResize::fit}, {"crop", ImageResize::crop}});
  images.interpolation = choice<ImageInterpolation>(interpolation, {{"area", ImageInterpolation::area},
                                                                    {"linear", ImageInterpolation::linear},
                                                                    {"cubic", ImageInterpolation::cubic},
                                                                    {"nearest", ImageInterpolation::nearest}});
  images.scale = scale;
  images.mean = mean;
  images.std = std;
  images.padding = padding;
  return options;
}

std::vector<std::string> data_flags() {
  return {"size",    "layout",     "color",         "resize",         "interpolation", "scale",
          "mean",    "std",        "padding",       "label",          "features",      "task",
          "classes", "batch-size", "on-bad-sample", "loader-threads", "length-buckets"};
}

std::string to_text(const LengthBuckets& buckets) {
  std::string lengths;
  for (int64_t length : buckets.lengths()) lengths += cat(lengths.empty() ? "" : ", ", length);
  return "lengths: batches are cut to " + lengths + " tokens";
}

std::string to_text(const FrozenPart& frozen, int64_t samples, const FeatureCacheOptions& options) {
  constexpr double mb = 1 << 20;
  std::string names;
  for (const auto& feature : frozen.features) names += fmt::format("{}\"{}\"", names.empty() ? "" : ", ", feature.name);
  return fmt::format("features: the part up to {} is frozen, {} bytes a sample, {:.1f} MB {}", names, frozen.bytes(),
                     static_cast<double>(frozen.bytes() * samples) / mb,
                     options.place == FeaturePlace::disk ? "on the disk" : "in memory");
}

std::string to_text(const MixedNodes& nodes) {
  std::string wide;
  for (const auto& [type, count] : nodes.wide) wide += fmt::format("{}{} {}", wide.empty() ? "" : ", ", count, type);
  return fmt::format("bfloat16: {} nodes{}{}", nodes.low,
                     wide.empty() ? "" : "; for want of a kernel in float32: ", wide);
}

std::string to_text(const AutotuneReport& report) {
  constexpr double milli = 1e3;
  return fmt::format(
      "autotune: {} cases, {} measured in {:.1f} s, {} known; another kernel for {} of {} nodes, about {:.2f} ms "
      "less of {:.2f} ms",
      report.cases, report.measured, report.measured > 0 ? report.seconds : 0.0, report.cases - report.measured,
      report.changed, report.nodes, milli * (report.usual_seconds - report.chosen_seconds),
      milli * report.usual_seconds);
}

std::string to_text(const ParameterStore::OnDisk& states) {
  constexpr double mb = 1 << 20;
  return fmt::format("optimizer state: {:.1f} MB in a file in {}", static_cast<double>(states.bytes) / mb,
                     states.folder);
}

void warn_of_memory(const ParameterStore::OnDisk& states) {
  if (states.bytes > 0 && lies_in_memory(states.folder))
    spdlog::warn("\"{}\", where the optimizer state lies, is memory too (tmpfs): choose a folder on a disk",
                 states.folder);
}

Recompute parse_recompute(const std::string& name) {
  auto known =
      choice<Recompute>(name, {{"none", Recompute::none}, {"auto", Recompute::automatic}, {"all", Recompute::all}});
  if (!known) throw UsageError("--recompute wants none, auto or all, got \"", name, '"');
  return *known;
}

std::string to_text(const NarrowedValues& found) {
  constexpr double mb = 1 << 20;
  return fmt::format("saved activations: {} of them as bfloat16, {:.1f} MB less than float32 in all", found.values,
                     static_cast<double>(found.bytes) / mb);
}

std::string to_text(const Recomputed& found) {
  constexpr double mb = 1 << 20, percent = 100;
  return fmt::format("recompute: {} values, planned peak {:.1f} -> {:.1f} MB, about +{:.1f} % work", found.values,
                     static_cast<double>(found.peak_before) / mb, static_cast<double>(found.peak_after) / mb,
                     percent * found.more_work);
}

}  // namespace graft
