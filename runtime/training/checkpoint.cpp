#include "runtime/training/checkpoint.h"

namespace graft {
namespace {

bool is_of_model(StateKind kind) { return kind == StateKind::parameter || kind == StateKind::statistic; }

}  // namespace

SavedStates take_states(const ParameterStore& store) {
  SavedStates states;
  for (const auto& [name, entry] : store.entries()) {
    if (is_saved(entry.kind)) states[name] = {entry.kind, store.read(name)};
  }
  return states;
}

void put_states(ParameterStore& store, const SavedStates& states) {
  for (const auto& [name, entry] : store.entries()) {
    auto saved = states.find(name);
    if (is_of_model(entry.kind) && saved == states.end())
      throw DataError("the checkpoint lacks \"", name, "\": it is of another model");
    if (saved == states.end()) continue;
    const Tensor& value = saved->second.value;
    if (value.dtype() != entry.dtype || value.dims() != entry.dims) {
      throw DataError("the checkpoint has \"", name, "\" as ", value.dtype(), value.dims(), ", the model as ",
                      entry.dtype, entry.dims);
    }
  }
  for (const auto& [name, saved] : states) {
    if (is_of_model(saved.kind) && !store.has(name))
      throw DataError("the checkpoint has \"", name, "\", the model does not: it is of another model");
  }
  for (const auto& [name, saved] : states) {
    if (store.has(name)) store.write(name, saved.value);
    else store.add(name, saved.kind, saved.value);
  }
}

}  // namespace graft
