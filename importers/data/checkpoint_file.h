// Checkpoints on disk: an .npz file, so that NumPy can look into it.
//
//   format                 1
//   config                 bytes of the text that the run was configured with
//   progress/NAME          scalars of TrainingProgress
//   state/KIND/NAME        states in plain layout; KIND is parameter, statistic, moment or counter
#pragma once

#include <string>

#include "runtime/training/checkpoint.h"

namespace graft {

// All states of the store that take_states takes, copied one at a time. Appears under its name when it is whole and on
// the disk; what stood there before stays until then.
void write_checkpoint(const std::string& path, const TrainingProgress& progress, const ParameterStore& store,
                      const std::string& config);

struct SavedRun {
  Checkpoint checkpoint;
  std::string config;
};
// DataError for what is no checkpoint or was damaged: every array carries a checksum.
SavedRun read_checkpoint(const std::string& path);

}  // namespace graft
