#include "runtime/session.h"

#include <fnmatch.h>

#include <algorithm>
#include <cstdlib>

#include "graph/logits.h"
#include "ops/build.h"
#include "runtime/evaluate.h"

namespace graft {
namespace {

Evaluator evaluator() {
  return [](const Node& node, const std::vector<Tensor>& inputs) { return evaluate(node, inputs); };
}

bool is_trainable(const State& state) { return state.in->kind == StateKind::parameter && is_float(state.in->dtype); }

std::string key_of(const std::string& kind, const std::map<std::string, Dims>& dims) {
  std::string key = kind;
  for (const auto& [name, shape] : dims) key += cat(' ', name, shape);
  return key;
}

std::string key_of(const LossOptions& loss) {
  std::ostringstream out;
  out.precision(17);
  out << static_cast<int>(loss.type) << '|' << loss.axis << '|' << loss.label_smoothing << '|' << loss.ignore_index
      << '|' << loss.label_probabilities << '|' << loss.huber_delta;
  for (double weight : loss.class_weights) out << ',' << weight;
  return out.str();
}

std::string key_of(const TrainingOptions& o) {
  const OptimiserOptions& rule = o.optimiser;
  std::ostringstream out;
  out.precision(17);
  out << o.output << '|' << o.batchnorm_live << o.accumulate << '|' << o.clip_norm << '|' << key_of(o.loss) << '|'
      << static_cast<int>(rule.type) << '|' << rule.momentum << '|' << rule.dampening << '|' << rule.nesterov << '|'
      << rule.beta1 << '|' << rule.beta2 << '|' << rule.eps << '|' << rule.weight_decay;
  std::string key = cat(out.str(), '|', o.dtype, '|', o.saved, '|', static_cast<int>(o.memory.recompute), '|',
                        o.memory.limit, '|', static_cast<int>(o.memory.optimiser));
  for (const auto& name : o.trainable) key += '|' + name;
  return key;
}

// Gives `value` the name `name` as a graph output; a value that has a name already gets an Identity behind it.
void add_output(Graph& graph, Value* value, const std::string& name) {
  if (!value->name.empty() || value->role != Role::result) value = call("Identity", {Val(graph, value)}).value();
  graph.rename(value, name);
  graph.outputs.push_back(value);
}

std::vector<Value*> states_named(const Graph& graph, const std::set<std::string>& names) {
  std::vector<Value*> found;
  for (const auto& state : graph.states) {
    if (names.count(state.in->name)) found.push_back(state.in);
  }
  return found;
}

// Which states a Program may lay otherwise, see Session::finish.
bool leave_all(const State&) { return false; }
// With accumulation another Program writes the parameters: their layouts are still chosen by the step.
std::function<bool(const State&)> lays_out_step(const TrainingOptions& options) {
  std::set<std::string> trainable(options.trainable.begin(), options.trainable.end());
  return [trainable](const State& state) { return state.out || trainable.count(state.in->name); };
}

// One entry a node, whatever is wrong with it.
void add_blocker(std::vector<Blocker>& blockers, const Blocker& blocker) {
  for (Blocker& known : blockers) {
    if (known.type != blocker.type || known.name != blocker.name || known.name.empty()) continue;
    known.reason += ", and " + blocker.reason;
    return;
  }
  blockers.push_back(blocker);
}

}  // namespace

Session::Session(std::unique_ptr<Graph> graph, Expander expand, SessionOptions options)
    : graph_(std::move(graph)), expand_(std::move(expand)), options_(std::move(options)) {
  if (const char* more = std::getenv("GRAFT_DISABLE")) options_.disabled.insert(more);
  options_.disabled = fusions_named(options_.disabled);
  if (options_.programs < 2)
    throw UsageError("a session keeps ", options_.programs, " programs, allowed are 2 or more");
  if (options_.autotune) autotuner_.emplace(*options_.autotune);
  std::map<std::string, Tensor> states = classify(*graph_);
  if (options_.double_precision) widen(*graph_);
  for (const auto& state : graph_->states) {
    auto entry = states.extract(state.in->name);
    Tensor value = std::move(entry.mapped());
    if (value.dtype() != state.in->dtype) value = value.cast(state.in->dtype);
    store_.add(state.in->name, state.in->kind, std::move(value));
  }
}

Session::~Session() = default;

std::vector<std::string> Session::parameters() const {
  std::vector<std::string> names;
  for (const auto& state : graph_->states) {
    if (is_trainable(state)) names.push_back(state.in->name);
  }
  return names;
}

std::vector<std::string> Session::match(const std::vector<std::string>& train,
                                        const std::vector<std::string>& freeze) const {
  std::vector<std::string> names = parameters();
  auto matching = [&](const std::string& glob) {
    std::vector<std::string> found;
    std::copy_if(names.begin(), names.end(), std::back_inserter(found),
                 [&](const std::string& name) { return fnmatch(glob.c_str(), name.c_str(), 0) == 0; });
    if (!found.empty()) return found;
    std::string near;
    for (const auto& name : nearest_names(glob, names)) near += (near.empty() ? "\"" : ", \"") + name + '"';
    throw UsageError("\"", glob, "\" matches no parameter; nearest: ", near);
  };
  std::set<std::string> chosen;
  for (const auto& glob : train) {
    for (const auto& name : matching(glob)) chosen.insert(name);
  }
  if (train.empty()) chosen.insert(names.begin(), names.end());
  for (const auto& glob : freeze) {
    for (const auto& name : matching(glob)) chosen.erase(name);
  }
  std::erase_if(names, [&](const std::string& name) { return !chosen.count(name); });
  return names;
}

Value* Session::prediction_of(const Graph& graph, const std::string& name, LossType loss) {
  Value* output = name.empty() ? graph.outputs.at(0) : graph.find(name);
  if (!output) {
    std::vector<std::string> names;
    for (const Value* known : graph.outputs) names.push_back(known->name);
    throw UsageError("the model has no value \"", name, "\" to train on; nearest: \"",
                     nearest_names(name, names, 1).at(0), '"');
  }
  Logits logits = logits_of(output);
  bool softmax = logits.activation == LastActivation::softmax || logits.activation == LastActivation::log_softmax;
  bool sigmoid = logits.activation == LastActivation::sigmoid;
  bool belongs = (softmax && loss == LossType::cross_entropy) || (sigmoid && loss == LossType::bce);
  return belongs ? logits.value : output;
}

std::unique_ptr<Graph> Session::specialised(const std::map<std::string, Dims>& dims, Mode mode,
                                            const std::set<std::string>& live, const Watch& watch) {
  std::unique_ptr<Graph> graph = graph_->clone();
  if (watch) watch("classify", *graph);
  set_mode(*graph, mode == Mode::train, live);
  bool rest = names_features(dims);
  specialise(*graph, rest ? input_dims(dims) : dims, evaluator());
  if (mode == Mode::train) seed_dropout(*graph, options_.seed);
  if (watch) watch("specialise", *graph);
  decompose(*graph, expand_, evaluator());
  if (watch) watch("decompose", *graph);
  recognise(*graph, options_.disabled);
  if (rest) keep_rest(*graph);
  graph->prune();
  if (watch) watch("recognise", *graph);
  verify(*graph);
  return graph;
}

void Session::fold(Graph& graph, const std::set<std::string>& trained) const {
  if (options_.disabled.count("fold_normalization")) return;
  fold_normalization(graph, trained, !options_.disabled.count("convolution_epilogue"));
}

std::shared_ptr<Program> Session::cached(const std::string& key) {
  // A training Program moves parameters to its layouts: what was compiled before reads them no longer.
  std::erase_if(programs_, [](const auto& entry) { return entry.second.program->stale(); });
  auto found = programs_.find(key);
  if (found == programs_.end()) return nullptr;
  found->second.asked = ++asked_;
  return found->second.program;
}

// The Program that nobody asked for the longest time goes. With two or more kept, a step and its apply, of which one is
// asked for right after the other, never displace each other.
void Session::make_room() {
  while (static_cast<int64_t>(programs_.size()) >= options_.programs) {
    auto oldest = std::min_element(programs_.begin(), programs_.end(),
                                   [](const auto& a, const auto& b) { return a.second.asked < b.second.asked; });
    programs_.erase(oldest);
    ++counts_.evicted;
  }
}

ProgramCounts Session::program_counts() const {
  ProgramCounts counts = counts_;
  counts.kept = static_cast<int64_t>(programs_.size());
  return counts;
}

void Session::forget_programs() {
  programs_.clear();
  arena_ = nullptr;
}

void Session::finish(Graph& graph, const MayLayOut& may_lay_out, const Watch& watch, const Precision& precision) {
  graph.prune();
  fuse(graph, options_.disabled);
  if (!options_.disabled.count("sparse_gradients")) sparse_gradients(graph);
  if (!options_.disabled.count("skip_padding")) skip_padding(graph);
  graph.sort();
  require_memory(graph);
  if (watch) watch("fuse", graph);
  if (precision.dtype == DType::bf16) {
    mixed_nodes_ = mix_precision(graph);
    if (watch) watch("mix_precision", graph);
  }
  if (precision.saved == DType::bf16) {
    narrowed_ = narrow_saved(graph);
    graph.sort();
  }
  std::map<std::string, Layout> masters;
  for (const auto& state : graph.states) {
    const std::string& name = state.in->name;
    if (!store_.has(name)) continue;
    const Layout& layout = store_.entry(name).layout;
    if (!layout.is_plain(state.in->dims) || !may_lay_out(state)) masters[name] = layout;
  }
  for (const Value* input : graph.inputs) {
    if (!split_ || !split_->layouts.contains(input->name)) continue;
    Layout& layout = masters[input->name] = split_->layouts.at(input->name);
    layout.padded[0] = input->dims[0];
  }
  split_prologue(graph);
  lay_out(graph, masters);
  if (!options_.disabled.count("join_sums")) join_sums(graph);
  if (!options_.disabled.count("join_statistics")) join_statistics(graph);
  graph.sort();
  if (!options_.disabled.count("product_epilogue")) join_products(graph);
  if (!options_.disabled.count("elementwise")) join_elementwise(graph);
  if (!options_.disabled.count("release_gradients")) release_gradients(graph);
  graph.prune();  // values of nodes that are gone
  if (watch) watch("lay_out", graph);
}

std::shared_ptr<Program> Session::compile(const std::string& key, std::unique_ptr<Graph> graph,
                                          const MayLayOut& may_lay_out, const CompileOptions& options) {
  make_room();
  finish(*graph, may_lay_out, {}, options.precision);
  if (autotuner_) autotuner_->tune(*graph);
  if (options.fit) options.fit(*graph);
  place_states(*graph, options.folder);
  auto program = std::make_shared<Program>(std::move(graph), store_, options.shares_arena ? arena_ : nullptr);
  if (options.shares_arena) arena_ = program->arena();
  programs_[key] = {program, ++asked_};
  ++counts_.compiled;
  return program;
}

std::shared_ptr<Program> Session::forward(const std::map<std::string, Dims>& dims, Mode mode) {
  std::string key = key_of(mode == Mode::train ? "forward train" : "forward", dims);
  if (auto known = cached(key)) return known;
  auto graph = specialised(dims, mode, all_parameters(), {});
  // A forward pass in training mode shows what training computes; it leaves the statistics as they are.
  for (auto& state : graph->states) state.out = nullptr;
  fold(*graph, trained_);
  graph->prune();
  return compile(key, std::move(graph), leave_all, {});
}

std::set<std::string> Session::all_parameters() const {
  auto names = parameters();
  return {names.begin(), names.end()};
}

std::shared_ptr<Program> Session::vjp(const std::map<std::string, Dims>& dims, Mode mode) {
  std::string key = key_of(mode == Mode::train ? "vjp train" : "vjp", dims);
  if (auto known = cached(key)) return known;
  auto graph = specialised(dims, mode, all_parameters(), {});
  for (auto& state : graph->states) state.out = nullptr;
  std::vector<Value*> targets, seeds, wanted;
  for (Value* output : std::vector<Value*>(graph->outputs)) {
    if (!is_float(output->dtype)) continue;
    targets.push_back(output);
    seeds.push_back(graph->add_input("cotangent:" + output->name, output->dtype, output->dims));
  }
  std::vector<std::string> names;
  for (Value* input : graph->inputs) {
    bool seed = std::find(seeds.begin(), seeds.end(), input) != seeds.end();
    if (is_float(input->dtype) && !seed) wanted.push_back(input);
  }
  for (const auto& state : graph_->states) {
    if (!is_trainable(state)) continue;
    Value* value = graph->find(state.in->name);
    wanted.push_back(value && value->is_state()
                         ? value
                         : graph->add_state(state.in->name, state.in->kind, state.in->dtype, state.in->dims));
  }
  std::vector<Value*> gradients = differentiate(*graph, targets, seeds, wanted);
  for (size_t i = 0; i < wanted.size(); ++i) {
    Val zero = gradients[i] ? Val() : expand(constant_like(Val(*graph, wanted[i]), 0), wanted[i]->dims);
    add_output(*graph, gradients[i] ? gradients[i] : zero.value(), "grad:" + wanted[i]->name);
  }
  return compile(key, std::move(graph), leave_all, {});
}

std::unique_ptr<Graph> Session::training_graph(const std::map<std::string, Dims>& dims, const TrainingOptions& options,
                                               std::unique_ptr<Graph>* apply, const Watch& watch) {
  std::set<std::string> trainable(options.trainable.begin(), options.trainable.end());
  auto graph = specialised(dims, Mode::train, options.batchnorm_live ? trainable : std::set<std::string>{}, watch);
  fold(*graph, trainable);
  Value* prediction = prediction_of(*graph, options.output, options.loss.type);
  graph->outputs.clear();
  Loss loss = add_loss(*graph, prediction, options.loss);
  Value* one = constant_like(Val(*graph, loss.sum), 1).value();
  std::vector<Value*> parameters = states_named(*graph, trainable);
  if (parameters.empty()) throw UsageError("no trainable parameter reaches the loss: nothing to train");
  std::vector<Value*> gradients = differentiate(*graph, {loss.sum}, {one}, parameters);
  if (watch) watch("differentiate", *graph);
  add_output(*graph, loss.sum, "graft.loss_sum");
  add_output(*graph, loss.weight, "graft.weight_sum");
  add_output(*graph, prediction, "graft.prediction");
  graph->insert_before(nullptr);
  DType dtype = loss.sum->dtype;
  auto finish = [&](Graph& update, const std::vector<Value*>& updated, const std::vector<Value*>& sums, Value* weight) {
    update.set_provenance({"", Direction::optimiser});
    Value* lr = update.add_input("graft.lr", dtype, {});
    Normalisation normalisation = add_normalisation(update, weight, sums, options.clip_norm, dtype);
    add_optimiser(update, updated, sums, normalisation.scale, lr, options.optimiser);
    if (normalisation.norm) add_output(update, normalisation.norm, "graft.gradient_norm");
  };
  if (!options.accumulate) {
    finish(*graph, parameters, gradients, loss.weight);
    return graph;
  }
  add_accumulation(*graph, parameters, gradients, loss.sum, loss.weight);
  *apply = std::make_unique<Graph>();
  (*apply)->name = "apply";
  std::vector<bool> has_gradient;
  for (const Value* gradient : gradients) has_gradient.push_back(gradient != nullptr);
  std::vector<Value*> applied;
  Accumulators sums = add_accumulated(**apply, parameters, has_gradient, dtype, applied);
  add_output(**apply, sums.loss, "graft.loss_sum");
  add_output(**apply, sums.weight, "graft.weight_sum");
  finish(**apply, applied, sums.gradients, sums.weight);
  return graph;
}

std::shared_ptr<Program> Session::evaluation(const std::map<std::string, Dims>& dims, const LossOptions& loss,
                                             const std::string& output) {
  std::string key = key_of("evaluation " + key_of(loss) + ' ' + output, dims);
  if (auto known = cached(key)) return known;
  auto graph = specialised(dims, Mode::infer, {}, {});
  fold(*graph, trained_);
  Value* prediction = prediction_of(*graph, output, loss.type);
  graph->outputs.clear();
  Loss added = add_loss(*graph, prediction, loss);
  add_output(*graph, added.sum, "graft.loss_sum");
  add_output(*graph, added.weight, "graft.weight_sum");
  add_output(*graph, prediction, "graft.prediction");
  return compile(key, std::move(graph), leave_all, {});
}

TrainingPrograms Session::training(const std::map<std::string, Dims>& dims, const TrainingOptions& options) {
  trained_ = {options.trainable.begin(), options.trainable.end()};
  std::string configuration = key_of(options);
  std::string key = key_of("training " + configuration, dims);
  std::string apply_key = "apply " + configuration;
  TrainingPrograms programs{cached(key), options.accumulate ? cached(apply_key) : nullptr};
  if (programs.step && (programs.apply || !options.accumulate)) return programs;
  std::unique_ptr<Graph> apply;
  auto graph = training_graph(dims, options, &apply, {});
  bool settled = settled_.contains(configuration);
  auto memory = [&] {
    MemoryOptions asked = options.memory;
    // Programs of other shapes share what lies on the disk.
    const bool there = store_.on_disk().bytes > 0;
    if (there && asked.optimiser == OptimiserState::automatic) asked.optimiser = OptimiserState::disk;
    return asked;
  };
  auto fit = [&](Graph& step) {
    recomputed_ = fit_memory(step, memory());
    if (options.memory.limit > 0 && recomputed_.peak_after > options.memory.limit)
      refuse(dims, options, recomputed_.peak_after);
  };
  programs.step = compile(key, std::move(graph), settled ? leave_all : lays_out_step(options),
                          {.precision = precision_of(options), .fit = fit, .folder = options.memory.folder});
  settled_.insert(configuration);
  // Parameters and accumulators lie as the steps want them. It runs while the outputs of a step are still wanted.
  MayLayOut lays_out_apply = [](const State& state) { return state.in->kind == StateKind::moment; };
  auto fit_apply = [&](Graph& update) { fit_beside(update, memory(), programs.step->plan().peak_bytes()); };
  if (options.accumulate && (!programs.apply || programs.apply->stale()))
    programs.apply = compile(apply_key, std::move(apply), lays_out_apply,
                             {.shares_arena = false, .fit = fit_apply, .folder = options.memory.folder});
  return programs;
}

Trainability Session::trainability(const std::map<std::string, Dims>& dims, const TrainingOptions& options) {
  Trainability found;
  auto passes = [&](const auto& pass) {
    try {
      pass();
      return true;
    } catch (const UnsupportedError& error) {
      if (error.blockers().empty()) add_blocker(found.blockers, {"", "", error.what()});
      for (const Blocker& blocker : error.blockers()) add_blocker(found.blockers, blocker);
      return false;
    }
  };
  std::set<std::string> trainable(options.trainable.begin(), options.trainable.end());
  std::unique_ptr<Graph> graph = graph_->clone();
  bool shaped = passes([&] {
    set_mode(*graph, true, trainable);
    specialise(*graph, dims, evaluator());
  });
  if (!shaped) return found;
  passes([&] { decompose(*graph, expand_, evaluator()); });  // what it cannot expand stays as it is
  passes([&] {
    recognise(*graph, options_.disabled);
    graph->prune();
    Val prediction(*graph, prediction_of(*graph, options.output, options.loss.type));
    if (!is_float(prediction.dtype())) throw UnsupportedError("the model's output to train on is ", prediction.dtype());
    Value* seed = graph->add_input("graft.cotangent", prediction.dtype(), prediction.dims());
    std::vector<Value*> parameters = states_named(*graph, trainable);
    std::vector<Value*> gradients = differentiate(*graph, {prediction.value()}, {seed}, parameters);
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (gradients[i]) trainable.erase(parameters[i]->name);
    }
    found.without_gradient.assign(trainable.begin(), trainable.end());
  });
  return found;
}

