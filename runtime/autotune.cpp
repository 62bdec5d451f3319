#include "runtime/autotune.h"

#include <algorithm>
#include <limits>

#include "ops/op.h"
#include "runtime/clock.h"
#include "runtime/device/cpu/system.h"
#include "runtime/evaluate.h"
#include "runtime/synthetic_inputs.h"

namespace graft {
namespace {

// Large enough for parallel_for to use every thread.
constexpr int64_t much_work = int64_t{1} << 30;

using Bytes = std::shared_ptr<std::byte[]>;

// A choice that gains less may be noise, and another kernel rounds otherwise.
constexpr double worth_it = 0.97;

// Takes what a core has in its own caches away from it. The last cache keeps what it kept.
class ColdCaches {
 public:
  ColdCaches() : piece_(std::clamp<int64_t>(2 * second_level_cache_bytes(), 1 << 20, 16 << 20)) {
    bytes_ = allocate_bytes(piece_ * thread_count(), true);
    sums_.resize(static_cast<size_t>(thread_count()) * line);
  }

  void operator()() {
    parallel_for(thread_count(), much_work, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const auto* from = bytes_.get() + t * piece_;
        int64_t sum = 0;
        for (int64_t i = 0; i < piece_; i += line) sum += static_cast<int64_t>(from[i]);
        sums_[static_cast<size_t>(t * line)] = sum;  // read, whatever the compiler thinks of it
      }
    });
  }

 private:
  static constexpr int64_t line = 64;
  int64_t piece_;
  Bytes bytes_;
  std::vector<int64_t> sums_;
};

// Numbers from N(0, 1), over and over: zeros and numbers too small to be normal would tell another time.
Bytes random_storage(const Value& value) {
  constexpr int64_t period = 4093;  // a prime: rows are not alike
  const int64_t size = static_cast<int64_t>(size_of(value.dtype));
  const int64_t bytes = checked_mul(value.layout.storage_count(), size);
  Bytes storage = allocate_bytes(bytes, false);
  const Tensor pattern = random_normal(value.dtype, {period}, "autotune", 0);
  for (int64_t at = 0; at < bytes; at += period * size)
    std::memcpy(storage.get() + at, pattern.raw(), static_cast<size_t>(std::min(period * size, bytes - at)));
  return storage;
}

// One node alone: operands, results, and its kernels bound to them.
class Measurement {
 public:
  explicit Measurement(Node& node) : node_(node) {
    for (const Value* input : node.inputs) {
      storage_.push_back(input ? random_storage(*input) : nullptr);
      binding_.inputs.push_back(storage_.back().get());
    }
    for (const Value* output : node.outputs) {
      storage_.push_back(output ? random_storage(*output) : nullptr);
      binding_.outputs.push_back(storage_.back().get());
    }
  }
  ~Measurement() { node_.kernel.clear(); }
  Measurement(const Measurement&) = delete;
  Measurement& operator=(const Measurement&) = delete;

  std::map<std::string, double> time(const std::vector<std::string>& names, double budget) {
    prepare(names);
    constexpr int least = 5, most = 40;
    constexpr double far = 5, near = 1.5;  // times the fastest; one of the first runs may have been held up
    for (auto& [name, kernel] : kernels_) (*kernel)(*stream_);  // what comes with the first run does not count
    const double begin = seconds_now();
    std::map<std::string, double> fastest;
    double best = std::numeric_limits<double>::infinity();
    for (int round = 0; round < least || (round < most && seconds_now() - begin < budget); ++round) {
      for (auto& [name, kernel] : kernels_) {
        auto [known, fresh] = fastest.emplace(name, std::numeric_limits<double>::infinity());
        if (!fresh && known->second > (round < least ? far : near) * best) continue;
        cold_();
        const double start = seconds_now();
        (*kernel)(*stream_);
        stream_->synchronize();
        known->second = std::min(known->second, seconds_now() - start);
        best = std::min(best, known->second);
      }
    }
    return fastest;
  }

 private:
  // They run one after the other and share their scratch.
  void prepare(const std::vector<std::string>& names) {
    const KernelFunctions& functions = *find_kernel(node_);
    int64_t scratch = 0;
    for (const std::string& name : names) {
      node_.kernel = name;
      settlements_.push_back(functions.settle(node_, nullptr));
      scratch = std::max(scratch, settlements_.back().scratch_bytes);
    }
    storage_.push_back(allocate_bytes(scratch, false));
    binding_.scratch = storage_.back().get();
    for (size_t i = 0; i < names.size(); ++i) {
      node_.kernel = names[i];
      binding_.settlement = &settlements_[i];
      kernels_.emplace_back(names[i], std::make_unique<Kernel>(prepare_kernel(node_, binding_)));
    }
  }

  Node& node_;
  std::vector<Bytes> storage_;
  Binding binding_;
  std::vector<Settlement> settlements_;
  std::vector<std::pair<std::string, std::unique_ptr<Kernel>>> kernels_;
  std::unique_ptr<Stream> stream_ = make_stream(Device::cpu);
  ColdCaches cold_;
};

