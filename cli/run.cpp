// graft run: the forward pass of a model, and gradients of its outputs.
#include <spdlog/spdlog.h>

#include "cli/command.h"
#include "cli/verbs.h"
#include "importers/data/npz.h"
#include "runtime/clock.h"
#include "runtime/model_session.h"
#include "runtime/synthetic_inputs.h"

namespace graft {
namespace {

constexpr const char* examples = R"(Examples:
  graft run model.onnx --inputs in.npz --outputs out.npz
  graft run model.onnx --inputs random --dim batch=8 --dim x.2=48 --outputs out.npz
  graft run model.onnx --inputs in.npz --vjp cotangents.npz --double --mode train --outputs out.npz

Arrays are named after the model's values. --vjp wants one array for each float output and adds "grad:NAME" to the
outputs for each float input and parameter: the gradient of sum(cotangent * output). random draws floats from N(0, 1),
integers and booleans from 0 and 1. Keys of --json: outputs (name, dtype, dims), seconds, planned_peak_bytes.)";

struct RunOptions {
  std::string model, inputs, outputs, cotangents, mode = "infer";
  std::vector<std::string> dims, disable;
  uint64_t seed = 0;
  bool double_precision = false;
  bool json = false;
};

SessionOptions session_options(const RunOptions& options) {
  return {.double_precision = options.double_precision,
          .disabled = {options.disable.begin(), options.disable.end()},
          .seed = options.seed};
}

using Arrays = std::map<std::string, Tensor>;

// All of `wanted` and nothing else.
void check_names(const std::string& path, const Arrays& arrays, const std::vector<std::string>& wanted) {
  for (const auto& [name, array] : arrays) {
    if (std::find(wanted.begin(), wanted.end(), name) != wanted.end()) continue;
    throw DataError("\"", path, "\": array \"", name, "\" is not wanted; wanted: ", nearest_text(name, wanted));
  }
  std::string missing;
  for (const auto& name : wanted) {
    if (!arrays.count(name)) missing += (missing.empty() ? "\"" : ", \"") + name + '"';
  }
  if (!missing.empty()) throw DataError("\"", path, "\" lacks ", missing);
}

// float arrays serve where the session computes in double.
Tensor as_wanted(const std::string& where, const Tensor& given, DType dtype, const Dims& dims) {
  bool widens = given.dtype() == DType::f32 && dtype == DType::f64;
  if ((given.dtype() != dtype && !widens) || given.dims() != dims)
    throw DataError(where, " must be ", dtype, dims, ", got ", given.dtype(), given.dims());
  return widens ? given.cast(dtype) : given;
}

class Run {
 public:
  explicit Run(const RunOptions& options)
      : options_(options), model_(ModelSession::open(options.model, session_options(options))) {}

  void operator()() {
    std::shared_ptr<Program> compiled = compile(input_dims());
    Program& program = *compiled;
    set_inputs(program);
    double start = seconds_now();
    program.run();
    double seconds = seconds_now() - start;
    std::vector<std::pair<std::string, Tensor>> results;
    Json described;
    for (size_t i = 0; i < program.graph().outputs.size(); ++i) {
      results.emplace_back(program.graph().outputs[i]->name, program.output(i));
      const auto& [name, value] = results.back();
      described.push_back({{"name", name}, {"dtype", name_of(value.dtype())}, {"dims", value.dims()}});
    }
    write_npz(options_.outputs, results);
    if (options_.json) {
      print_json({{"outputs", described}, {"seconds", seconds}, {"planned_peak_bytes", program.plan().peak_bytes()}});
    } else {
      spdlog::info("{} arrays in \"{}\", computed in {:.3f} s", results.size(), options_.outputs, seconds);
    }
  }

 private:
  bool filled() const { return options_.inputs == "zeros" || options_.inputs == "random"; }
  const std::vector<Value*>& model_inputs() const { return model_.session().graph().inputs; }

