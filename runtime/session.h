// A model in use: its graph, its states, and Programs compiled for the input shapes that occur.
// Sessions are independent of each other; one session is used by one thread at a time.
//
// A session keeps the Programs that were asked for last, as many as SessionOptions::programs, and compiles those of
// other shapes again when asked. Who asks shares the Program: it stays whole as long as he holds it, while the session
// lives. Programs of one session work in the same memory: outputs are there until another one runs.
#pragma once

#include <set>

#include "graph/passes/passes.h"
#include "runtime/autotune.h"
#include "runtime/memory_limit.h"
#include "runtime/program.h"
#include "runtime/training/loss.h"
#include "runtime/training/optimiser.h"

namespace graft {

enum class Mode : uint8_t { infer, train };

struct SessionOptions {
  bool double_precision = false;  // float becomes double everywhere: for gradient checks
  // Patterns and fusions to leave alone, as fusions_named takes them. Those that the environment variable GRAFT_DISABLE
  // names are left alone too.
  std::set<std::string> disabled;
  uint64_t seed = 0;  // of dropout
  // Programs kept at a time, at least 2. 32 are all lengths up to 512 that LengthBuckets knows, in training and in
  // evaluation, with the smaller last batches.
  int64_t programs = 32;
  // Kernels of all Programs are chosen by measuring what the cache does not know. Nothing: by sizes and layouts alone.
  std::optional<AutotuneOptions> autotune;
};

// Of a session, from its beginning.
struct ProgramCounts {
  int64_t kept = 0;  // now
  int64_t compiled = 0;
  int64_t evicted = 0;  // to make room; stale ones are not counted
};

struct TrainingOptions {
  std::string output;  // the value to train on; "": the first graph output, or its logits
  LossOptions loss;
  OptimiserOptions optimiser;
  std::vector<std::string> trainable;  // parameter names, see Session::match
  bool batchnorm_live = true;          // statistics of trainable BatchNormalization nodes follow the data
  double clip_norm = 0;                // 0: off
  bool accumulate = false;             // gradients go into accumulators; apply() uses them
  // bf16: mixed precision. What lies between operators and the copies of weights that they read are bfloat16; weights,
  // their gradients, sums, statistics and the loss stay float32.
  DType dtype = DType::f32;
  // bf16: what backward reads of forward is kept as bfloat16, see narrow_saved.
  DType saved = DType::f32;
  // Of the step; with accumulation the other Program comes on top.
  MemoryOptions memory;
};

// The Programs of one training configuration at one shape.
// Without accumulation `step` does all. With it `step` adds loss and gradients to accumulators and `apply` clips and
// updates; both share their states through the store.
struct TrainingPrograms {
  std::shared_ptr<Program> step;
  std::shared_ptr<Program> apply;
  // Names in `step`: slots "graft.labels", "graft.lr" (of the Program that updates), outputs "graft.loss_sum",
  // "graft.weight_sum", "graft.prediction".
};

// Whether training can work, found without computing anything.
struct Trainability {
  std::vector<Blocker> blockers;              // every node that stands in the way
  std::vector<std::string> without_gradient;  // parameters to be trained on which the output does not depend
};

// What one step takes with what it computes again: the peak of the memory plan, the arithmetic (see graph/flops.h), and
// the optimiser's state that lies on the disk.
struct StepCost {
  int64_t peak_bytes = 0;
  double flops = 0;
  int64_t disk_bytes = 0;
};

// A training step as its Program would be.
struct PlannedStep {
  std::unique_ptr<Graph> graph;
  StepCost cost;
};

// Dims of samples as those of a batch of them, by name.
std::map<std::string, Dims> with_batch(std::map<std::string, Dims> samples, int64_t batch);

// What the frozen part of a training configuration gives to the rest: the same for a sample in every epoch.
struct FrozenPart {
  struct Feature {
    std::string name;
    DType dtype = DType::undefined;
    Dims dims;  // of a sample, without the batch
    int64_t bytes() const { return byte_count(dtype, dims); }
  };
  std::vector<Feature> features;  // inputs of the model that the rest reads too among them
  int64_t bytes() const;          // of a sample
};

class Session {
 public:
  // `graph` as importers/onnx gives it. Classifies parameters and moves them into the store. UsageError for options out
  // of range.
  Session(std::unique_ptr<Graph> graph, Expander expand, SessionOptions options = {});
  ~Session();

  ParameterStore& store() { return store_; }
  const ParameterStore& store() const { return store_; }
  const Graph& graph() const { return *graph_; }  // before specialisation; parameters are states

  // Names of trainable parameters: float states of kind parameter.
  std::vector<std::string> parameters() const;
  // Parameters matched by `train` globs (all when empty) less those matched by `freeze` globs.
  // UsageError with the nearest names for a glob that matches nothing.
  std::vector<std::string> match(const std::vector<std::string>& train, const std::vector<std::string>& freeze) const;

  // The forward pass at these input dims.
  std::shared_ptr<Program> forward(const std::map<std::string, Dims>& dims, Mode mode);
  // Forward, and gradients of sum(cotangents * outputs): inputs "cotangent:OUTPUT" for each float graph output, outputs
  // "grad:NAME" for each float input and parameter (zeros where no gradient flows).
  std::shared_ptr<Program> vjp(const std::map<std::string, Dims>& dims, Mode mode);
  // Forward in inference mode, and a loss on `output` ("": as in training): input "graft.labels" and outputs as those
  // of TrainingPrograms::step.
  std::shared_ptr<Program> evaluation(const std::map<std::string, Dims>& dims, const LossOptions& loss,
                                      const std::string& output);
  // The first shape of a configuration settles the layouts of parameters; Programs of others take them as they lie.
  // UsageError where a step does not fit the limit of memory, with the least that it takes and the largest batch that
  // fits.
  TrainingPrograms training(const std::map<std::string, Dims>& dims, const TrainingOptions& options);

