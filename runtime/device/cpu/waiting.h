// How the threads of a kernel wait for each other.
#pragma once

namespace graft {

// GNU OpenMP lets a thread that waits spin for some milliseconds. On a machine that runs anything else as well the
// thread waited for may need just that core: steps then take several times as long. Its spinning is settled when the
// program is loaded, so this starts the program again with a limit of some microseconds; it returns where that was
// done, where the user has settled it (OMP_WAIT_POLICY, GOMP_SPINCOUNT), or where it cannot be done. Call it first in
// main.
void limit_busy_waiting(char** arguments);

}  // namespace graft