std::string text_of(const Value* value) {
  return value ? cat(' ', value->dtype, value->dims, value->layout, value->layout.padded) : " -";
}

// Everything that the kernels of a node depend on; "" where an attribute is more than a few numbers.
std::string case_of(const Node& node) {
  std::ostringstream out;
  out.precision(17);
  out << node.domain << (node.domain.empty() ? "" : ".") << node.type;
  bool simple = true;
  for (const auto& [name, attribute] : node.attributes) {
    out << ' ' << name << '=';
    std::visit(
        [&]<class T>(const T& value) {
          if constexpr (std::is_same_v<T, std::vector<int64_t>> || std::is_same_v<T, std::vector<double>>) {
            for (auto item : value) out << item << ',';
          } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
            out << value;
          } else {
            simple = false;
          }
        },
        attribute);
  }
  for (const Value* input : node.inputs) out << text_of(input);
  out << " ->";
  for (const Value* output : node.outputs) out << text_of(output);
  return simple && KernelCache::takes(out.str()) ? out.str() : "";
}

struct Case {
  std::vector<std::string> kernels;
  std::vector<Node*> nodes;
};

std::map<std::string, Case> cases_of(const Graph& graph) {
  std::map<std::string, Case> cases;
  for (const auto& node : graph.nodes()) {
    const KernelFunctions* functions = find_kernel(*node);
    if (node->stage != Stage::step || !functions || !functions->choices) continue;
    std::string name = case_of(*node);
    if (name.empty()) continue;
    auto known = cases.find(name);
    if (known == cases.end()) {
      std::vector<std::string> kernels = functions->choices(*node);
      known = cases.emplace(name, Case{std::move(kernels), {}}).first;
    }
    known->second.nodes.push_back(node.get());
  }
  std::erase_if(cases, [](const auto& entry) { return entry.second.kernels.size() < 2; });
  return cases;
}

// Of what was measured: the usual kernel, the first, unless another is worth it.
std::string choose(const std::vector<std::string>& kernels, const std::map<std::string, double>& seconds) {
  const auto* best = &kernels[0];
  for (const std::string& name : kernels) {
    if (seconds.at(name) < seconds.at(*best)) best = &name;
  }
  return seconds.at(*best) < worth_it * seconds.at(kernels[0]) ? *best : kernels[0];
}

// Whether a file knows the kernels that the operator lists here.
bool answers(const ChosenKernel* chosen, const Case& wanted) {
  return chosen && chosen->seconds.size() == wanted.kernels.size() &&
         std::all_of(wanted.kernels.begin(), wanted.kernels.end(),
                     [&](const auto& name) { return chosen->seconds.contains(name); });
}

}  // namespace

std::map<std::string, double> time_kernels(Node& node, const std::vector<std::string>& kernels, double seconds) {
  return Measurement(node).time(kernels, seconds);
}

Autotuner::Autotuner(AutotuneOptions options) : options_(std::move(options)) {
  if (!options_.warn) options_.warn = [](const std::string&) {};
}

void Autotuner::tune(Graph& graph) {
  if (!cache_ || threads_ != thread_count()) cache_.emplace(options_.folder, options_.warn);
  threads_ = thread_count();
  const double begin = seconds_now();
  std::map<std::string, Case> cases = cases_of(graph);
  std::vector<std::string> missing;
  for (const auto& [name, wanted] : cases) {
    if (!answers(cache_->find(name), wanted)) missing.push_back(name);
  }
  AutotuneReport report{.cases = static_cast<int64_t>(cases.size()), .measured = static_cast<int64_t>(missing.size())};
  std::map<std::string, ChosenKernel> measured;
  for (const std::string& name : missing) {
    if (options_.on_case) options_.on_case(static_cast<int64_t>(measured.size()), report.measured);
    const Case& wanted = cases.at(name);
    auto seconds = time_kernels(*wanted.nodes[0], wanted.kernels, options_.seconds_per_case);
    measured[name] = {choose(wanted.kernels, seconds), seconds};
  }
  if (!missing.empty()) {
    if (options_.on_case) options_.on_case(report.measured, report.measured);
    cache_->add(measured);
  }
  report.seconds = seconds_now() - begin;
  for (const auto& [name, wanted] : cases) {
    const ChosenKernel& chosen = *cache_->find(name);
    const auto count = static_cast<double>(wanted.nodes.size());
    const bool changes = chosen.kernel != wanted.kernels[0];
    report.nodes += static_cast<int64_t>(wanted.nodes.size());
    report.usual_seconds += count * chosen.seconds.at(wanted.kernels[0]);
    report.chosen_seconds += count * chosen.seconds.at(chosen.kernel);
    if (!changes) continue;
    report.changed += static_cast<int64_t>(wanted.nodes.size());
    for (Node* node : wanted.nodes) node->kernel = chosen.kernel;
  }
  if (options_.on_end) options_.on_end(report);
}

}  // namespace graft