  // The dims that the inputs have in this run; reads their arrays.
  std::map<std::string, Dims> input_dims() {
    auto sizes = parse_dims(options_.dims);
    if (filled()) return bind_dims(model_.session().graph(), sizes, 1);
    if (!sizes.empty()) throw UsageError("--dim goes with --inputs zeros and random: arrays have their shapes");
    inputs_ = read_npz(options_.inputs);
    std::vector<std::string> names;
    for (const Value* input : model_inputs()) names.push_back(input->name);
    check_names(options_.inputs, inputs_, names);
    std::map<std::string, Dims> dims;
    for (const Value* input : model_inputs()) {
      Tensor& array = inputs_.at(input->name);
      array =
          as_wanted(cat("\"", options_.inputs, "\": array \"", input->name, "\""), array, input->dtype, array.dims());
      dims[input->name] = array.dims();
    }
    return dims;
  }

  std::shared_ptr<Program> compile(const std::map<std::string, Dims>& dims) {
    Mode mode = options_.mode == "train" ? Mode::train : Mode::infer;
    return options_.cotangents.empty() ? model_.session().forward(dims, mode) : model_.session().vjp(dims, mode);
  }

  // Filled inputs are made here, when the plan is known to fit into memory.
  void set_inputs(Program& program) {
    for (const Value* input : model_inputs()) {
      const Value& slot = *program.graph().find(input->name);
      if (!filled()) program.set_input(input->name, inputs_.at(input->name));
      else if (options_.inputs != "random") program.set_input(input->name, Tensor(slot.dtype, slot.dims));
      else if (is_float(slot.dtype))
        program.set_input(input->name, random_normal(slot.dtype, slot.dims, input->name, options_.seed));
      else program.set_input(input->name, random_integers(slot.dtype, slot.dims, 2, input->name, options_.seed));
    }
    if (!options_.cotangents.empty()) set_cotangents(program);
  }

  void set_cotangents(Program& program) {
    Arrays arrays = read_npz(options_.cotangents);
    const std::string prefix = "cotangent:";
    std::vector<const Value*> slots;
    std::vector<std::string> names;
    for (const Value* input : program.graph().inputs) {
      if (model_.session().graph().find(input->name)) continue;
      slots.push_back(input);
      names.push_back(input->name.substr(prefix.size()));
    }
    check_names(options_.cotangents, arrays, names);
    for (size_t i = 0; i < slots.size(); ++i) {
      std::string where = cat("\"", options_.cotangents, "\": array \"", names[i], "\"");
      program.set_input(slots[i]->name, as_wanted(where, arrays.at(names[i]), slots[i]->dtype, slots[i]->dims));
    }
  }

  const RunOptions& options_;
  ModelSession model_;
  Arrays inputs_;
};

}  // namespace

void add_run(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  CLI::App& verb = *app.add_subcommand("run", "Run a model on arrays; with --vjp, gradients of its outputs too");
  add_model(verb, options->model);
  verb.add_option("--inputs", options->inputs, "Arrays of the inputs, or what to fill them with")
      ->required()
      ->option_text("IN.npz|zeros|random");
  verb.add_option("--outputs", options->outputs, "Where to write the results")->required()->option_text("OUT.npz");
  verb.add_option("--vjp", options->cotangents, "One cotangent for each float output")->option_text("CT.npz");
  verb.add_option("--mode", options->mode, "BatchNormalization and Dropout as in training, or not (the default)")
      ->option_text("infer|train");
  verb.add_flag("--double", options->double_precision, "Compute everything in float64");
  add_dims(verb, options->dims);
  add_disable(verb, options->disable);
  verb.add_option("--seed", options->seed, "Of random inputs and of Dropout (default 0)")->option_text("N");
  add_threads(verb);
  add_json(verb, options->json);
  verb.footer(examples);
  verb.callback([options] {
    require_choice("--mode", options->mode, {"infer", "train"});
    Run run(*options);
    run();
  });
}

}  // namespace graft
