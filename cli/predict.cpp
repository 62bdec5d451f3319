// graft predict: outputs of a model for data with or without labels.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "cli/command.h"
#include "cli/model_config.h"
#include "cli/progress.h"
#include "cli/verbs.h"
#include "importers/data/npz.h"
#include "importers/data/open_dataset.h"
#include "runtime/clock.h"
#include "runtime/durable_file.h"
#include "runtime/model_session.h"
#include "runtime/training/metrics_csv.h"

namespace graft {
namespace {

constexpr const char* examples =
    "Examples:\n"
    "  graft predict run/model.onnx --data new/ --out predictions.csv\n"
    "  graft predict m.onnx --data d.npz --out outputs.npz\n"
    "A .csv file has a row for each sample: the sample, for classifiers the class with the highest output, then all\n"
    "outputs. An .npz file has one array for each output of the model, in the order of the data. Samples that are\n"
    "skipped have no row. Settings of the data are those of config.yaml beside the model, where there is one.";

struct Switches {
  std::string model, data, out, log = "auto";
  bool json = false;
};

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

// What messages call the sample, without the quotes around its file.
std::string sample_name(std::string text) {
  size_t last = text.rfind('"');
  if (!text.starts_with('"') || last == 0) return text;
  return text.erase(last, 1).erase(0, 1);
}

// Where the rows of a batch go.
class PredictionFile {
 public:
  virtual ~PredictionFile() = default;
  virtual void add(const Batch& batch, const std::vector<std::pair<std::string, Tensor>>& outputs) = 0;
  virtual void commit() = 0;
};

class CsvPredictions : public PredictionFile {
 public:
  CsvPredictions(const std::string& path, const Dataset& dataset, std::vector<std::string> classes)
      : file_(path), dataset_(dataset), classes_(std::move(classes)) {}

  void add(const Batch& batch, const std::vector<std::pair<std::string, Tensor>>& outputs) override {
    if (!begun_) write_header(outputs);
    for (int64_t row = 0; row < batch.count; ++row) {
      std::string line = csv_cell(sample_name(dataset_.describe(batch.indices[static_cast<size_t>(row)])));
      for (const auto& [name, tensor] : outputs) {
        int64_t width = tensor.count() / batch.count;
        Tensor wide = tensor.cast(DType::f64);
        const double* values = wide.data<double>() + row * width;
        if (is_classifier(name, tensor)) line += ',' + class_of(values, width);
        for (int64_t i = 0; i < width; ++i) {
          double value = values[i];
          line += ',' +
                  (tensor.dtype() == DType::f32 ? fmt::format("{}", static_cast<float>(value)) : format_number(value));
        }
      }
      file_.write(line + '\n');
    }
  }
  void commit() override { file_.commit(); }

 private:
  bool is_classifier(const std::string& name, const Tensor& tensor) const {
    return name == first_ && is_float(tensor.dtype()) && tensor.dims().size() == 2 && tensor.dims()[1] > 1;
  }

  std::string class_of(const double* scores, int64_t classes) const {
    auto best = static_cast<size_t>(predicted_class(scores, classes, 1));
    if (best == static_cast<size_t>(classes)) return "";
    return best < classes_.size() ? csv_cell(classes_[best]) : std::to_string(best);
  }

  void write_header(const std::vector<std::pair<std::string, Tensor>>& outputs) {
    begun_ = true;
    first_ = outputs.at(0).first;
    std::string header = "sample";
    for (const auto& [name, tensor] : outputs) {
      int64_t width = tensor.count() / std::max<int64_t>(tensor.dims().at(0), 1);
      bool classifier = is_classifier(name, tensor);
      if (classifier) header += ",predicted";
      bool named = classifier && static_cast<int64_t>(classes_.size()) == width;
      for (int64_t i = 0; i < width; ++i) {
        header += ',' + csv_cell(named ? classes_[static_cast<size_t>(i)] : width == 1 ? name : cat(name, '.', i));
      }
    }
    file_.write(header + '\n');
  }

  DurableFile file_;
  const Dataset& dataset_;
  std::vector<std::string> classes_;
  std::string first_;  // output
  bool begun_ = false;
};

class NpzPredictions : public PredictionFile {
 public:
  explicit NpzPredictions(std::string path) : path_(std::move(path)) {}

  void add(const Batch&, const std::vector<std::pair<std::string, Tensor>>& outputs) override {
    for (const auto& [name, tensor] : outputs) parts_[name].push_back(tensor);
    if (names_.empty()) {
      for (const auto& [name, tensor] : outputs) names_.push_back(name);
    }
  }

  void commit() override {
    std::vector<std::pair<std::string, Tensor>> arrays;
    for (const auto& name : names_) arrays.emplace_back(name, joined(name));
    write_npz(path_, arrays);
  }

