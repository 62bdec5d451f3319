// graft bench ops: operators one by one, of a model or on their own.
#include <fmt/format.h>
#include <fnmatch.h>

#include "cli/bench.h"
#include "importers/data/input_file.h"
#include "importers/onnx/function_body.h"
#include "runtime/model_session.h"
#include "runtime/operator_case.h"

namespace graft {
namespace {

constexpr const char* examples = R"(Examples:
  graft bench ops
  graft bench ops --filter 'Conv*' --backward
  graft bench ops --model model.onnx --batch 8 --dim sequence=128 --backward
  graft bench ops --shapes shapes.txt --dtype f64 --json

Without --model each case is a graph of one operator: a list of common shapes, or the lines of a --shapes file:
  Conv pads=1,1,1,1 8x64x56x56 64x64x3x3 64      operator, attributes, operands
  Gather 30522x384 int64:8x128                   an operand of another type than float
  ReduceMean 8x128x384 {-1}                      a constant operand: its values
  Clip 8x64x56x56 - {6.0}                        an absent operand; after '#' comes a comment
An attribute's value is an integer, a number with a point, a list with commas (one element: "3,") or a text. Weights are
parameters, all other operands inputs; --backward adds the gradients of all floats. With --model the nodes of that
model's compiled graph are timed in their place among the others: inference, or with --backward a training step with
AdamW. --filter keeps operators (or with --model names of nodes too) that match.

Keys of --json: machine (as bench step), and with --model: model, operators (operator, direction, nodes, ms, gflops,
gb_per_s, limit_ms, share_of_limit), nodes (operator, direction, of: the model's node, ms and so on); else: cases
(operator, operands, direction, ms and so on, reorder_ms: of operands into the layout that the kernel works in).)";

struct OpsOptions {
  std::string filter = "*", model, shapes, dtype = "f32";
  std::vector<std::string> dims;
  std::optional<int64_t> batch;
  bool backward = false;
  double seconds = 0.2;
  bool json = false;
};

bool matches(const OpsOptions& options, const std::string& name) {
  return fnmatch(options.filter.c_str(), name.c_str(), 0) == 0;
}

[[noreturn]] void refuse_filter(const OpsOptions& options, std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  throw UsageError("--filter \"", options.filter, "\" matches nothing; nearest: ", nearest_text(options.filter, names));
}

SessionOptions session_options(const OpsOptions& options) { return {.double_precision = options.dtype == "f64"}; }

// --- Operators on their own ---

// One case in one direction.
struct CaseTime {
  Direction direction = Direction::forward;
  Work work;
  double reorder_seconds = 0;
};

std::vector<OperatorCase> cases_of(const OpsOptions& options) {
  constexpr int64_t largest = 1 << 20;
  std::vector<OperatorCase> cases = common_operator_cases();
  if (!options.shapes.empty()) {
    std::vector<uint8_t> bytes = InputFile(options.shapes).read_all(largest);
    cases = read_operator_cases(std::string(bytes.begin(), bytes.end()), '"' + options.shapes + '"');
  }
  std::vector<std::string> names;
  for (const auto& known : cases) names.push_back(known.type);
  std::erase_if(cases, [&](const OperatorCase& known) { return !matches(options, known.type); });
  if (cases.empty()) refuse_filter(options, names);
  return cases;
}

// The operator's nodes by direction, with those that bring operands into its layouts told apart.
std::vector<CaseTime> time_case(const OperatorCase& given, const OpsOptions& options, const MachineLimits& limits) {
  Session session(graph_of(given), function_body_graph, session_options(options));
  std::map<std::string, Dims> dims;
  for (const Value* input : session.graph().inputs) dims[input->name] = input->dims;
  auto shared = options.backward ? session.vjp(dims, Mode::train) : session.forward(dims, Mode::infer);
  Program& program = *shared;
  set_synthetic_inputs(program, session, {});
  StepTimes times = time_steps(program, {.seconds = options.seconds, .rounds = 3});
  std::vector<OperatorTime> operators = by_operator(roofline(program, limits), times.node_seconds);
  auto has_more_than_reorders = [&](Direction direction) {  // a Transpose is nothing else
    return std::any_of(operators.begin(), operators.end(), [&](const OperatorTime& time) {
      return time.direction == direction && time.label != "Reorder";
    });
  };
  std::map<Direction, CaseTime> by_direction;
  for (const OperatorTime& time : operators) {
    CaseTime& sum = by_direction[time.direction];
    sum.direction = time.direction;
    if (time.label == "Reorder" && has_more_than_reorders(time.direction)) {
      sum.reorder_seconds += time.seconds;
      continue;
    }
    sum.work.seconds += time.seconds;
    sum.work.limit_seconds += time.limit_seconds;
    sum.work.flops += time.flops;
    sum.work.bytes += time.bytes;
  }
  std::vector<CaseTime> result;
  for (const auto& [direction, time] : by_direction) result.push_back(time);
  return result;
}

void bench_cases(const OpsOptions& options) {
  std::vector<OperatorCase> cases = cases_of(options);
  for (const auto& given : cases) graph_of(given);  // says what is wrong before anything is timed
  Machine machine = measure();
  Json list = Json::array();
  fmt::memory_buffer out;
  auto at = fmt::appender(out);
  fmt::format_to(at, "{}{}\n{:22} {:9} {} {:>10}  operands\n", to_text(machine), limit_text(), "operator", "direction",
                 work_heads(), "reorder ms");
  for (const auto& given : cases) {
    for (const CaseTime& time : time_case(given, options, machine.limits)) {
      Json entry{{"operator", given.type}, {"operands", given.operands}, {"direction", name_of(time.direction)}};
      entry.update(describe(time.work));
      entry["reorder_ms"] = time.reorder_seconds * 1e3;
      list.push_back(entry);
      fmt::format_to(at, "{:22} {:9} {} {:10.4f}  {}\n", given.type, name_of(time.direction), to_text(time.work),
                     time.reorder_seconds * 1e3, given.operands);
    }
  }
  if (options.json) print_json({{"machine", describe(machine)}, {"cases", list}});
  else print_result(fmt::to_string(out));
}

// --- The nodes of a model ---

std::shared_ptr<Program> compile(Session& session, const OpsOptions& options, TrainingOptions& training) {
  auto dims = input_dims(session.graph(), options.batch, parse_dims(options.dims));
  if (!options.backward) return session.forward(dims, Mode::infer);
  training.trainable = session.match({}, {});
  if (training.trainable.empty()) throw UsageError("the model has no parameters to train: leave --backward out");
  training.loss.type = usual_loss(session.graph());
  try {
    return session.training(dims, training).step;
  } catch (const UnsupportedError&) {
    require_trainable(session, dims, training);
    throw;
  }
}

// Keeps the nodes whose operator or name in the model matches.
void filter_nodes(const OpsOptions& options, Roofline& roofline, std::vector<double>& seconds) {
  std::vector<std::string> names;
  std::vector<NodeLimit> kept;
  std::vector<double> kept_seconds;
  for (size_t i = 0; i < roofline.nodes.size(); ++i) {
    const Node& node = *roofline.nodes[i].node;
    std::vector<std::string> own = filter_names(node);
    bool found = std::any_of(own.begin(), own.end(), [&](const std::string& name) { return matches(options, name); });
    names.insert(names.end(), own.begin(), own.end());
    if (!found) continue;
    kept.push_back(roofline.nodes[i]);
    kept_seconds.push_back(seconds[i]);
  }
  if (kept.empty()) refuse_filter(options, names);
  roofline.nodes = std::move(kept);
  seconds = std::move(kept_seconds);
}

Work work_of(const NodeLimit& limit, double seconds) {
  return {seconds, limit.seconds, limit.flops, limit.read_bytes + limit.written_bytes};
}

Json describe_nodes(const Roofline& roofline, const std::vector<double>& seconds) {
  Json list = Json::array();
  for (size_t i = 0; i < seconds.size(); ++i) {
    const Node& node = *roofline.nodes[i].node;
    Json entry{{"operator", operator_label(node)},
               {"direction", name_of(node.provenance.direction)},
               {"of", node.provenance.source}};
    entry.update(describe(work_of(roofline.nodes[i], seconds[i])));
    list.push_back(entry);
  }
  return list;
}

// The nodes that lose most time against their limits.
std::string losses_text(const Roofline& roofline, const std::vector<double>& seconds) {
  constexpr size_t shown = 10;
  std::vector<size_t> order(seconds.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  auto loss = [&](size_t i) { return seconds[i] - roofline.nodes[i].seconds; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return loss(a) > loss(b); });
  std::string text = fmt::format("\nfurthest from their limits {:>13} {}  of\n", "", work_heads());
  for (size_t k = 0; k < std::min(shown, order.size()); ++k) {
    const NodeLimit& limit = roofline.nodes[order[k]];
    text += fmt::format("{:24} {:9}       {}  {}\n", short_label(operator_label(*limit.node)),
                        name_of(limit.node->provenance.direction), to_text(work_of(limit, seconds[order[k]])),
                        limit.node->provenance.source);
  }
  return text;
}

void bench_model(const OpsOptions& options) {
  ModelSession model = ModelSession::open(options.model, session_options(options));
  TrainingOptions training;
  std::shared_ptr<Program> compiled = compile(model.session(), options, training);
  Program& program = *compiled;
  set_synthetic_inputs(program, model.session(), training.loss);
  Machine machine = measure();
  Roofline limits = roofline(program, machine.limits);
  std::vector<double> unmeasured(limits.nodes.size());
  Roofline wanted = limits;
  filter_nodes(options, wanted, unmeasured);  // refuses before anything is timed
  std::vector<double> seconds = time_steps(program, {.seconds = options.seconds, .rounds = 3}).node_seconds;
  filter_nodes(options, limits, seconds);
  std::vector<OperatorTime> operators = by_operator(limits, seconds);
  if (options.json) {
    print_json({{"model", options.model},
                {"machine", describe(machine)},
                {"operators", describe(operators)},
                {"nodes", describe_nodes(limits, seconds)}});
  } else {
    print_result(to_text(machine) + limit_text() + '\n' + to_text(operators) + losses_text(limits, seconds));
  }
}

}  // namespace

void add_bench_ops(CLI::App& bench) {
  auto options = std::make_shared<OpsOptions>();
  CLI::App& verb = *bench.add_subcommand("ops", "Time operators one by one, on their own or as a model has them");
  verb.add_option("--filter", options->filter, "Operators to time")->option_text("GLOB");
  CLI::Option* model = verb.add_option("--model", options->model, "Time the nodes of this model")->option_text("MODEL");
  verb.add_option("--shapes", options->shapes, "Time the cases of this file")->option_text("FILE")->excludes(model);
  verb.add_option("--dtype", options->dtype, "Precision (default f32)")->option_text("f32|f64");
  verb.add_flag("--backward", options->backward, "Gradients too; with --model the optimiser as well");
  add_batch(verb, options->batch);
  add_dims(verb, options->dims);
  add_threads(verb);
  add_seconds(verb, options->seconds, "Time for each case, or for the model, about");
  add_json(verb, options->json);
  verb.footer(examples);
  verb.callback([options] {
    require_choice("--dtype", options->dtype, {"f32", "f64", "bf16", "f16"});
    if (options->dtype != "f32" && options->dtype != "f64")
      throw UnsupportedError("--dtype ", options->dtype, ": operators are in f32 and f64 so far");
    if (options->model.empty() && (options->batch || !options->dims.empty()))
      throw UsageError("--batch and --dim go with --model");
    if (options->model.empty()) bench_cases(*options);
    else bench_model(*options);
  });
}

}  // namespace graft