  // Splits training where its frozen part ends, for inputs of these dims, the batch first. From then on training() and
  // evaluation() with the output of `options` take dims of the features in place of those of the inputs: then they
  // compute the rest alone. UsageError where nothing can be split off. Gives up all Programs.
  const FrozenPart& split(const std::map<std::string, Dims>& dims, const TrainingOptions& options);
  // Computes the features that are no inputs of the model, its outputs, from inputs of these dims, in inference mode:
  // what is frozen knows no other.
  std::shared_ptr<Program> frozen(const std::map<std::string, Dims>& dims);

  ProgramCounts program_counts() const;
  // Of the last training Program that was compiled in mixed precision.
  const MixedNodes& mixed_nodes() const { return mixed_nodes_; }
  // Of the training Program that was compiled last.
  const NarrowedValues& narrowed() const { return narrowed_; }
  // Of the last training Program that was compiled.
  const Recomputed& recomputed() const { return recomputed_; }
  // Gives up all Programs, for what comes next to have their memory.
  void forget_programs();

  // Looks for what training on `output` ("": the first) runs into, without stopping at the first pass that refuses.
  Trainability trainability(const std::map<std::string, Dims>& dims, const TrainingOptions& options);
  // Plans a training step without taking its memory. DeviceError with the bytes wanted where they do not fit.
  PlannedStep plan_training(const std::map<std::string, Dims>& dims, const TrainingOptions& options);
  StepCost training_cost(const std::map<std::string, Dims>& dims, const TrainingOptions& options);

  // The graph after a pass, for `inspect --after`: "lift", "classify", "specialise", "decompose", "recognise",
  // "differentiate", "fuse", "lay_out". A cross-entropy training graph when `training` is given.
  std::string text_after(const std::string& pass, const std::map<std::string, Dims>& dims,
                         const TrainingOptions* training);

 private:
  using Watch = std::function<void(const std::string& pass, const Graph& graph)>;
  std::unique_ptr<Graph> specialised(const std::map<std::string, Dims>& dims, Mode mode,
                                     const std::set<std::string>& live, const Watch& watch);
  std::unique_ptr<Graph> training_graph(const std::map<std::string, Dims>& dims, const TrainingOptions& options,
                                        std::unique_ptr<Graph>* apply, const Watch& watch);
  // Folds normalisations where that is not switched off, all but those of `trained` parameters.
  void fold(Graph& graph, const std::set<std::string>& trained) const;
  // The passes behind differentiation, up to final layouts. A state in the store that still lies plain may be laid
  // otherwise where `may_lay_out` says so; Programs that read it are compiled again.
  using MayLayOut = std::function<bool(const State&)>;
  struct Precision {
    DType dtype = DType::f32, saved = DType::f32;
  };
  static Precision precision_of(const TrainingOptions& options) { return {options.dtype, options.saved}; }
  void finish(Graph& graph, const MayLayOut& may_lay_out, const Watch& watch, const Precision& precision);
  struct CompileOptions {
    Precision precision = {};
    bool shares_arena = true;
    std::function<void(Graph&)> fit = {};  // runs last, on the graph of the Program
    std::string folder = {};               // for states that go to the disk
  };
  std::shared_ptr<Program> compile(const std::string& key, std::unique_ptr<Graph> graph, const MayLayOut& may_lay_out,
                                   const CompileOptions& options);
  // Brings the states to the layouts and the places that the graph has for them.
  void place_states(const Graph& graph, const std::string& folder);
  [[noreturn]] void refuse(const std::map<std::string, Dims>& dims, const TrainingOptions& options, int64_t least);
  std::set<std::string> all_parameters() const;
  // What the loss is computed on: a last activation that belongs to the loss is left out.
  static Value* prediction_of(const Graph& graph, const std::string& name, LossType loss);
  bool names_features(const std::map<std::string, Dims>& dims) const;
  std::map<std::string, Dims> input_dims(const std::map<std::string, Dims>& features) const;
  void keep_rest(Graph& graph) const;
  std::unique_ptr<Graph> frozen_graph(const std::map<std::string, Dims>& dims);
  std::shared_ptr<Program> cached(const std::string& key);
  void make_room();

  std::unique_ptr<Graph> graph_;
  Expander expand_;
  SessionOptions options_;
  ParameterStore store_;
  struct Cached {
    std::shared_ptr<Program> program;
    int64_t asked = 0;  // when last, as asked_ counts
  };
  std::map<std::string, Cached> programs_;
  int64_t asked_ = 0;
  ProgramCounts counts_;
  MixedNodes mixed_nodes_;
  NarrowedValues narrowed_;
  Recomputed recomputed_;
  // Parameters of the training configuration that was asked for last. Programs that only read do not fold them either:
  // they would have to do so whenever they run.
  std::set<std::string> trained_;
  struct SplitModel {
    FrozenPart frozen;
    std::string output;                  // that the rest leads to
    std::map<std::string, Dims> inputs;  // of a sample
    // How features lie where the frozen part ends, in a batch of any size: the rest takes them so, and chooses what it
    // would choose behind that part.
    std::map<std::string, Layout> layouts;
  };
  std::optional<SplitModel> split_;
  std::set<std::string> settled_;  // training configurations that have chosen the layouts of their parameters
  std::shared_ptr<Arena> arena_;   // the largest so far
  std::optional<Autotuner> autotuner_;
};

}  // namespace graft
