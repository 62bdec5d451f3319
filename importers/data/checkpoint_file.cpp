#include "importers/data/checkpoint_file.h"

#include <array>

#include "importers/data/npz.h"

namespace graft {
namespace {

constexpr int64_t format = 1;
constexpr std::string_view state_prefix = "state/";

struct KindName {
  StateKind kind;
  std::string_view name;
};
constexpr std::array kind_names{KindName{StateKind::parameter, "parameter"},
                                KindName{StateKind::statistic, "statistic"}, KindName{StateKind::moment, "moment"},
                                KindName{StateKind::counter, "counter"}};

std::string_view name_of(StateKind kind) {
  for (const auto& known : kind_names) {
    if (known.kind == kind) return known.name;
  }
  throw UsageError("this kind of state is not kept in checkpoints");
}

// Calls f(name, field) for every field of the progress.
template <class P, class F>
void visit_progress(P& progress, F f) {
  f("epoch", progress.epoch);
  f("position", progress.position);
  f("batch", progress.batch);
  f("step", progress.step);
  f("loss_sum", progress.loss_sum);
  f("loss_weight", progress.loss_weight);
  f("right", progress.right);
  f("counted", progress.counted);
  f("best", progress.best);
  f("best_update", progress.best_update);
  f("updates", progress.updates);
}

using Arrays = std::map<std::string, Tensor>;

Tensor take(const std::string& path, Arrays& arrays, const std::string& name, DType dtype, bool scalar) {
  auto found = arrays.extract(name);
  if (!found) throw DataError("\"", path, "\" is no checkpoint: it has no array \"", name, '"');
  const Tensor& value = found.mapped();
  bool fits = value.dtype() == dtype && (!scalar || value.count() == 1);
  if (!fits)
    throw DataError("\"", path, "\": array \"", name, "\" is ", value.dtype(), value.dims(), ", wanted is ", dtype);
  return value;
}

}  // namespace

void write_checkpoint(const std::string& path, const TrainingProgress& progress, const ParameterStore& store,
                      const std::string& config) {
  NpzWriter writer(path);
  writer.add("format", Tensor::scalar(format));
  Tensor text(DType::u8, {static_cast<int64_t>(config.size())});
  std::copy(config.begin(), config.end(), text.data<uint8_t>());
  writer.add("config", text);
  visit_progress(progress,
                 [&](const char* name, auto value) { writer.add(cat("progress/", name), Tensor::scalar(value)); });
  for (const auto& [name, entry] : store.entries()) {
    if (is_saved(entry.kind)) writer.add(cat(state_prefix, name_of(entry.kind), '/', name), store.read(name));
  }
  writer.commit();
}

SavedRun read_checkpoint(const std::string& path) {
  Arrays arrays = read_npz(path);
  int64_t version = take(path, arrays, "format", DType::i64, true).data<int64_t>()[0];
  if (version != format) throw DataError("\"", path, "\" is a checkpoint of format ", version, ", this is ", format);
  SavedRun run;
  Tensor text = take(path, arrays, "config", DType::u8, false);
  run.config.assign(text.data<uint8_t>(), text.data<uint8_t>() + text.count());
  visit_progress(run.checkpoint.progress, [&](const char* name, auto& value) {
    using Type = std::remove_reference_t<decltype(value)>;
    value = take(path, arrays, cat("progress/", name), dtype_of<Type>(), true).template data<Type>()[0];
  });
  for (auto& [name, value] : arrays) {
    std::string_view rest = name;
    auto known = kind_names.end();
    if (rest.starts_with(state_prefix)) {
      rest.remove_prefix(state_prefix.size());
      known = std::find_if(kind_names.begin(), kind_names.end(),
                           [&](const KindName& kind) { return rest.starts_with(cat(kind.name, '/')); });
    }
    if (known == kind_names.end()) throw DataError("\"", path, "\": array \"", name, "\" belongs to no checkpoint");
    rest.remove_prefix(known->name.size() + 1);
    run.checkpoint.states[std::string(rest)] = {known->kind, std::move(value)};
  }
  return run;
}

}  // namespace graft
