// What a run needs to go on to the bit: all states, and where it stood.
#pragma once

#include <limits>
#include <map>
#include <string>

#include "runtime/store.h"

namespace graft {

struct TrainingProgress {
  int64_t epoch = 0;     // epochs finished
  int64_t position = 0;  // samples of the running epoch that are done, see Batch::position
  int64_t batch = 0;     // batches of the running epoch that are done
  int64_t step = 0;      // updates
  // Sums over the running epoch.
  double loss_sum = 0, loss_weight = 0;
  int64_t right = 0, counted = 0;
  // EarlyStopping's.
  double best = std::numeric_limits<double>::quiet_NaN();
  int64_t best_update = -1, updates = 0;
};

struct SavedState {
  StateKind kind = StateKind::parameter;
  Tensor value;  // in plain layout
};
using SavedStates = std::map<std::string, SavedState>;

struct Checkpoint {
  TrainingProgress progress;
  SavedStates states;  // by name: parameters, statistics, moments, counters
};

// Accumulators are zero between updates.
inline bool is_saved(StateKind kind) { return kind != StateKind::accumulator; }
// Copies of all states that are saved.
SavedStates take_states(const ParameterStore& store);
// Overwrites the model's states and adds those of the optimiser. DataError that names what does not fit: states of the
// model that are missing, of no model, or of other dtype or dims.
void put_states(ParameterStore& store, const SavedStates& states);

}  // namespace graft