 private:
  Tensor joined(const std::string& name) {
    std::vector<Tensor> parts = std::move(parts_.at(name));
    Dims dims = parts[0].dims();
    dims[0] = 0;
    for (const Tensor& part : parts) {
      Dims expected = part.dims();
      dims[0] += expected[0];
      expected[0] = dims[0];
      if (expected != dims)
        throw DataError("output \"", name, "\" has rows of different shapes, ", parts[0].dims(), " and ", part.dims(),
                        ": write a .csv file");
    }
    Tensor all = Tensor::uninitialized(parts[0].dtype(), dims);
    auto* to = static_cast<std::byte*>(all.raw());
    for (const Tensor& part : parts) {
      if (part.bytes()) std::memcpy(to, part.raw(), static_cast<size_t>(part.bytes()));
      to += part.bytes();
    }
    return all;
  }

  std::string path_;
  std::vector<std::string> names_;
  std::map<std::string, std::vector<Tensor>> parts_;
};

std::unique_ptr<PredictionFile> open_predictions(const std::string& path, const Dataset& dataset,
                                                 const std::vector<std::string>& classes) {
  std::string extension = std::filesystem::path(path).extension().string();
  if (extension == ".npz") return std::make_unique<NpzPredictions>(path);
  if (extension == ".csv") return std::make_unique<CsvPredictions>(path, dataset, classes);
  throw UsageError("--out \"", path, "\": predictions are written as .csv or .npz");
}

std::vector<std::pair<std::string, Tensor>> outputs_of(Session& session, const Batch& batch) {
  std::shared_ptr<Program> shared = session.forward(dims_of(batch), Mode::infer);
  Program& program = *shared;
  set_inputs(program, batch);
  program.run();
  std::vector<std::pair<std::string, Tensor>> outputs;
  for (const Value* output : program.graph().outputs) {
    if (output->dims.empty() || output->dims[0] != batch.count) {
      throw UnsupportedError("output \"", output->name, "\" ", output->dims, " has no row for each of ", batch.count,
                             " samples");
    }
    outputs.emplace_back(output->name, program.output(output->name));
  }
  return outputs;
}

void run(const Switches& switches, TrainConfig& config, const std::string& config_path) {
  read_model_config(config, switches.model, config_path);
  ModelSession model = ModelSession::open(switches.model);
  DatasetOptions options = config.dataset_options(model.session());
  options.labels_wanted = false;
  options.class_names.clear();  // labels, where there are any, do not matter
  auto dataset = open_dataset(switches.data, options);
  auto file = open_predictions(switches.out, *dataset, config.classes);
  auto compile = [&](const auto& dims) { return model.session().forward(dims, Mode::infer); };
  Loader loader(*dataset, all_indices(*dataset), config.loader_options(model.session(), *dataset, compile));
  Progress progress({.style = parse_log_style(switches.log)});
  if (loader.buckets()) progress.note(to_text(*loader.buckets()));
  double begin = seconds_now();
  int64_t batches = 0, samples = 0;
  Batch batch;
  progress.begin_pass("predict", loader.batches());
  loader.start_epoch(0);
  while (loader.next(batch)) {
    file->add(batch, outputs_of(model.session(), batch));
    samples += batch.count;
    progress.step({++batches, batch.count, std::nullopt, std::nullopt});
  }
  progress.end_pass();
  file->commit();
  double seconds = seconds_now() - begin;
  if (loader.skipped())
    progress.note(fmt::format("{} samples skipped, the first: {}", loader.skipped(), loader.skip_reasons().front()));
  if (switches.json) {
    print_json({{"out", switches.out}, {"samples", samples}, {"skipped", loader.skipped()}, {"seconds", seconds}});
  } else {
    print_result(fmt::format("\"{}\": {} samples\n", switches.out, samples));
  }
}

}  // namespace

void add_predict(CLI::App& app) {
  auto config = std::make_shared<TrainConfig>();
  auto switches = std::make_shared<Switches>();
  auto config_path = std::make_shared<std::string>();
  CLI::App& verb = *app.add_subcommand("predict", "Outputs of a model for each sample of a data set");
  add_model(verb, switches->model);
  verb.add_option("--data", switches->data, "Data, with or without labels")->required()->option_text("SPEC");
  verb.add_option("--out", switches->out, "Where to write them")->required()->option_text("FILE.csv|FILE.npz");
  config->settings.attach(verb, data_flags());
  add_config(verb, *config_path);
  add_log(verb, switches->log);
  add_threads(verb);
  add_json(verb, switches->json);
  verb.footer(examples);
  verb.callback([=] { run(*switches, *config, *config_path); });
}

}  // namespace graft
