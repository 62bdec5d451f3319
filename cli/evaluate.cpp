// graft evaluate: loss and metrics of a model on labelled data.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "cli/command.h"
#include "cli/model_config.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "importers/data/open_dataset.h"
#include "runtime/clock.h"
#include "runtime/model_session.h"
#include "runtime/training/bootstrap.h"
#include "runtime/training/targets.h"

namespace graft {
namespace {

constexpr const char* examples =
    "Examples:\n"
    "  graft evaluate run/model.onnx --data test/\n"
    "  graft evaluate run/model.onnx --data test.csv --metrics accuracy,macro_f1 --bootstrap 1000 --json\n"
    "  graft evaluate m.onnx --data d.npz --loss mse\n"
    "Settings of the data are those of config.yaml beside the model, where there is one; --config none leaves it "
    "alone.\n"
    "JSON keys: loss, the metrics by name, samples, skipped, seconds; with --bootstrap NAME_interval: [low, high], "
    "the\n"
    "95 % percentile interval over resampled data.";

struct Switches {
  std::string model, data, log = "auto";
  std::vector<std::string> metrics;
  int64_t bootstrap = 0;
  bool json = false;
};

std::vector<std::string> wanted_metrics(const Switches& switches, LossType loss) {
  std::vector<std::string> known = metric_names(loss);
  if (switches.metrics.empty()) return known;
  std::vector<std::string> wanted = split_commas(switches.metrics);
  for (const auto& name : wanted) require_choice("--metrics", name, known);
  return wanted;
}

void print(const Switches& switches, const Evaluation& result, const std::vector<std::string>& names,
           const std::map<std::string, Interval>& intervals, double seconds) {
  Json json;
  std::string text;
  for (const auto& name : names) {
    double value = result.value(name);
    if (std::isnan(value)) continue;
    json[name] = value;
    text += fmt::format("{:<12}{:.6g}", name, value);
    auto interval = intervals.find(name);
    if (interval != intervals.end()) {
      json[name + "_interval"] = {interval->second.low, interval->second.high};
      text += fmt::format("  [{:.6g}, {:.6g}]", interval->second.low, interval->second.high);
    }
    text += '\n';
  }
  json["samples"] = result.samples;
  json["skipped"] = result.skipped;
  json["seconds"] = seconds;
  text += fmt::format("{:<12}{}\n", "samples", result.samples);
  if (result.skipped)
    text += fmt::format("{:<12}{}, the first: {}\n", "skipped", result.skipped, result.skip_reasons.front());
  if (switches.json) print_json(json);
  else print_result(text);
}

void run(const Switches& switches, TrainConfig& config, const std::string& config_path) {
  constexpr int64_t most = 1'000'000;
  if (switches.bootstrap < 0 || switches.bootstrap > most)
    throw UsageError("--bootstrap wants 0 to ", most, " resamplings, got ", switches.bootstrap);
  read_model_config(config, switches.model, config_path);
  LossOptions loss = config.loss_options();
  auto names = wanted_metrics(switches, loss.type);
  ModelSession model = ModelSession::open(switches.model);
  auto dataset = open_dataset(switches.data, config.dataset_options(model.session()));
  auto compile = [&](const auto& dims) { return model.session().evaluation(dims, loss, config.output); };
  Loader loader(*dataset, all_indices(*dataset), config.loader_options(model.session(), *dataset, compile));
  Progress progress({.style = parse_log_style(switches.log)});
  if (loader.buckets()) progress.note(to_text(*loader.buckets()));
  Bootstrap bootstrap(loss);
  int64_t batches = 0;
  EvaluationOptions options{loss, config.output, {}};
  options.on_batch = [&](const Batch& batch, const Tensor& prediction, const Tensor& targets, double batch_loss) {
    if (++batches == 1) check_classes(prediction.dims(), loss, *dataset);
    if (switches.bootstrap) bootstrap.add(prediction, targets);
    progress.step({batches, batch.count, batch_loss, std::nullopt});
  };
  double begin = seconds_now();
  progress.begin_pass("evaluate", loader.batches());
  Evaluation result = evaluate(model.session(), *dataset, loader, options);
  progress.end_pass();
  double seconds = seconds_now() - begin;
  std::map<std::string, Interval> intervals;
  if (switches.bootstrap) intervals = bootstrap.intervals(switches.bootstrap, static_cast<uint64_t>(config.seed));
  print(switches, result, names, intervals, seconds);
}

}  // namespace

void add_evaluate(CLI::App& app) {
  auto config = std::make_shared<TrainConfig>();
  auto switches = std::make_shared<Switches>();
  auto config_path = std::make_shared<std::string>();
  CLI::App& verb = *app.add_subcommand("evaluate", "Loss and metrics of a model on labelled data");
  add_model(verb, switches->model);
  verb.add_option("--data", switches->data, "Labelled data, as for train")->required()->option_text("SPEC");
  add_list(verb, "--metrics", switches->metrics, "Which to print; all unless given")->option_text("NAME,...");
  verb.add_option("--bootstrap", switches->bootstrap, "Resamplings for 95 % intervals of the metrics")
      ->option_text("N");
  std::vector<std::string> flags = data_flags();
  flags.insert(flags.end(), {"loss", "output", "ignore-index", "huber-delta", "seed"});
  config->settings.attach(verb, flags);
  add_config(verb, *config_path);
  add_log(verb, switches->log);
  add_threads(verb);
  add_json(verb, switches->json);
  verb.footer(examples);
  verb.callback([=] { run(*switches, *config, *config_path); });
}

}  // namespace graft