PlannedStep Session::plan_training(const std::map<std::string, Dims>& dims, const TrainingOptions& options) {
  std::unique_ptr<Graph> apply;
  auto graph = training_graph(dims, options, &apply, {});
  finish(*graph, lays_out_step(options), {}, precision_of(options));
  Recomputed found = fit_memory(*graph, options.memory);
  require_memory(found.peak_after);
  graph->sort();
  StepCost cost{found.peak_after, found.flops + found.more_flops};
  for (const auto& state : graph->states) {
    if (state.in->on_disk) cost.disk_bytes = checked_add(cost.disk_bytes, byte_count(state.in->dtype, state.in->dims));
  }
  return {std::move(graph), cost};
}

StepCost Session::training_cost(const std::map<std::string, Dims>& dims, const TrainingOptions& options) {
  return plan_training(dims, options).cost;
}

std::string Session::text_after(const std::string& pass, const std::map<std::string, Dims>& dims,
                                const TrainingOptions* options) {
  const std::vector<std::string> passes = {"lift",          "classify", "specialise",    "decompose", "recognise",
                                           "differentiate", "fuse",     "mix_precision", "lay_out"};
  if (std::find(passes.begin(), passes.end(), pass) == passes.end()) {
    std::string allowed;
    for (const auto& name : passes) allowed += (allowed.empty() ? "" : ", ") + name;
    throw UsageError("no pass \"", pass, "\"; allowed: ", allowed);
  }
  if (pass == "lift") return to_text(*graph_);
  std::string text;
  Watch watch = [&](const std::string& name, const Graph& graph) {
    if (name == pass) text = to_text(graph);
  };
  std::unique_ptr<Graph> apply;
  try {
    auto graph = options ? training_graph(dims, *options, &apply, watch) : specialised(dims, Mode::infer, {}, watch);
    if (!options) fold(*graph, trained_);
    if (text.empty())
      finish(*graph, options ? lays_out_step(*options) : leave_all, watch,
             options ? precision_of(*options) : Precision{});
  } catch (const Error&) {
    if (text.empty()) throw;  // what a later pass refuses was printed before
  }
  if (text.empty())
    throw UsageError("the pass \"", pass, "\" runs on training graphs",
                     pass == "mix_precision" ? " in bf16 only" : " only");
  return text;
}

}  // namespace graft
